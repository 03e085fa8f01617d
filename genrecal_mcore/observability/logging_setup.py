"""Where log lines go: each rank writes its own file, one rank speaks.

Only an entry point calls this. Modules write to `logging.getLogger(__name__)` and know nothing of ranks.
"""

import logging
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

PACKAGES = ("genrecal_mcore", "checkpoint_tools")
_OURS = "genrecal_handler"


@cache
def stderr_console() -> Console:
    """Return the one console of this process: log lines and the live line must not overwrite each other."""
    return Console(stderr=True, soft_wrap=True)


def set_up_logging(run_dir: Path, *, rank: int, role: str, speaks: bool) -> Path:
    """Send log lines to `run_dir/logs/rank_000.log` and, if it speaks, to stderr; return the path.

    `role` is what a reader should call this rank, e.g. "student 0" or "teacher tp 1 pp 0 dp 0". Errors and
    Python warnings stand in the file only: the command line itself says what ended a run, once. Other
    libraries are heard from WARNING on. Calling it again replaces what the previous call set up.
    """
    path = run_dir / "logs" / f"rank_{rank:03d}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_our_handlers()
    handlers = [_file_handler(path, rank=rank, role=role)]
    if speaks:
        handlers.append(_stderr_handler(rank=rank, role=role))
    for handler in handlers:
        handler.set_name(_OURS)
        logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.WARNING)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.INFO)
    logging.captureWarnings(True)
    return path


def _remove_our_handlers() -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if handler.get_name() == _OURS]:
        root.removeHandler(handler)
        handler.close()


def _file_handler(path: Path, *, rank: int, role: str) -> logging.Handler:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(
        logging.Formatter(f"%(asctime)s %(levelname)-7s rank {rank} ({role}) %(name)s: %(message)s")
    )
    return handler


def _stderr_handler(*, rank: int, role: str) -> logging.Handler:
    console = stderr_console()
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, log_time_format="[%X]")
        handler.setFormatter(logging.Formatter(f"rank {rank} ({role}): %(message)s"))
    else:
        # rich would fold lines to a width that a file does not have.
        handler = logging.StreamHandler()
        handler.setFormatter(
            logging.Formatter(f"%(asctime)s rank {rank} ({role}): %(message)s", datefmt="%H:%M:%S")
        )
    handler.addFilter(lambda record: record.levelno < logging.ERROR and record.name != "py.warnings")
    return handler
