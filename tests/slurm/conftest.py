"""One cluster, one converted teacher and one undisturbed run of each stage for all tests of this folder."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import LocalSlurm, why_not
from tests.slurm.jobs import EXAMPLES, ROOT, Workplace, train_with_torchrun


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSlurm]:
    """Give two nodes that have nothing to do."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with LocalSlurm(num_nodes=2, root=tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def workplace(cluster: LocalSlurm, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Give the demo's data, and its teacher converted by a job."""
    folder = tmp_path_factory.mktemp("workplace")
    script = EXAMPLES / "demo" / "prepare_data.py"
    subprocess.run(
        [sys.executable, script, "--out", folder / "data", "--num-train", "200", "--num-heldout", "20"],
        check=True,
        cwd=ROOT,
    )
    workplace = Workplace(cluster=cluster, folder=folder)
    workplace.wait_for_success(workplace.submit("slurm_convert.sh", OUT=str(folder / "teacher")))
    return workplace


@pytest.fixture(scope="session")
def undisturbed(workplace: Workplace) -> dict[int, Path]:
    """Give the run folder of each stage, trained by torchrun on one host, each from the one before."""
    runs: dict[int, Path] = {}
    for stage in (1, 2, 3):
        run_dir = workplace.folder / "undisturbed" / f"stage{stage}"
        overrides = workplace.overrides(run_dir, stage=stage, init_from=runs.get(stage - 1))
        train_with_torchrun(overrides, stage=stage)
        runs[stage] = run_dir
    return runs
