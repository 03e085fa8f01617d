"""Samples in the LLaVA format, seen by two tokenizers: checks at the door, spans, order, batches, index
plans.

Refuses to continue with a sample that is not whole. Start with `types`, then `processor` and `index`.
"""

from genrecal_mcore.data.answer_rows import AnswerRows, replaced_answer_rows
from genrecal_mcore.data.index import (
    SampleIndex,
    SkippedSample,
    build_index,
    count_reasons,
    draw_samples,
    first_samples,
    write_skipped,
)
from genrecal_mcore.data.label_rows import ComparedRows, compared_rows, label_positions
from genrecal_mcore.data.llava import BrokenSample
from genrecal_mcore.data.loader import UnitLoader, UnitSamples, View, start_worker_server, unit_samples
from genrecal_mcore.data.order import (
    BatchShape,
    OnceOrder,
    SampleOrder,
    StepOrder,
    num_microbatches,
    samples_of_unit,
    units_of_step,
)
from genrecal_mcore.data.pair import check_shared_tokens, check_vocabularies
from genrecal_mcore.data.payload import num_sample_rows, payload_rows, sample_rows, wanted_among_held
from genrecal_mcore.data.processor import ModelProcessor, load_processor
from genrecal_mcore.data.recalibrator_layout import (
    Ends,
    RecalibratorLayout,
    student_path_layout,
    teacher_path_layout,
    with_shares_apart,
)
from genrecal_mcore.data.sample_keys import sample_keys
from genrecal_mcore.data.show import batch_shape, load_processors, sample_order, show_step
from genrecal_mcore.data.types import AnswerSpan, Microbatch, RenderedSample, Sample, Turn, VisionInputs

__all__ = [
    "AnswerRows",
    "AnswerSpan",
    "BatchShape",
    "BrokenSample",
    "ComparedRows",
    "Ends",
    "Microbatch",
    "ModelProcessor",
    "OnceOrder",
    "RecalibratorLayout",
    "RenderedSample",
    "Sample",
    "SampleIndex",
    "SampleOrder",
    "SkippedSample",
    "StepOrder",
    "Turn",
    "UnitLoader",
    "UnitSamples",
    "View",
    "VisionInputs",
    "batch_shape",
    "build_index",
    "count_reasons",
    "check_shared_tokens",
    "check_vocabularies",
    "compared_rows",
    "draw_samples",
    "first_samples",
    "label_positions",
    "load_processor",
    "load_processors",
    "num_microbatches",
    "num_sample_rows",
    "payload_rows",
    "replaced_answer_rows",
    "sample_keys",
    "sample_order",
    "sample_rows",
    "samples_of_unit",
    "show_step",
    "start_worker_server",
    "student_path_layout",
    "teacher_path_layout",
    "unit_samples",
    "units_of_step",
    "wanted_among_held",
    "with_shares_apart",
    "write_skipped",
]
