import random

import pytest

from genrecal_mcore.parallel.clock import ClockRound, clock_offset

OFFSET_NS = 7_000_000_000


def round_at(asked_ns: int, *, there_ns: int, back_ns: int, offset_ns: int = OFFSET_NS) -> ClockRound:
    return ClockRound(
        asked_ns=asked_ns,
        said_ns=asked_ns + there_ns + offset_ns,
        answered_ns=asked_ns + there_ns + back_ns,
    )


def test_an_even_round_gives_the_offset_and_half_the_round_trip() -> None:
    found = clock_offset([round_at(100, there_ns=40, back_ns=40)])
    assert (found.offset_ns, found.uncertainty_ns) == (OFFSET_NS, 40)


def test_the_shortest_round_decides() -> None:
    rounds = [
        round_at(0, there_ns=9000, back_ns=10),
        round_at(10_000, there_ns=30, back_ns=30),
        round_at(20_000, there_ns=10, back_ns=5000),
    ]
    found = clock_offset(rounds)
    assert (found.offset_ns, found.uncertainty_ns) == (OFFSET_NS, 30)


@pytest.mark.parametrize("seed", range(40))
def test_the_true_offset_is_never_further_away_than_the_uncertainty(seed: int) -> None:
    draw = random.Random(seed)
    offset_ns = draw.choice((-1, 1)) * draw.randrange(10 ** draw.randint(1, 12))
    rounds = [
        round_at(
            i * 10**6,
            there_ns=int(draw.expovariate(1e-4)),
            back_ns=int(draw.expovariate(1e-3)),
            offset_ns=offset_ns,
        )
        for i in range(5)
    ]
    found = clock_offset(rounds)
    assert abs(found.offset_ns - offset_ns) <= found.uncertainty_ns


def test_clocks_that_may_be_one_are_taken_to_be() -> None:
    found = clock_offset([round_at(5, there_ns=90, back_ns=10, offset_ns=0)])
    assert (found.offset_ns, found.uncertainty_ns) == (0, 90)
