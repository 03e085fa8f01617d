import pytest

from genrecal_mcore.study.statistics import Row, rows_of
from genrecal_mcore.study.summary import summary_csv, summary_markdown


def lines(arm: str, values: list[float | None], *, run: str | None = None) -> list[dict[str, object]]:
    return [
        {"arm": arm, "pair": "p", "task": "t", "seed": seed, "run": run or f"{arm}{seed}"}
        | ({"status": "failed"} if value is None else {"value": value})
        for seed, value in enumerate(values)
    ]


def row(arm: str, results: list[dict[str, object]]) -> Row:
    (found,) = [row for row in rows_of(results, reference="sft") if row.arm == arm]
    return found


def test_the_difference_is_paired_by_seed() -> None:
    # Means 0.7 and 0.5, differences 0.19, 0.20, 0.21: far smaller errors than the seeds' own spread of 0.1.
    found = row("kd", lines("kd", [0.59, 0.70, 0.81]) + lines("sft", [0.40, 0.50, 0.60]))
    assert found.mean == pytest.approx(0.70) and found.deviation == pytest.approx(0.11)
    assert found.difference is not None and found.difference.mean == pytest.approx(0.20)
    assert found.difference.standard_error == pytest.approx(0.01 / 3**0.5)
    assert found.difference.is_shown


@pytest.mark.parametrize(("values", "is_shown"), [([0.09, 0.31], False), ([0.16, 0.24], True)])
def test_a_difference_is_shown_beyond_two_standard_errors_only(values: list[float], is_shown: bool) -> None:
    # Mean 0.2 both times, standard errors 0.11 and 0.04.
    found = row("kd", lines("kd", values) + lines("sft", [0.0, 0.0]))
    assert found.difference is not None and found.difference.is_shown == is_shown


def test_a_single_seed_shows_nothing() -> None:
    found = row("kd", lines("kd", [0.9]) + lines("sft", [0.1, 0.2]))
    assert found.deviation is None and found.difference is not None
    assert (found.difference.num, found.difference.standard_error, found.difference.is_shown) == (
        1,
        None,
        False,
    )


def test_failed_runs_are_counted_and_only_seeds_that_both_have_are_compared() -> None:
    found = row("kd", lines("kd", [0.5, None, 0.7]) + lines("sft", [0.4, 0.4, None]))
    assert (found.num_runs, found.num_failed, found.mean) == (2, 1, pytest.approx(0.6))
    assert found.difference is not None
    assert (found.difference.num, found.difference.mean) == (1, pytest.approx(0.1))


def test_a_model_that_every_seed_shares_is_one_run_and_is_compared_with_every_seed() -> None:
    found = row("untouched", lines("untouched", [0.3, 0.3], run="student") + lines("sft", [0.4, 0.5]))
    assert (found.num_runs, found.deviation) == (1, None)
    assert found.difference is not None and found.difference.num == 2


def test_the_reference_is_compared_with_nothing_and_other_places_are_not_mixed() -> None:
    elsewhere = [line | {"task": "u"} for line in lines("kd", [0.9, 0.9])]
    rows = rows_of(lines("sft", [0.4, 0.5]) + elsewhere, reference="sft")
    assert [(row.arm, row.difference) for row in rows] == [("sft", None), ("kd", None)]


def test_both_tables_say_the_same_one_of_them_in_full() -> None:
    rows = rows_of(lines("kd", [1 / 3, 2 / 3]) + lines("sft", [0.25, 0.25]), reference="sft")
    text = summary_markdown(rows, {}, reference="sft")
    assert "| p | t | kd | 2 | 0 | 50.00 | 23.57 | +25.00 | 16.67 | 2 | no |" in text
    assert "| p | t | sft | 2 | 0 | 25.00 | 0.00 | - | - | - | - |" in text
    header, kd, _ = summary_csv(rows).splitlines()
    assert header.startswith("pair,task,arm,runs,failed,mean,")
    cells = kd.split(",")
    assert float(cells[6]) == pytest.approx(100 / 18**0.5, rel=1e-12) and cells[7].startswith("+")
