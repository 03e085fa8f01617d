"""Fixtures for all tests: the pool of ranks, and tiny checkpoints and data made once a session."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

# Ranks share the cores: one thread each. Set before torch is imported for the first time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.helpers.closeness import TOLERANCE, WORST  # noqa: E402
from tests.helpers.measured import MEASURED  # noqa: E402
from tests.helpers.rank_pool import RankPool  # noqa: E402


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what a worker of pytest-xdist compared and measured to the process that prints the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput |= {"worst": dict(WORST), "tolerance": TOLERANCE, "measured": MEASURED}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of pytest-xdist compared and measured; one that crashed says nothing."""
    output = getattr(node, "workeroutput", {})
    for name, worst in output.get("worst", {}).items():
        WORST[name] = max(WORST[name], worst)
    TOLERANCE.update(output.get("tolerance", {}))
    MEASURED.extend(output.get("measured", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the worst difference of each comparison beside its tolerance, then what was measured."""
    for name, worst in sorted(WORST.items()):
        terminalreporter.write_line(f"{name}: worst relative difference {worst:.1e} of {TOLERANCE[name]:.0e}")
    for line in MEASURED:
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _environ_of_its_own() -> Iterator[None]:
    """Keep what a command sets for its own process from the tests after it, whichever share its worker."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def rank_pool() -> Iterator[RankPool]:
    """Give the session's one pool of gloo ranks; workers start when a test first asks for them."""
    pool = RankPool()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give folders with a converted InternVL teacher, a Qwen2-VL student and a dataset of 12 samples."""
    from checkpoint_tools.conversion import convert_to_mcore
    from tests.helpers.tiny_data import make_tiny_dataset
    from tests.helpers.tiny_models import make_tiny_model

    root = tmp_path_factory.mktemp("tiny_folders")
    teacher = make_tiny_model(root / "teacher_hf", "internvl_qwen2", seed=1)
    convert_to_mcore(teacher, root / "teacher")
    return {
        "teacher_hf": teacher,
        "teacher": root / "teacher",
        "student": make_tiny_model(root / "student", "qwen2_vl", seed=2),
        "data": make_tiny_dataset(root / "data", 12, seed=5),
    }
