import pytest

from genrecal_mcore.evaluation import BenchmarkScores, Tally, models_table, notes, scores_table
from genrecal_mcore.evaluation.scores import Reported

pytestmark = pytest.mark.evaluation


def scores(num: int, num_correct: int, groups: dict[str, dict[str, Tally]], **counts: int) -> BenchmarkScores:
    counts = {"num_left_out": 0, "num_open": 0, "num_cut": 0} | counts
    return BenchmarkScores(
        benchmark="MMStar",
        reported=Reported(value=num_correct / num if num else None, text="mean over questions", num=num),
        all=Tally(num=num, num_correct=num_correct),
        groups=groups,
        **counts,
    )


def test_models_are_compared_in_percent_with_a_dash_for_a_kind_that_was_not_asked() -> None:
    one = scores(8, 5, {"form": {"yes_no": Tally(num=8, num_correct=5)}})
    both = {
        "form": {"other": Tally(num=3, num_correct=3)},
        "domain": {"chart": Tally(num=3, num_correct=3)},
    }
    table = models_table({"Teacher": one, "Student": scores(3, 3, both)}, caption="Of 11 questions.")
    assert table.columns == ("Model", "all", "other", "yes_no", "chart")
    assert table.rows == (("Teacher", "62.5", "-", "62.5", "-"), ("Student", "100.0", "100.0", "-", "100.0"))


def test_a_benchmark_is_shown_with_its_groups_below_it() -> None:
    table = scores_table([scores(8, 5, {"category": {"math": Tally(num=2, num_correct=1)}})])
    assert table.rows == (
        ("MMStar", "mean over questions", "8", "62.5"),
        ("", "category: math", "2", "50.0"),
    )


def test_a_benchmark_that_only_a_judge_scores_has_a_dash_and_a_note() -> None:
    judged = scores(0, 0, {}, num_open=4)
    assert scores_table([judged]).rows == (("MMStar", "mean over questions", "0", "-"),)
    assert notes(judged) == ["MMStar: 4 answers wait for a judge"]
    assert judged.as_json()["all"] == {"num": 0, "num_correct": 0, "accuracy": None}


def test_what_a_number_does_not_say_is_noted() -> None:
    assert notes(scores(8, 5, {}, num_left_out=2, num_open=2, num_cut=1)) == [
        "MMStar: 2 broken rows were left out",
        "MMStar: 2 of 10 answers need a judge and are in no number; at least 50.0 % are right",
        "MMStar: 1 answers were cut off; raise --max-new-tokens",
    ]
