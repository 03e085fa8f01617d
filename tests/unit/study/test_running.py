"""Jobs of small real commands."""

import os
import sys
from pathlib import Path

import pytest

from genrecal_mcore.study.jobs import Job
from genrecal_mcore.study.processes import Commands
from genrecal_mcore.study.running import Runner, read_failures, run_jobs


def job(folder: Path, name: str, code: str = "", *, needs: tuple[str, ...] = ()) -> Job:
    """Return a job that writes a file, after `code`."""
    text = f"{code}\nfrom pathlib import Path\nPath({str(folder / name)!r}).write_text({name!r})"
    return Job(name=name, command=(sys.executable, "-c", text), needs=needs, is_done=(folder / name).is_file)


FAILS = "import sys; print('much'); sys.exit('error: no room')"


@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_failure_stops_what_needs_it_and_nothing_else(tmp_path: Path, num_workers: int) -> None:
    jobs = [
        job(tmp_path, "a", FAILS),
        job(tmp_path, "b", needs=("a",)),
        job(tmp_path, "c", needs=("b",)),
        job(tmp_path, "d"),
        job(tmp_path, "e", needs=("d",)),
    ]
    failures = run_jobs(jobs, Runner(tmp_path, Commands()), num_workers=num_workers)
    assert {name: failure.reason for name, failure in failures.items()} == {
        "a": "no room",
        "b": "needs a, which failed",
        "c": "needs b, which failed",
    }
    assert failures["a"].log_tail == ["much", "error: no room"]
    assert read_failures(tmp_path) == {"a": failures["a"]}
    assert (tmp_path / "e").is_file() and not (tmp_path / "c").exists()


def test_what_is_done_is_not_run_and_what_failed_is_tried_again(tmp_path: Path) -> None:
    runner = Runner(tmp_path, Commands())
    run_jobs([job(tmp_path, "a", FAILS), job(tmp_path, "b")], runner, num_workers=1)
    (tmp_path / "b").write_text("kept")
    failures = run_jobs([job(tmp_path, "a"), job(tmp_path, "b", FAILS)], runner, num_workers=1)
    assert not failures and not read_failures(tmp_path)
    assert (tmp_path / "a").is_file() and (tmp_path / "b").read_text() == "kept"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.kill(os.getpid(), 9)", "ended by signal 9"),
        ("1 / 0", "exit code 1: ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)", "ended well without leaving its result"),
    ],
)
def test_the_reason_says_how_a_command_ended(code: str, reason: str, tmp_path: Path) -> None:
    failures = run_jobs([job(tmp_path, "a", code)], Runner(tmp_path, Commands()), num_workers=1)
    assert failures["a"].reason == reason


def test_what_cannot_work_is_refused_before_it_starts(tmp_path: Path) -> None:
    def refuse() -> None:
        raise ValueError("this pair has two tokenizers")

    refused = Job(name="a", command=("not", "run"), is_done=lambda: False, prepare=refuse)
    failures = run_jobs([refused], Runner(tmp_path, Commands()), num_workers=1)
    assert failures["a"].reason == "refused before it started: this pair has two tokenizers"
    assert not (tmp_path / "logs" / "a.log").exists()


def test_an_interrupted_study_ends_what_it_started(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "has_begun")
    endless = job(tmp_path, "endless", f"open({str(tmp_path / 'has_begun')!r}, 'w')\nwhile True: pass")

    def interrupt() -> None:
        (tmp_path / "has_begun").read_text()  # waits until the other one writes
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(
            [endless, Job(name="b", command=("none",), is_done=lambda: False, prepare=interrupt)],
            Runner(tmp_path, Commands()),
            num_workers=2,
        )
    failure = read_failures(tmp_path)
    assert failure["endless"].reason == "ended by signal 15" and not (tmp_path / "endless").exists()
