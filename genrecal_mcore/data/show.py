"""Shows in text what a step feeds to both models: sample ids and renderings with the answers marked."""

import re
from collections.abc import Iterator

from genrecal_mcore.config import RunConfig, load_teacher_manifest
from genrecal_mcore.data.index import SampleIndex, build_index
from genrecal_mcore.data.order import BatchShape, SampleOrder, num_microbatches, samples_of_unit
from genrecal_mcore.data.processor import ModelProcessor, load_processor


def load_processors(config: RunConfig) -> dict[str, ModelProcessor | None]:
    """Load the processors of `student` and, where there is one, `teacher`."""
    teacher, finds = None, config.recalibrator.student_answers
    if config.teacher is not None:
        family = load_teacher_manifest(config.teacher.checkpoint).family
        teacher = load_processor(config.teacher.checkpoint / "tokenizer", family, finds_text_ends=finds)
    student = load_processor(config.student.checkpoint, finds_text_ends=finds)
    return {"teacher": teacher, "student": student}


def show_step(config: RunConfig, step: int) -> str:
    """Return what every student rank sees in a step, microbatch by microbatch, in both models' tokens."""
    processors = load_processors(config)
    index = build_index(config.data, processors)
    order = sample_order(config, index)
    batch = batch_shape(config)
    lines = [f"step {step}: {batch.samples_per_step} of {len(index)} samples, {len(index.skipped)} skipped"]
    for rank in range(batch.student_dp):
        for microbatch in range(num_microbatches(order, step=step, batch=batch)):
            numbers = samples_of_unit(order, step=step, microbatch=microbatch, student_rank=rank, batch=batch)
            lines.append(f"student rank {rank}, microbatch {microbatch}")
            for number in numbers:
                lines += _show_sample(index, number, processors)
    return "\n".join(lines)


def sample_order(config: RunConfig, index: SampleIndex) -> SampleOrder:
    """Return the order in which a run takes the samples of an index."""
    return SampleOrder(index.tokens, config.train.seed, index.digest, config.data.length_window)


def batch_shape(config: RunConfig) -> BatchShape:
    """Return how the samples of a step are cut into units."""
    return BatchShape(
        micro_batch_size=config.train.micro_batch_size,
        accumulation_steps=config.train.accumulation_steps,
        student_dp=config.mesh.student.dp,
        unit_tokens=config.train.micro_batch_tokens,
    )


def _show_sample(
    index: SampleIndex, number: int, processors: dict[str, ModelProcessor | None]
) -> Iterator[str]:
    sample = index[number]
    yield f"  {sample.id}  {' '.join(path.name for path in sample.images)}"
    for role, processor in processors.items():
        if processor is not None:
            rendered = processor.render(sample, index.facts[number].image_sizes)
            text = marked_text(processor, rendered.input_ids.tolist(), rendered.answer_spans)
            yield f"    {role}: {len(rendered.input_ids)} tokens, {rendered.num_answer_tokens} of answers"
            yield "      " + text.replace("\n", "\\n")


def marked_text(processor: ModelProcessor, ids: list[int], spans: tuple[tuple[int, int], ...]) -> str:
    """Return tokens as text, answers in `[[ ]]`, runs of image tokens counted."""
    parts, done = [], 0
    for start, end in spans:
        parts += [processor.decode(ids[done:start]), "[[", processor.decode(ids[start:end]), "]]"]
        done = end
    token = re.escape(processor.chat.image_token)
    return re.sub(
        f"(?:{token})+",
        lambda match: f"{processor.chat.image_token} x {match.group().count(processor.chat.image_token)}",
        "".join(parts),
    )
