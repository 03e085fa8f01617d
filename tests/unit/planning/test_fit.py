from pathlib import Path
from typing import Any

import pytest

from genrecal_mcore.config import RunConfig
from genrecal_mcore.planning import Part, RankKind, check_fits
from tests.helpers.planned import run_of_stage

FOLDERS = {name: Path(name) for name in ("teacher", "student", "data")}
GIB = 2**30


def kind(parts: dict[Part, int], *, name: str = "student", loading_bytes: int = 0) -> RankKind:
    return RankKind(name=name, ranks=range(2, 5), parts=parts, loading_bytes=loading_bytes)


def refusal(*kinds: RankKind, config: RunConfig, available_bytes: int = 5 * GIB) -> str:
    with pytest.raises(ValueError) as caught:
        check_fits(kinds, config, available_bytes=available_bytes)
    return str(caught.value)


def test_what_just_fits_is_accepted() -> None:
    kinds = [kind({Part.LOSS: 2 * GIB, Part.ACTIVATIONS: 3 * GIB}, loading_bytes=5 * GIB)]
    check_fits(kinds, run_of_stage(FOLDERS, 2), available_bytes=5 * GIB)


def test_a_refusal_names_the_ranks_the_bytes_the_largest_part_and_what_to_change() -> None:
    parts = {Part.LANGUAGE_BODY: 7 * GIB, Part.PIPELINE: 512 * 2**20}
    message = refusal(kind(parts, name="teacher stage 1"), config=run_of_stage(FOLDERS, 2))
    assert message == (
        "teacher stage 1, ranks 2-4: needs 7.5 GiB, a GPU has 5.0 GiB; the largest part is language body, "
        "weights with 7.0 GiB: raise mesh.teacher.pp or mesh.teacher.tp"
    )


def test_every_kind_of_rank_that_does_not_fit_is_named() -> None:
    kinds = [
        kind({Part.VISION: 6 * GIB}, name="teacher stage 0"),
        kind({Part.LOSS: GIB}, name="teacher stage 1"),
        kind({Part.OPTIMIZER: 8 * GIB}),
    ]
    message = refusal(*kinds, config=run_of_stage(FOLDERS, 2))
    assert "teacher stage 0" in message and "student" in message and "teacher stage 1" not in message


@pytest.mark.parametrize(
    ("part", "stage", "train", "change"),
    [
        (Part.ACTIVATIONS, 2, {"gradient_checkpointing": False}, "set train.gradient_checkpointing to true"),
        (
            Part.ACTIVATIONS,
            1,
            {"gradient_checkpointing": False, "micro_batch_size": 2},
            ": lower train.micro",
        ),
        (Part.ACTIVATIONS, 2, {"checkpointed_layers": 3}, "leave out train.checkpointed_layers or"),
        (Part.ACTIVATIONS, 3, {"micro_batch_size": 1}, ": lower data.max_tokens"),
        (Part.WHOLE_GRADIENTS, 3, {"accumulation_steps": 8}, "set train.reduce_every_microbatch to true"),
        (Part.WHOLE_GRADIENTS, 3, {"accumulation_steps": 8, "reduce_every_microbatch": True}, "a larger GPU"),
        (Part.WHOLE_GRADIENTS, 3, {"accumulation_steps": 1}, "take a smaller model or a larger GPU"),
        (Part.STUDENT_FROZEN, 2, {}, "raise mesh.student.dp"),
        (Part.STUDENT_FROZEN, 2, {"reshard_after_forward": False}, "set train.reshard_after_forward to true"),
        (Part.GATHERED_WEIGHTS, 3, {"reshard_after_forward": False}, "set train.reshard_after_forward"),
        (Part.TEACHER_HEAD, 2, {}, "take a smaller model or a larger GPU"),
        (Part.TRANSFER, 2, {}, "lower transfer.prefetch"),
        (Part.OPTIMIZER, 2, {}, "raise mesh.student.dp"),
        (Part.LOSS, 2, {}, "lower loss.memory_budget_mib"),
    ],
)
def test_what_to_change_follows_from_the_part_and_the_configuration(
    part: Part, stage: int, train: dict[str, Any], change: str
) -> None:
    config = run_of_stage(FOLDERS, stage, train=train)
    assert change in refusal(kind({part: 9 * GIB}), config=config)


def test_a_model_that_is_too_large_before_it_is_sharded_is_refused() -> None:
    message = refusal(kind({Part.LOSS: GIB}, loading_bytes=6 * GIB), config=run_of_stage(FOLDERS, 3))
    assert "needs 6.0 GiB" in message and "while the whole model is loaded, before it is sharded" in message
