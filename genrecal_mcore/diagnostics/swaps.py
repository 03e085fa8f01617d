"""Does the loss depend on the student? Swaps in what another sample gave it, and looks at the losses.

If the loss at a position stays as it is, the Recalibrator does not use the student's features there, and they
are taught nothing there.
"""

from collections.abc import Callable, Sequence

from genrecal_mcore.diagnostics.paths import PathOutput, student_path
from genrecal_mcore.diagnostics.run_models import RunModels
from genrecal_mcore.diagnostics.samples import (
    DiagnosedSample,
    SampleFeatures,
    with_image_of,
    with_questions_of,
)

Shares = dict[str, float]
"""Means of `ce` and `kl` over `boundary` positions and over the `rest`, by `ce_boundary` and so on."""


def swapped_losses(models: RunModels, samples: Sequence[DiagnosedSample]) -> dict[str, dict[str, object]]:
    """Return, for each swap, the losses with what is right and with what was swapped in, of the same samples.

    `question`: the question features of another sample. `image`: the student's own text, but its image is
    another sample's. A sample takes part where another one has as many turns, or images.
    """
    same_turns = partners(samples, key=lambda of: len(of.sample.turns))
    same_images = partners(samples, key=lambda of: len(of.sample.images))
    with_images = {i: j for i, j in same_images.items() if samples[i].sample.images}
    return {
        "question": _compared(
            models, samples, same_turns, lambda own, other: with_questions_of(own.student, other.student)
        ),
        "image": _compared(
            models, samples, with_images, lambda own, other: with_image_of(models, own, other)
        ),
    }


def partners(samples: Sequence[DiagnosedSample], *, key: Callable[[DiagnosedSample], int]) -> dict[int, int]:
    """Pair each sample with the next one that has the same key, in a circle; one that is alone has none."""
    groups: dict[int, list[int]] = {}
    for number, of_sample in enumerate(samples):
        groups.setdefault(key(of_sample), []).append(number)
    return {
        own: other
        for group in groups.values()
        if len(group) > 1
        for own, other in zip(group, group[1:] + group[:1], strict=True)
    }


def mean_shares(outputs: Sequence[PathOutput]) -> Shares:
    """Return the mean losses over all boundary positions, and over all others, of several samples."""
    shares: Shares = {}
    for name in ("ce", "kl"):
        for share in ("boundary", "rest"):
            values = [getattr(out.losses, name)[getattr(out.layout, share)].double().cpu() for out in outputs]
            total, count = sum(v.sum().item() for v in values), sum(len(v) for v in values)
            shares[f"{name}_{share}"] = total / count
    return shares


def _compared(
    models: RunModels,
    samples: Sequence[DiagnosedSample],
    partner_of: dict[int, int],
    swapped: Callable[[DiagnosedSample, DiagnosedSample], SampleFeatures],
) -> dict[str, object]:
    if not partner_of:
        return {"num_samples": 0, "own": None, "swapped": None}
    own = [student_path(models, samples[i].student, samples[i].teacher) for i in partner_of]
    other = [
        student_path(models, swapped(samples[i], samples[j]), samples[i].teacher)
        for i, j in partner_of.items()
    ]
    return {"num_samples": len(own), "own": mean_shares(own), "swapped": mean_shares(other)}
