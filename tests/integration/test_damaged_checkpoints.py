"""Checkpoints that are damaged, and disks that are full: what is lost, what is said, how a run goes on."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genrecal_mcore.training import export_student
from genrecal_mcore.training.checkpoint import checkpoints_dir, checkpoints_of
from genrecal_mcore.training.integrity import damage_of, newest_whole
from tests.helpers.first_step import raw_config
from tests.helpers.rank_pool import RankFailedError, RankPool
from tests.helpers.training_run import numbers_of, resume_run, train_on_a_full_disk, train_run

pytestmark = pytest.mark.distributed

STEPS, CHECKPOINT_EVERY = 6, 2


def config_of(folders: dict[str, Path], run_dir: Path) -> dict[str, Any]:
    config = raw_config(folders, run_dir)
    config["mesh"] = {"teacher": {}, "student": {"dp": 2}}
    config["train"] |= {"steps": STEPS, "checkpoint_every_steps": CHECKPOINT_EVERY, "keep_checkpoints": 3}
    return config


@pytest.fixture(scope="module")
def undisturbed(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    rank_pool.run(train_run, 3, config_of(tiny_folders, run_dir))
    return run_dir


@pytest.fixture
def copied(undisturbed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(undisturbed, tmp_path / "run"))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped-bit": (lambda folder: flip_a_bit(folder / "__0_0.distcp"), "__0_0.distcp is not as it was"),
    "truncated": (
        lambda folder: (folder / "__1_0.distcp").write_bytes(b"x"),
        "__1_0.distcp is not as it was written",
    ),
    "missing": (lambda folder: (folder / "__1_0.distcp").unlink(), "__1_0.distcp is missing"),
    "metadata": (lambda folder: flip_a_bit(folder / ".metadata"), ".metadata is not as it was written"),
    "state": (lambda folder: (folder / "state.json").write_text("{}"), "state.json is not as it was"),
    "digests": (lambda folder: (folder / "digests.json").unlink(), "digests.json cannot be read"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_file_is_named(damage: str, copied: Path) -> None:
    newest = checkpoints_of(copied)[-1]
    assert damage_of(newest) is None
    change, message = DAMAGES[damage]
    change(newest)
    found = damage_of(newest)
    assert found is not None and message in found


def test_the_checkpoint_before_a_damaged_one_is_used_and_nothing_is_lost(
    undisturbed: Path,
    copied: Path,
    tiny_folders: dict[str, Path],
    rank_pool: RankPool,
) -> None:
    assert [path.name for path in checkpoints_of(copied)][-2:] == ["step_00000004", "step_00000006"]
    flip_a_bit(checkpoints_of(copied)[-1] / "__0_0.distcp")
    rank_pool.run(resume_run, 3, config_of(tiny_folders, copied))
    assert numbers_of(copied) == numbers_of(undisturbed)
    assert damage_of(checkpoints_of(copied)[-1]) is None
    assert (checkpoints_dir(copied) / ".damaged_step_00000006").is_dir()
    assert (checkpoints_dir(copied) / "latest").read_text() == "step_00000006\n"
    log = (copied / "logs" / "rank_000.log").read_text(encoding="utf-8")
    assert "__0_0.distcp is not as it was written: step_00000004 is used instead of step_00000006" in log


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_again_unasked(copied: Path) -> None:
    for checkpoint in checkpoints_of(copied):
        flip_a_bit(checkpoint / "state.json")
    before = checkpoints_of(copied)
    for _ in range(2):  # a job that is requeued asks again
        with pytest.raises(ValueError, match="every checkpoint is damaged: .*step_00000006/state.json"):
            newest_whole(checkpoints_of(copied))
    assert checkpoints_of(copied) == before


def test_a_damaged_result_is_not_exported(copied: Path, tmp_path: Path) -> None:
    flip_a_bit(checkpoints_of(copied)[-1] / "__0_0.distcp")
    with pytest.raises(ValueError, match=r"__0_0\.distcp is not as it was written; resume the run"):
        export_student(copied, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_ends_the_save_and_not_the_run(
    undisturbed: Path, tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    rank_pool.run(train_on_a_full_disk, 3, config_of(tiny_folders, run_dir), 4)
    assert numbers_of(run_dir) == numbers_of(undisturbed)
    names = sorted(path.name for path in checkpoints_dir(run_dir).iterdir())
    assert names == ["latest", "step_00000002", "step_00000006"]
    log = (run_dir / "logs" / "rank_001.log").read_text(encoding="utf-8")
    assert "checkpoint of step 4 was not written" in log and "File too large" in log
    assert "the run goes on, and its older checkpoints stay" in log


def test_a_run_whose_result_cannot_be_written_fails_and_can_be_gone_on_with(
    undisturbed: Path, tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    config = config_of(tiny_folders, tmp_path / "run")
    with pytest.raises(RankFailedError, match="the last checkpoint could not be written"):
        rank_pool.run(train_on_a_full_disk, 3, config, STEPS)
    assert checkpoints_of(tmp_path / "run")[-1].name == "step_00000004"
    rank_pool.run(resume_run, 3, config)
    assert numbers_of(tmp_path / "run") == numbers_of(undisturbed)
