import pytest

from genrecal_mcore.evaluation.question import Question
from genrecal_mcore.evaluation.scorers import Verdict
from genrecal_mcore.evaluation.scores import (
    Headline,
    Tally,
    in_all_rotations,
    tally,
    tally_groups,
)

pytestmark = pytest.mark.evaluation

RIGHT, WRONG = (Verdict(understood="A", is_correct=is_correct) for is_correct in (True, False))
OPEN = Verdict(understood=None, is_correct=None)


def question(index: str, *, rotation_of: str | None = None, **groups: str) -> Question:
    return Question(
        index=index,
        number=1,
        turns=(),
        images=(),
        answer="A",
        groups=tuple(groups.items()),
        rotation_of=rotation_of,
    )


def test_a_question_is_right_only_in_all_its_rotations() -> None:
    """Circular evaluation of MMBench, arXiv:2307.06281."""
    indices = ["1", "1000001", "2", "1000002", "3"]
    asked = [question(index, rotation_of=str(int(index) % 10**6)) for index in indices]
    kept, verdicts = in_all_rotations(asked, [RIGHT, RIGHT, RIGHT, WRONG, WRONG])
    assert [q.index for q in kept] == ["1", "2", "3"]
    assert [verdict.is_correct for verdict in verdicts] == [True, False, False]


def test_questions_without_rotations_stay_as_they_are() -> None:
    asked = [question("1"), question("2")]
    assert in_all_rotations(asked, [RIGHT, WRONG]) == (asked, [RIGHT, WRONG])


def test_what_only_a_judge_can_tell_is_in_no_tally() -> None:
    asked = [question(str(n), category=c, task="x") for n, c in enumerate(("a", "a", "b", "c"))]
    verdicts = [RIGHT, WRONG, WRONG, OPEN]
    assert tally(verdicts) == Tally(num=3, num_correct=1)
    assert tally_groups(asked, verdicts) == {
        "category": {"a": Tally(num=2, num_correct=1), "b": Tally(num=1, num_correct=0)},
        "task": {"x": Tally(num=3, num_correct=1)},
    }


def test_a_question_may_count_under_several_values_of_a_column() -> None:
    asked = Question(
        index="1", number=1, turns=(), images=(), answer="A", groups=(("skills", "x"), ("skills", "y"))
    )
    assert tally_groups([asked], [RIGHT])["skills"].keys() == {"x", "y"}


@pytest.mark.parametrize(
    ("headline", "number", "text"),
    [
        (Headline(), 0.8, "mean over questions"),
        (Headline(column="split"), 0.5, "mean over each split"),
        (Headline(column="split", value="validation"), 0.0, "split validation"),
        (Headline(column="category"), 0.8, "mean over questions"),
        (Headline(column="split", value="test"), 0.8, "mean over questions"),
    ],
    ids=["questions", "groups", "group", "no column", "no value"],
)
def test_each_benchmark_reports_its_own_mean(headline: Headline, number: float, text: str) -> None:
    groups = {"split": {"dev": Tally(num=8, num_correct=8), "validation": Tally(num=2, num_correct=0)}}
    reported = headline.of(Tally(num=10, num_correct=8), groups)
    assert (reported.value, reported.text) == (number, text)
    assert reported.num == (2 if headline.value == "validation" else 10)


def test_nothing_is_reported_where_nothing_could_be_judged() -> None:
    assert Headline(column="split").of(Tally(num=0, num_correct=0), {}).value is None
