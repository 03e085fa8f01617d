"""Shows in text what a step feeds to both models: sample ids and renderings with the answers marked."""

import re
from collections.abc import Iterator

from genrecal_mcore.config import RunConfig
from genrecal_mcore.data.index import SampleIndex
from genrecal_mcore.data.of_run import batch_shape, index_of_run, load_processors, sample_order
from genrecal_mcore.data.order import num_microbatches, samples_of_unit
from genrecal_mcore.data.processor import ModelProcessor


def show_step(config: RunConfig, step: int) -> str:
    """Return what every student rank sees in a step, microbatch by microbatch, in both models' tokens."""
    processors = load_processors(config)
    index = index_of_run(config, processors)
    order = sample_order(config, index)
    batch = batch_shape(config)
    lines = [f"step {step}: {batch.samples_per_step} of {len(index)} samples, {index.num_skipped} skipped"]
    for rank in range(batch.student_dp):
        for microbatch in range(num_microbatches(order, step=step, batch=batch)):
            numbers = samples_of_unit(order, step=step, microbatch=microbatch, student_rank=rank, batch=batch)
            lines.append(f"student rank {rank}, microbatch {microbatch}")
            for number in numbers:
                lines += _show_sample(index, number, processors)
    return "\n".join(lines)


def _show_sample(
    index: SampleIndex, number: int, processors: dict[str, ModelProcessor | None]
) -> Iterator[str]:
    sample = index[number]
    yield f"  {sample.id}  {' '.join(image.name for image in sample.images)}"
    for role, processor in processors.items():
        if processor is not None:
            rendered = processor.render(sample, index.image_sizes(number))
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
