from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genrecal_mcore.config import ConfigError
from genrecal_mcore.study import load_grid

Write = Callable[[dict[str, Any]], Path]


def test_every_problem_of_a_grid_is_reported_at_once(raw_grid: dict[str, Any], write: Write) -> None:
    raw_grid |= {"referense": "sft", "seeds": [-1]}
    del raw_grid["reference"]
    with pytest.raises(ConfigError) as raised:
        load_grid(write(raw_grid))
    assert "referense is not a key; the nearest is reference" in str(raised.value)
    assert "reference is missing" in str(raised.value)
    assert "seeds.0: input should be greater than or equal to 0, found -1" in str(raised.value)


@pytest.mark.parametrize(
    ("arm", "problem"),
    [
        ({"pairs": ["other"]}, "arms.new.pairs names 'other'; expected one of main"),
        ({"tasks": ["other"]}, "arms.new.tasks names 'other'; expected one of names, short"),
        ({"stages": [1, 2, 3]}, "arms.new.stages names 3; expected one of 1, 2"),
        ({"stages": [2, 1]}, "arms.new.stages is [2, 1]; name each stage once, in order"),
        ({"stages": [2], "stage_overrides": {1: {}}}, "arms.new.stage_overrides names 1; expected one of 2"),
        ({"stages": [2], "model": "m"}, "arms.new.model is set, but new trains the pair's student"),
        ({"stages": [2], "overrides": {"run.dir": "x"}}, "arms.new: run.dir is decided by the grid"),
        ({"stages": [2], "stage_overrides": {2: {"train.seed": 1}}}, "train.seed is decided by the grid"),
    ],
)
def test_contradictions_are_named(
    arm: dict[str, Any], problem: str, raw_grid: dict[str, Any], write: Write
) -> None:
    raw_grid["arms"]["new"] = arm
    with pytest.raises(ConfigError) as raised:
        load_grid(write(raw_grid))
    assert problem in str(raised.value)


def test_only_an_arm_with_a_recalibrator_can_be_diagnosed(raw_grid: dict[str, Any], write: Write) -> None:
    raw_grid["diagnose"] = {"arms": ["sft"]}
    with pytest.raises(ConfigError, match="diagnose.arms names 'sft'; expected one of genrecal, frozen"):
        load_grid(write(raw_grid))
