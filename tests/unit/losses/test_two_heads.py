import pytest
import torch

from genrecal_mcore.config import TWO_HEAD_METHODS
from genrecal_mcore.losses import (
    NO_LABEL,
    DistilledRows,
    TwoHeadObjective,
    reference_two_head_loss,
    two_head_loss,
)
from genrecal_mcore.losses.divergences import DIVERGENCES
from tests.helpers.live_memory import LiveMemory

T, H_S, H_T, V = 37, 19, 24, 211
ROW_BYTES = 4 * V * 4
RTOL = 1e-5  # worst seen 1.1e-6
CE_SCALE, DIVERGENCE_SCALE, SKEW = 0.3, 0.05, 0.1
VOCABULARIES = {"equal": (V, V), "student padded": (V + 6, V), "teacher padded": (V, V + 9)}


def make_rows(scale: float = 1.0) -> DistilledRows:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(V, (T,), generator=generator)
    labels[::3] = NO_LABEL
    return DistilledRows(
        student=(scale * torch.randn(T, H_S, generator=generator)).requires_grad_(),
        teacher=scale * torch.randn(T, H_T, generator=generator),
        labels=labels,
    )


def make_heads(vocabulary: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    v_s, v_t = VOCABULARIES[vocabulary]
    return torch.randn(v_s, H_S, generator=generator), torch.randn(v_t, H_T, generator=generator)


def objective(divergence: str) -> TwoHeadObjective:
    return TwoHeadObjective(
        divergence=divergence, skew=SKEW, ce_scale=CE_SCALE, divergence_scale=DIVERGENCE_SCALE
    )


@pytest.mark.parametrize("rows_at_once", [1, 5, 37, 1000])
@pytest.mark.parametrize("vocabulary", list(VOCABULARIES))
@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_values_and_gradient_equal_the_naive_ones(name: str, vocabulary: str, rows_at_once: int) -> None:
    rows, heads = make_rows(), make_heads(vocabulary)
    ce, divergence = reference_two_head_loss(rows, *heads, divergence=name, skew=SKEW)
    total = CE_SCALE * ce.sum() + DIVERGENCE_SCALE * divergence.sum()
    (3.0 * total).backward()
    expected, rows.student.grad = rows.student.grad, None

    budget = rows_at_once * ROW_BYTES
    out = two_head_loss(rows, *heads, objective=objective(name), memory_budget_bytes=budget)
    (3.0 * out.total).backward()

    torch.testing.assert_close(out.ce, ce.detach(), rtol=RTOL, atol=1e-6)
    torch.testing.assert_close(out.divergence, divergence.detach(), rtol=RTOL, atol=1e-5)
    torch.testing.assert_close(out.total, total.detach(), rtol=RTOL, atol=0)
    torch.testing.assert_close(rows.student.grad, expected, rtol=RTOL, atol=1e-5)


def test_every_method_that_compares_heads_has_its_divergence() -> None:
    assert tuple(DIVERGENCES) == TWO_HEAD_METHODS


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_a_divergence_is_above_zero_and_zero_between_equals(name: str) -> None:
    rows, (head, _) = make_rows(), make_heads("equal")
    same = DistilledRows(student=rows.student, teacher=rows.student.detach(), labels=rows.labels)
    out = two_head_loss(same, head, head, objective=objective(name), memory_budget_bytes=2**20)
    assert out.divergence.abs().max() < 1e-5
    other = two_head_loss(
        rows, *make_heads("equal"), objective=objective(name), memory_budget_bytes=2**20
    ).divergence
    assert other.min() > 0.1


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_distributions_that_underflow_give_finite_losses_and_gradients(name: str) -> None:
    rows, heads = make_rows(scale=40.0), make_heads("equal")
    out = two_head_loss(rows, *heads, objective=objective(name), memory_budget_bytes=2**20)
    out.total.backward()
    assert out.total.isfinite()
    assert rows.student.grad is not None and rows.student.grad.isfinite().all()


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_bfloat16_factors_give_the_losses_of_their_fp32_products(name: str) -> None:
    exact, heads = make_rows(), [head.bfloat16() for head in make_heads("equal")]
    rows = DistilledRows(
        student=exact.student.detach().bfloat16().requires_grad_(),
        teacher=exact.teacher.bfloat16(),
        labels=exact.labels,
    )
    out = two_head_loss(rows, *heads, objective=objective(name), memory_budget_bytes=5 * ROW_BYTES)
    widened = DistilledRows(student=rows.student.float(), teacher=rows.teacher.float(), labels=rows.labels)
    ce, divergence = reference_two_head_loss(
        widened, *(head.float() for head in heads), divergence=name, skew=SKEW
    )
    assert out.ce.dtype == torch.float32
    torch.testing.assert_close(out.ce, ce.detach(), rtol=RTOL, atol=1e-6)
    torch.testing.assert_close(out.divergence, divergence.detach(), rtol=RTOL, atol=1e-5)
    out.total.backward()
    assert rows.student.grad is not None and rows.student.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_extra_memory_stays_within_the_budget(name: str) -> None:
    rows, heads, budget = make_rows(), make_heads("teacher padded"), 5 * ROW_BYTES
    with LiveMemory([rows.student, rows.teacher, rows.labels, *heads]) as memory:
        two_head_loss(rows, *heads, objective=objective(name), memory_budget_bytes=budget)
    gradient_and_rows = 4 * (T * H_S + 2 * T) + 4 * (5 * H_S + 10 * 5)  # of all rows, and of a chunk
    assert budget / 2 < memory.peak_bytes <= budget + gradient_and_rows


def test_a_head_that_learns_is_refused() -> None:
    student_head, teacher_head = make_heads("equal")
    with pytest.raises(ValueError, match="the student's head learns, but this loss has no gradient for it"):
        two_head_loss(
            make_rows(),
            student_head.requires_grad_(),
            teacher_head,
            objective=objective("kl"),
            memory_budget_bytes=2**20,
        )
