from itertools import combinations

from tests.helpers.covering import Case, all_cases, pairwise_cases

AXES = {"tp": (1, 2, 4), "stage": (1, 2), "dp": (1, 2, 3), "is_cut": (False, True)}


def _is_valid(case: Case) -> bool:
    return case["tp"] > 1 or not case["is_cut"]


def test_every_valid_pair_of_values_occurs() -> None:
    chosen = pairwise_cases(AXES, _is_valid)
    for first, second in combinations(AXES, 2):
        wanted = {(case[first], case[second]) for case in all_cases(AXES, _is_valid)}
        assert {(case[first], case[second]) for case in chosen} == wanted


def test_the_choice_is_far_smaller_than_the_product() -> None:
    assert len(pairwise_cases(AXES, _is_valid)) <= 12 < len(all_cases(AXES, _is_valid)) == 30


def test_invalid_cases_are_never_chosen() -> None:
    assert all(_is_valid(case) for case in pairwise_cases(AXES, _is_valid))
