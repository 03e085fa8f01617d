"""Plans at full size, from published configs alone: which rank kinds there are and what each needs."""

from pathlib import Path
from typing import Any

import pytest

from genrecal_mcore.config import RunConfig
from genrecal_mcore.layouts.published_models import PUBLISHED_MODELS
from genrecal_mcore.parallel import layout_of
from genrecal_mcore.planning import Part, RankKind, count_models, plan_memory
from genrecal_mcore.planning.checks import ranks_needed
from genrecal_mcore.planning.on_meta import vision_parameters
from tests.helpers.planned import published_pair, run_of_stage

TEACHER, STUDENT = "Qwen2-VL-72B", "Qwen2-VL-2B"
FOLDERS = {name: Path(name) for name in ("teacher", "student", "data")}
"""Never opened: the models come from the table of published ones."""
BF16_SIZE = 2


def kinds_of(config: RunConfig) -> tuple[RankKind, ...]:
    layout = layout_of(config.mesh, world_size=ranks_needed(config))
    models = published_pair(TEACHER, STUDENT, dtype=config.train.dtype)
    return plan_memory(config, layout, count_models(config, models))


def full_size(
    *, teacher: dict[str, Any], student_dp: int = 3, **changes: dict[str, object]
) -> tuple[RankKind, ...]:
    train = {"dtype": "bfloat16", "micro_batch_size": 2} | changes.pop("train", {})
    mesh = {"teacher": teacher, "student": {"dp": student_dp}}
    return kinds_of(run_of_stage(FOLDERS, 2, mesh=mesh, train=train, **changes))


def test_the_body_of_a_72b_teacher_at_tp8_pp2_takes_its_share_of_the_published_count() -> None:
    first, last, _ = full_size(teacher={"tp": 8, "pp": 2})
    model, published = published_pair(TEACHER, STUDENT).teacher.model, PUBLISHED_MODELS[TEACHER]
    embedding = published.config["vocab_size"] * published.config["hidden_size"]  # as large as the head
    layers = published.num_parameters - vision_parameters(model) - 2 * embedding
    per_rank = BF16_SIZE * layers / (8 * 2)
    assert last.parts[Part.LANGUAGE_BODY] == pytest.approx(per_rank, rel=0.01)
    assert first.parts[Part.LANGUAGE_BODY] == pytest.approx(per_rank + BF16_SIZE * embedding / 8, rel=0.01)
    assert first.parts[Part.VISION] == BF16_SIZE * vision_parameters(model)


def test_a_72b_teacher_on_one_rank_with_its_head_is_the_published_count() -> None:
    alone, student = full_size(teacher={"tp": 1, "pp": 1})
    weights = alone.parts[Part.LANGUAGE_BODY] + alone.parts[Part.VISION] + student.parts[Part.TEACHER_HEAD]
    assert weights == BF16_SIZE * PUBLISHED_MODELS[TEACHER].num_parameters


def test_frozen_weights_of_the_student_are_the_published_count() -> None:
    _, student = full_size(teacher={"tp": 1, "pp": 1}, student_dp=1)
    assert student.parts[Part.STUDENT_FROZEN] == BF16_SIZE * PUBLISHED_MODELS[STUDENT].num_parameters


@pytest.mark.parametrize(
    ("pp", "labels"),
    [
        (1, ["teacher stage 0, ranks 0-5", "student, ranks 6-8"]),
        (2, ["teacher stage 0, ranks 0-5", "teacher stage 1, ranks 6-11", "student, ranks 12-14"]),
        (
            5,
            [
                "teacher stage 0, ranks 0-5",
                "teacher stages 1-3, ranks 6-23",
                "teacher stage 4, ranks 24-29",
                "student, ranks 30-32",
            ],
        ),
    ],
)
def test_ranks_that_need_the_same_stand_together(pp: int, labels: list[str]) -> None:
    assert [kind.label for kind in full_size(teacher={"tp": 2, "pp": pp, "dp": 3})] == labels


def test_stages_of_an_uneven_split_have_the_layers_that_they_are_given() -> None:
    def bodies(**split: tuple[int, ...]) -> list[int]:
        *teachers, _ = full_size(teacher={"tp": 8, "pp": 4, **split})
        return [kind.parts[Part.LANGUAGE_BODY] for kind in teachers]

    first, middle, last = bodies()  # of 80 layers, 20 each; the middle two stages are one kind
    layer = middle / 20
    split = bodies(layers_per_stage=(17, 21, 21, 21))
    assert split == [first - 3 * layer, middle + layer, last + layer]
    assert len(bodies(layers_per_stage=(17, 22, 20, 21))) == 4


def test_each_kind_of_rank_has_its_own_parts() -> None:
    first, middle, last, student = full_size(teacher={"tp": 2, "pp": 4})
    everywhere = {Part.LANGUAGE_BODY, Part.PIPELINE, Part.ACTIVATIONS}
    assert first.parts.keys() == everywhere | {Part.VISION}
    assert middle.parts.keys() == everywhere
    assert last.parts.keys() == everywhere | {Part.TRANSFER}
    teachers = {Part.LANGUAGE_BODY, Part.VISION, Part.PIPELINE}
    assert student.parts.keys() == set(Part) - teachers


def test_buffers_follow_from_units_under_way_rows_and_hidden_size() -> None:
    changes = {"transfer": {"prefetch": 3}, "data": {"max_tokens": 1001}}
    first, middle, last, student = full_size(teacher={"tp": 8, "pp": 4, "sequence_parallel": True}, **changes)
    row = BF16_SIZE * PUBLISHED_MODELS[TEACHER].config["hidden_size"]
    padded = 2008 // 8  # tokens of a tp rank
    assert (first.parts[Part.PIPELINE], middle.parts[Part.PIPELINE]) == (2 * padded * row, 4 * padded * row)
    assert last.parts[Part.PIPELINE] == 2 * padded * row
    assert last.parts[Part.TRANSFER] == 4 * padded * row
    assert student.parts[Part.TRANSFER] == 4 * 2002 * row


def test_a_token_budget_bounds_what_a_microbatch_takes() -> None:
    def parts(**train: int) -> dict[Part, int]:
        return dict(full_size(teacher={}, train=train, data={"max_tokens": 1000})[-1].parts)

    eight = parts(micro_batch_size=8)
    budget = parts(micro_batch_size=8, accumulation_steps=4, micro_batch_tokens=4000)
    for part in (Part.ACTIVATIONS, Part.TRANSFER):
        assert 2 * budget[part] == eight[part]
    one = parts(micro_batch_size=8, accumulation_steps=1, micro_batch_tokens=10000)
    assert one[Part.TRANSFER] == eight[Part.TRANSFER]
    # A step of 32 samples may need several microbatches of 4000 tokens, one of 8 never two of 10000.
    assert budget[Part.WHOLE_GRADIENTS] > one[Part.WHOLE_GRADIENTS]


def test_the_loss_budget_is_the_configured_one() -> None:
    *_, student = full_size(teacher={}, loss={"memory_budget_mib": 640})
    assert student.parts[Part.LOSS] == 640 * 2**20


def test_activations_shrink_with_checkpointing_and_grow_with_the_microbatch() -> None:
    def activations(**train: object) -> int:
        return full_size(teacher={}, train=train)[-1].parts[Part.ACTIVATIONS]

    checkpointed, kept = (activations(gradient_checkpointing=on) for on in (True, False))
    assert checkpointed < kept / 2
    assert activations(gradient_checkpointing=True, micro_batch_size=6) == 3 * checkpointed


def test_a_body_that_learns_without_adapters_counts_whole_and_its_embeddings_do_not() -> None:
    adapted, body = (
        full_size(teacher={}, student_dp=1, student={"lora": lora})[-1].parts
        for lora in ({"dropout": 0.0}, None)
    )
    learning = body[Part.STUDENT_LEARNING] / 4
    assert learning + body[Part.STUDENT_FROZEN] / 2 == adapted[Part.STUDENT_FROZEN] / 2
    # Qwen2-1.5B's 28 layers and last norm: q and o, k and v, the MLP's three, biases of q, k, v, two norms.
    layer = 2 * 1536 * 1536 + 2 * 1536 * 256 + 3 * 1536 * 8960 + (1536 + 2 * 256) + 2 * 1536
    assert learning == 28 * layer + 1536


def test_more_student_ranks_share_what_learns_and_its_state() -> None:
    lora = {"r": 8, "alpha": 8, "dropout": 0.0}
    one, two, four = (
        full_size(teacher={}, student_dp=dp, student={"lora": lora})[-1].parts for dp in (1, 2, 4)
    )
    for part in (Part.STUDENT_LEARNING, Part.GRADIENTS, Part.OPTIMIZER):
        assert four[part] == pytest.approx(one[part] / 4, rel=1e-3)
    assert four[Part.TEACHER_HEAD] == one[Part.TEACHER_HEAD]
    # Decoder layers are shared, the vision tower and the embeddings not: w + l, w + l / 2, w + l / 4.
    frozen = [parts[Part.STUDENT_FROZEN] for parts in (one, two, four)]
    assert frozen[0] - frozen[1] == 2 * (frozen[1] - frozen[2]) > frozen[0] / 4


def test_without_resharding_frozen_weights_are_whole_on_every_rank_and_gathered_by_nobody() -> None:
    def parts(*, dp: int, reshards: bool) -> dict[Part, int]:
        train = {"reshard_after_forward": reshards}
        return dict(full_size(teacher={}, student_dp=dp, train=train)[-1].parts)

    kept, shared = (parts(dp=8, reshards=on) for on in (False, True))
    assert kept[Part.STUDENT_FROZEN] == parts(dp=1, reshards=False)[Part.STUDENT_FROZEN]
    assert kept[Part.STUDENT_FROZEN] > 2 * shared[Part.STUDENT_FROZEN]
    assert kept[Part.GATHERED_WEIGHTS] < kept[Part.STUDENT_FROZEN] / 10


def test_whole_gradients_are_no_more_with_many_microbatches_where_each_is_reduced() -> None:
    def whole_gradients(**train: object) -> int:
        return full_size(teacher={}, train=train)[-1].parts[Part.WHOLE_GRADIENTS]

    reduced = whole_gradients(accumulation_steps=16, reduce_every_microbatch=True)
    assert reduced == whole_gradients(accumulation_steps=1)
    assert reduced < whole_gradients(accumulation_steps=16) / 2


def test_a_whole_model_before_sharding_counts_where_it_is_more() -> None:
    *_, student = full_size(teacher={}, student_dp=64, data={"max_tokens": 64})
    assert student.loading_bytes > student.total_bytes == sum(student.parts.values())
    assert student.needed_bytes == student.loading_bytes
