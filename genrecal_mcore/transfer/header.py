"""The fixed header before each unit's features: proof that both sides computed the same plan."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from hashlib import sha256

import torch

from genrecal_mcore.status import Unit

MAGIC = 0x47656E526563616C
"""`GenRecal` in ASCII."""
VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What the sender says of a unit; ten 64-bit integers on the wire."""

    magic: int = MAGIC
    version: int = VERSION
    step: int
    microbatch: int
    student_rank: int
    num_rows: int
    """Rows of the whole unit, over all tp ranks."""
    hidden_size: int
    digest_high: int
    digest_low: int
    waited_us: int = 0
    """Microseconds that the sender has waited for students so far; not part of the proof."""

    def to_tensor(self) -> torch.Tensor:
        """Return the header as `[10]` int64, as it goes over the wire."""
        return torch.tensor([getattr(self, field.name) for field in fields(self)], dtype=torch.int64)

    @classmethod
    def from_tensor(cls, values: torch.Tensor) -> "Header":
        """Read a header that came over the wire."""
        return cls(**dict(zip((field.name for field in fields(cls)), values.tolist(), strict=True)))


HEADER_NUM_INTS = len(fields(Header))
HEADER_BYTES = HEADER_NUM_INTS * 8


def unit_digest(
    sample_ids: Sequence[str], lengths: Sequence[int], answer_spans: Sequence[Sequence[tuple[int, int]]]
) -> bytes:
    """Return 16 bytes that identify a unit's samples and how the teacher's tokenizer cut them."""
    text = repr((tuple(sample_ids), tuple(lengths), tuple(tuple(spans) for spans in answer_spans)))
    return sha256(text.encode()).digest()[:16]


def make_header(unit: Unit, digest: bytes, *, num_rows: int, hidden_size: int) -> Header:
    """Return the header that a side expects or sends for a unit."""
    high, low = (int.from_bytes(part, "big", signed=True) for part in (digest[:8], digest[8:]))
    return Header(
        step=unit.step,
        microbatch=unit.microbatch,
        student_rank=unit.student_rank,
        num_rows=num_rows,
        hidden_size=hidden_size,
        digest_high=high,
        digest_low=low,
    )


def check_header(found: Header, expected: Header, *, receiver: str, sender: str) -> None:
    """Raise `RuntimeError` naming every field in which a header differs from the expected one."""
    names = [field.name for field in fields(Header) if field.name != "waited_us"]
    wrong = [name for name in names if getattr(found, name) != getattr(expected, name)]
    if wrong:
        details = ", ".join(f"{n} {getattr(found, n)} instead of {getattr(expected, n)}" for n in wrong)
        raise RuntimeError(
            f"the two sides computed different plans: {receiver} expected step {expected.step}, microbatch "
            f"{expected.microbatch} from {sender} and got {details}; check that all ranks read the same "
            "data, tokenizers and configuration"
        )
