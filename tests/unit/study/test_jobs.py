import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genrecal_mcore.study import Share, load_grid
from genrecal_mcore.study.jobs import Job, deal, jobs_of
from genrecal_mcore.study.trials import trials_of

Write = Callable[[dict[str, Any]], Path]


@pytest.fixture
def jobs(raw_grid: dict[str, Any], write: Write) -> list[Job]:
    raw_grid["tasks"]["short"] = {
        **raw_grid["tasks"]["short"],
        "sources": [{"path": "s.jsonl", "images": "i"}],
    }
    raw_grid["diagnose"] = {"arms": ["frozen"]}
    grid = load_grid(write(raw_grid))
    return jobs_of(grid, trials_of(grid))


def test_each_job_stands_once_behind_those_that_it_needs(jobs: list[Job]) -> None:
    names = [job.name for job in jobs]
    assert len(names) == len(set(names))
    for job in jobs:
        assert all(names.index(need) < names.index(job.name) for need in job.needs)
    verbs = [job.command[3] for job in jobs if job.command[2] == "genrecal_mcore.cli.main"]
    # Two tasks x two seeds of SFT and of both stages, two more of the frozen arm; its stage 1 is shared.
    assert verbs.count("evaluate") == 4 + 4 + 2 and verbs.count("diagnose") == 2 * 2 + 2
    begun = [job.name for job in jobs if "--step" in job.command]
    assert all(name.endswith("_step0") for name in begun) and len(begun) == 2  # the first seed's


def test_runs_of_one_rank_are_plain_processes_and_others_go_through_torchrun(jobs: list[Job]) -> None:
    assert [job.command[3:5] for job in jobs[:4]] == [("data", "index")] * 4  # two tasks, two sets of models
    train = {job.name.partition("_")[0]: job.command for job in jobs if "train" in job.command}
    assert train["sft"][:4] == (sys.executable, "-m", "genrecal_mcore.cli.main", "train")
    assert train["genrecal"][2:5] == ("torch.distributed.run", "--standalone", "--nproc-per-node=2")
    assert train["sft"][-1] == train["genrecal"][-1] == "--resume-or-begin"


@pytest.mark.parametrize("num_tasks", [1, 3, 20])
def test_tasks_share_out_all_jobs_and_none_needs_another_tasks(jobs: list[Job], num_tasks: int) -> None:
    shares = [deal(jobs, task=task, num_tasks=num_tasks) for task in range(1, num_tasks + 1)]
    dealt = [job.name for share in shares for job in share if not job.is_common]
    assert sorted(dealt) == sorted(job.name for job in jobs if not job.is_common)
    for share in shares:
        own = {job.name for job in share}
        assert all(need in own for job in share for need in job.needs)
        assert len(own) == len(share)
    if num_tasks == 3:
        steps = [sum(job.weight for job in share) for share in shares]
        assert max(steps) < 2 * min(steps)


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/-2"])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--task must be I/N with 1 <= I <= N"):
        Share.parse(text)
