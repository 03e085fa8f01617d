import subprocess
import sys

import pytest
import torch

from genrecal_mcore.losses import frozen_head_loss, reference_frozen_head_loss, student_head_loss

T, H, V = 37, 24, 211
ROW_BYTES = 4 * V * 4
RTOL = 1e-5  # worst seen 4e-7


def make_inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    recalibrated = torch.randn(T, H, generator=generator, dtype=dtype).requires_grad_()
    teacher = torch.randn(T, H, generator=generator, dtype=dtype)
    labels = torch.randint(V, (T,), generator=generator)
    head = torch.randn(V, H, generator=generator, dtype=dtype)
    return recalibrated, teacher, labels, head


@pytest.mark.parametrize("rows_at_once", [1, 5, 37, 1000])
def test_value_and_gradient_equal_the_reference_for_every_chunk_size(rows_at_once: int) -> None:
    recalibrated, teacher, labels, head = make_inputs()
    ce, kl = reference_frozen_head_loss(recalibrated, teacher, labels, head)
    (3.0 * (ce.sum() + kl.sum())).backward()
    expected, recalibrated.grad = recalibrated.grad, None

    out = frozen_head_loss(recalibrated, teacher, labels, head, memory_budget_bytes=rows_at_once * ROW_BYTES)
    (3.0 * out.total).backward()

    torch.testing.assert_close(out.ce, ce.detach(), rtol=RTOL, atol=1e-6)
    torch.testing.assert_close(out.kl, kl.detach(), rtol=RTOL, atol=1e-6)
    torch.testing.assert_close(out.total, (ce + kl).sum(), rtol=RTOL, atol=0)
    torch.testing.assert_close(recalibrated.grad, expected, rtol=RTOL, atol=1e-5)


def test_kl_is_from_the_teacher_to_the_student_and_zero_between_equals() -> None:
    recalibrated, teacher, labels, head = make_inputs()
    p = torch.softmax(teacher @ head.t(), -1)
    by_hand = (p * (p.log() - torch.log_softmax(recalibrated @ head.t(), -1))).sum(-1)
    kl = frozen_head_loss(recalibrated, teacher, labels, head, memory_budget_bytes=2**20).kl
    torch.testing.assert_close(kl, by_hand.detach(), rtol=1e-4, atol=1e-5)
    same = frozen_head_loss(teacher, teacher, labels, head, memory_budget_bytes=2**20).kl
    assert same.abs().max() < 1e-6


def test_gradient_is_right_by_finite_differences() -> None:
    recalibrated, teacher, labels, head = make_inputs(torch.float64)

    def total(rows: torch.Tensor) -> torch.Tensor:
        ce, kl = reference_frozen_head_loss(rows, teacher, labels, head)
        return (ce + kl).sum()

    assert torch.autograd.gradcheck(total, (recalibrated,), fast_mode=True)


def test_bfloat16_rows_give_float32_losses_near_the_float32_ones() -> None:
    recalibrated, teacher, labels, head = make_inputs()
    exact = frozen_head_loss(recalibrated, teacher, labels, head, memory_budget_bytes=2**20)
    rounded = frozen_head_loss(
        *(tensor.bfloat16() for tensor in (recalibrated, teacher)),
        labels,
        head.bfloat16(),
        memory_budget_bytes=2**20,
    )
    assert rounded.ce.dtype == torch.float32
    assert (rounded.ce.mean() - exact.ce.mean()).abs() < 0.02 * exact.ce.mean()


def test_the_head_gets_no_gradient() -> None:
    recalibrated, teacher, labels, head = make_inputs()
    head.requires_grad_()
    frozen_head_loss(recalibrated, teacher, labels, head, memory_budget_bytes=2**20).total.backward()
    assert recalibrated.grad is not None and head.grad is None


def test_a_budget_below_one_row_is_refused_with_what_it_must_be() -> None:
    with pytest.raises(
        ValueError, match=r"loss.memory_budget_mib.*one row.*211 tokens; set it to at least 1 MiB"
    ):
        frozen_head_loss(*make_inputs(), memory_budget_bytes=ROW_BYTES - 1)


@pytest.mark.parametrize("rows_at_once", [3, 1000])
def test_student_head_loss_equals_plain_cross_entropy(rows_at_once: int) -> None:
    rows, _, labels, head = make_inputs()
    head.requires_grad_()
    plain = torch.nn.functional.cross_entropy(rows @ head.t(), labels, reduction="sum")
    plain.backward()
    expected = rows.grad, head.grad
    rows.grad = head.grad = None
    loss = student_head_loss(rows, labels, head, memory_budget_bytes=rows_at_once * ROW_BYTES)
    loss.backward()
    torch.testing.assert_close(loss, plain, rtol=RTOL, atol=0)
    torch.testing.assert_close((rows.grad, head.grad), expected, rtol=1e-4, atol=1e-5)


PUBLISHED_SIZE = """
import resource, torch
from genrecal_mcore.losses import frozen_head_loss
torch.manual_seed(0)
t, v, h, budget = 8192, 152064, 512, int({budget})
rows = torch.randn(t, h, dtype=torch.bfloat16).requires_grad_()
teacher, head = torch.randn(t, h, dtype=torch.bfloat16), torch.randn(v, h, dtype=torch.bfloat16)
labels = torch.randint(v, (t,))
few = slice(0, 1)
frozen_head_loss(rows[few], teacher[few], labels[few], head, memory_budget_bytes=budget).total.backward()
rows.grad = None
open("/proc/self/clear_refs", "w").write("5")
peak = lambda key: int([l for l in open("/proc/self/status") if l.startswith(key)][0].split()[1]) * 1024
before = peak("VmRSS")
frozen_head_loss(rows, teacher, labels, head, memory_budget_bytes=budget).total.backward()
print(peak("VmHWM") - before)
"""


@pytest.mark.slow
def test_peak_memory_stays_below_the_budget_at_published_size() -> None:
    budget = 512 * 2**20
    found = subprocess.run(
        [sys.executable, "-c", PUBLISHED_SIZE.format(budget=budget)],
        capture_output=True,
        text=True,
        check=True,
    )
    gradients = 3 * 8192 * 512 * 2  # saved, returned and accumulated: [t, h] bfloat16
    assert int(found.stdout) <= budget + gradients
