import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genrecal_mcore.study import load_grid
from genrecal_mcore.study.jobs import Job, jobs_of
from genrecal_mcore.study.processes import Commands
from genrecal_mcore.study.results import write_results
from genrecal_mcore.study.running import Runner, run_jobs
from genrecal_mcore.study.trials import trials_of

Write = Callable[[dict[str, Any]], Path]


def test_each_trial_names_the_first_job_that_failed_and_what_another_task_has_is_left_out(
    raw_grid: dict[str, Any], write: Write
) -> None:
    raw_grid["seeds"] = [0]
    grid = load_grid(write(raw_grid))
    trials = trials_of(grid)
    jobs = {job.name: job for job in jobs_of(grid, trials)}
    genrecal, frozen = (trial.runs for trial in trials if trial.arm != "sft" and trial.task == "names")
    index = jobs[frozen[1].name].needs[0]
    fails = [Job(name=name, command=("false",), is_done=lambda: False) for name in (frozen[1].name, index)]
    for chosen in ([fails[0]], fails):
        run_jobs(chosen, Runner(grid.out, Commands()), num_workers=1)
        write_results(grid, trials)
        lines = (grid.out / "results.jsonl").read_text(encoding="utf-8").splitlines()
        reasons = {(line["arm"], line["task"]): line["reason"] for line in map(json.loads, lines)}
        if chosen != fails:
            assert reasons == {("frozen", "names"): f"{frozen[1].name}: exit code 1: no output"}
    assert {reason.partition(":")[0] for reason in reasons.values()} == {index}
    assert reasons.keys() == {("genrecal", "names"), ("genrecal", "short"), ("frozen", "names")}
    assert genrecal[0] == frozen[0]
