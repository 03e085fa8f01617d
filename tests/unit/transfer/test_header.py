from dataclasses import fields, replace

import pytest

from genrecal_mcore.transfer import HEADER_BYTES, Unit, unit_digest
from genrecal_mcore.transfer.header import Header, check_header, make_header

UNIT = Unit(step=3, microbatch=1, student_rank=2)
DIGEST = unit_digest(("a", "b"), (7, 9), (((2, 5),), ((3, 4), (6, 9))))
HEADER = make_header(UNIT, DIGEST, num_rows=11, hidden_size=64)
PROVEN_FIELDS = [field.name for field in fields(Header) if field.name != "waited_us"]


def test_a_header_survives_the_wire() -> None:
    on_the_wire = HEADER.to_tensor()
    assert on_the_wire.numel() * on_the_wire.element_size() == HEADER_BYTES <= 256
    assert Header.from_tensor(on_the_wire) == HEADER


def test_equal_headers_pass_whatever_the_sender_waited() -> None:
    check_header(replace(HEADER, waited_us=5), HEADER, receiver="rank 4", sender="rank 1")


@pytest.mark.parametrize("name", PROVEN_FIELDS)
def test_every_difference_is_named_with_both_sides(name: str) -> None:
    found = replace(HEADER, **{name: getattr(HEADER, name) + 1})
    with pytest.raises(
        RuntimeError, match=rf"rank 4 expected step 3, microbatch 1 from rank 1 and got {name} "
    ):
        check_header(found, HEADER, receiver="rank 4", sender="rank 1")


def test_the_digest_sees_samples_lengths_and_spans() -> None:
    spans = (((2, 5),), ((3, 4), (6, 9)))
    others = [
        unit_digest(("a", "c"), (7, 9), spans),
        unit_digest(("b", "a"), (7, 9), spans),
        unit_digest(("a", "b"), (7, 8), spans),
        unit_digest(("a", "b"), (7, 9), (((2, 6),), ((3, 4), (6, 9)))),
    ]
    assert len({DIGEST, *others}) == 5
    assert unit_digest(["a", "b"], [7, 9], [[(2, 5)], [(3, 4), (6, 9)]]) == DIGEST
