"""Conversations about images, seen by two tokenizers: sources, checks at the door, index, order, batches.

Refuses to continue with a sample that is not whole. Start with `types`, then `processor`, `sources`, `index`.
"""

from genrecal_mcore.data.answer_rows import AnswerRows, replaced_answer_rows
from genrecal_mcore.data.describe import SOURCES_HEADER, SourceSummary, describe_sources
from genrecal_mcore.data.images import ImageFile
from genrecal_mcore.data.index import (
    Builders,
    SampleIndex,
    SkippedSample,
    build_index,
    count_reasons,
    draw_samples,
    first_samples,
    prepare_index,
)
from genrecal_mcore.data.label_rows import ComparedRows, compared_rows, label_positions
from genrecal_mcore.data.loader import UnitLoader, UnitSamples, View, start_worker_server, unit_samples
from genrecal_mcore.data.of_run import (
    batch_shape,
    index_folder,
    index_of_run,
    load_processors,
    sample_order,
    source_shares,
)
from genrecal_mcore.data.order import (
    BatchShape,
    OnceOrder,
    SampleOrder,
    StepOrder,
    num_microbatches,
    samples_of_unit,
    units_of_step,
)
from genrecal_mcore.data.pair import check_index_shares_tokens, check_shared_tokens, check_vocabularies
from genrecal_mcore.data.payload import num_sample_rows, payload_rows, sample_rows, wanted_among_held
from genrecal_mcore.data.processor import ModelProcessor, load_processor
from genrecal_mcore.data.ranks import Ranks
from genrecal_mcore.data.recalibrator_layout import (
    Ends,
    RecalibratorLayout,
    student_path_layout,
    teacher_path_layout,
    with_shares_apart,
)
from genrecal_mcore.data.sample_keys import sample_keys
from genrecal_mcore.data.show import show_step
from genrecal_mcore.data.sources import is_here
from genrecal_mcore.data.types import (
    AnswerSpan,
    BrokenSample,
    Microbatch,
    RenderedSample,
    Sample,
    SampleImage,
    Turn,
    VisionInputs,
)

__all__ = [
    "AnswerRows",
    "AnswerSpan",
    "BatchShape",
    "BrokenSample",
    "ComparedRows",
    "Ends",
    "Builders",
    "SOURCES_HEADER",
    "ImageFile",
    "Microbatch",
    "ModelProcessor",
    "Ranks",
    "OnceOrder",
    "RecalibratorLayout",
    "RenderedSample",
    "Sample",
    "SampleImage",
    "SampleIndex",
    "SampleOrder",
    "SkippedSample",
    "SourceSummary",
    "StepOrder",
    "Turn",
    "UnitLoader",
    "UnitSamples",
    "View",
    "VisionInputs",
    "batch_shape",
    "build_index",
    "count_reasons",
    "check_index_shares_tokens",
    "check_shared_tokens",
    "check_vocabularies",
    "compared_rows",
    "draw_samples",
    "first_samples",
    "label_positions",
    "describe_sources",
    "index_folder",
    "index_of_run",
    "is_here",
    "load_processor",
    "load_processors",
    "prepare_index",
    "num_microbatches",
    "num_sample_rows",
    "payload_rows",
    "replaced_answer_rows",
    "sample_keys",
    "sample_order",
    "sample_rows",
    "samples_of_unit",
    "show_step",
    "source_shares",
    "start_worker_server",
    "student_path_layout",
    "teacher_path_layout",
    "unit_samples",
    "units_of_step",
    "wanted_among_held",
    "with_shares_apart",
]
