"""Keeps results of benchmarks: `benchmarks.json`, and the same as a page, `benchmarks.md`."""

import datetime
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter

from benchmarks.results import Benchmark, target_text

JSON_NAME, PAGE_NAME = "benchmarks.json", "benchmarks.md"
HEAD = """\
# Benchmarks

Ratios of one run each, on the machine that is named; times alone say nothing about other machines.
`make bench` runs all of them and writes this page and [benchmarks.json](benchmarks.json);
`python -m benchmarks NAME` runs one.
"""


class KeptRun(BaseModel):
    """A benchmark's result, and what it was measured with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark: Benchmark
    commit: str
    """Of the repository; `+` where files differed from it."""
    date: str
    machine: str


_KEPT = TypeAdapter(dict[str, KeptRun])


def kept_run(benchmark: Benchmark) -> KeptRun:
    """Return a result that was measured just now."""
    return KeptRun(
        benchmark=benchmark, commit=commit(), date=datetime.date.today().isoformat(), machine=machine()
    )


def read_kept(folder: Path) -> dict[str, KeptRun]:
    """Return what a folder keeps, by the benchmarks' names."""
    path = folder / JSON_NAME
    return _KEPT.validate_json(path.read_bytes()) if path.exists() else {}


def write_kept(kept: Mapping[str, KeptRun], folder: Path) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON_NAME).write_bytes(_KEPT.dump_json(dict(kept), indent=1) + b"\n")
    (folder / PAGE_NAME).write_text("\n".join([HEAD, *map(section, kept.values())]), encoding="utf-8")


def section(run: KeptRun) -> str:
    """Return a benchmark's part of the page."""
    benchmark = run.benchmark
    header, ruler = "| " + " | ".join(benchmark.header) + " |", "|" + "---|" * len(benchmark.header)
    rows = ["| " + " | ".join(row) + " |" for row in benchmark.rows]
    targets = [f"- {target_text(target)}" for target in benchmark.targets]
    source = f"`{benchmark.command}`, {run.date}, commit {run.commit}, {run.machine}"
    return "\n".join(
        [f"## {benchmark.title}\n", benchmark.about, "", header, ruler, *rows, "", *targets, "", source, ""]
    )


def commit() -> str:
    """Return the short hash of the commit that is checked out."""
    git = ["git", "-C", str(Path(__file__).parent)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "*.py"], check=False).returncode
    return head.stdout.strip() + ("+" if changed else "")


def machine() -> str:
    """Return the processor and the libraries that count."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {(names or [platform.machine()])[0]}, torch {torch.__version__}"
