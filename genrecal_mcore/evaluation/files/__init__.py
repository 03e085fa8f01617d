"""Benchmark files, whatever their format, as questions; nothing of a file is held but its text.

Start with `read_questions`, then `tsv_questions`.
"""

from genrecal_mcore.evaluation.files.named import BenchmarkFile, read_questions
from genrecal_mcore.evaluation.files.reading import Reading

__all__ = ["BenchmarkFile", "Reading", "read_questions"]
