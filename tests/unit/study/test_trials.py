from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genrecal_mcore.config import ConfigError
from genrecal_mcore.study import load_grid
from genrecal_mcore.study.trials import Trial, runs_of, trials_of

Write = Callable[[dict[str, Any]], Path]


def trials(raw: dict[str, Any], write: Write) -> dict[tuple[str, str, int], Trial]:
    return {(trial.arm, trial.task, trial.seed): trial for trial in trials_of(load_grid(write(raw)))}


@pytest.mark.parametrize("path", sorted(Path("examples/configs").glob("study_*.yaml")), ids=lambda p: p.stem)
def test_every_example_is_a_grid_of_valid_runs(path: Path) -> None:
    grid = load_grid(path)
    assert {trial.arm for trial in trials_of(grid)} == set(grid.arms)


def test_arms_share_the_runs_that_are_equal_and_no_others(raw_grid: dict[str, Any], write: Write) -> None:
    found = trials(raw_grid, write)
    genrecal, frozen = (found[arm, "names", 0].runs for arm in ("genrecal", "frozen"))
    assert genrecal[0] == frozen[0] and genrecal[1].folder != frozen[1].folder
    assert genrecal[1].config.init_from == genrecal[0].folder == frozen[1].config.init_from
    others = [found["genrecal", task, seed].runs[0].folder for task, seed in (("names", 1), ("short", 0))]
    # The tasks of this grid have the same data: what is trained on them is the same run.
    assert others[0] != genrecal[0].folder == others[1]
    assert len(runs_of(list(found.values()))) == 2 + 2 * 2 + 2


def test_a_run_is_known_by_its_configuration_and_not_by_its_arm_or_place(
    raw_grid: dict[str, Any], write: Write, tmp_path: Path
) -> None:
    before = trials(raw_grid, write)["genrecal", "names", 1].runs[1]
    raw_grid["arms"]["renamed"] = raw_grid["arms"].pop("genrecal")
    raw_grid["out"] = str(tmp_path / "elsewhere")
    after = trials(raw_grid, write)["renamed", "names", 1].runs[1]
    assert after.name == before.name and after.folder != before.folder
    raw_grid["arms"]["renamed"]["stage_overrides"] = {1: {"train.steps": 7}}
    assert trials(raw_grid, write)["renamed", "names", 1].runs[1].name != before.name


def test_overrides_of_a_stage_stand_above_those_of_all_and_teachers_only_where_there_are_any(
    raw_grid: dict[str, Any], write: Write
) -> None:
    raw_grid["arms"]["genrecal"]["overrides"] |= {"train.lr": 1e-3, "train.steps": 9}
    raw_grid["arms"]["genrecal"]["stage_overrides"] = {2: {"train.steps": 3}}
    found = trials(raw_grid, write)
    first, second = (run.config for run in found["genrecal", "names", 1].runs)
    assert (first.train.steps, second.train.steps, second.train.lr) == (9, 3, 1e-3)
    assert (second.train.seed, second.student.checkpoint) == (1, Path("student"))
    assert second.teacher is not None and second.teacher.checkpoint == Path("teacher")
    (sft,) = (run.config for run in found["sft", "short", 0].runs)
    assert sft.teacher is None and sft.mesh.teacher is None and sft.init_from is None


def test_an_arm_without_stages_asks_the_student_or_the_model_that_it_names(
    raw_grid: dict[str, Any], write: Write
) -> None:
    raw_grid["arms"] |= {"untouched": {"stages": []}, "teacher": {"stages": [], "model": "teacher_hf"}}
    found = trials(raw_grid, write)
    assert not found["untouched", "short", 1].runs
    assert found["untouched", "short", 1].untouched == Path("student")
    assert found["teacher", "short", 1].untouched == Path("teacher_hf")


def test_problems_of_all_arms_configurations_are_listed_together(
    raw_grid: dict[str, Any], write: Write
) -> None:
    raw_grid["arms"]["sft"]["overrides"] = {"train.step": 1}
    raw_grid["arms"]["frozen"]["overrides"] = {"mesh.teacher": {}, "train.lr": -1}
    with pytest.raises(ConfigError) as raised:
        trials(raw_grid, write)
    assert "arm sft: " in str(raised.value) and "train.step is not a key" in str(raised.value)
    assert "arm frozen: " in str(raised.value) and "train.lr: " in str(raised.value)
