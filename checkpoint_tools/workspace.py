"""Where a conversion writes before it is whole: a folder beside the target, renamed at the end."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PLAN_NAME = ".plan.json"
MARKERS = ".finished"
"""Folder with a file for each piece that a later call need not write again."""


@contextmanager
def replacing(out: Path, *, source: Path, overwrite: bool) -> Iterator["Workspace"]:
    """Give a workspace beside `out`, which becomes `out` at the end.

    Raises `ValueError` before anything is written when `out` exists and `overwrite` is not given, when it is
    not a folder, or when it and `source` lie in each other. A failure removes what was written, unless the
    workspace holds what a later call can go on from; the error then says so.
    """
    out = out.resolve()
    check_target(out, source=source.resolve(), overwrite=overwrite)
    workspace = Workspace(out.with_name(f".partial_{out.name}"))
    try:
        yield workspace
        workspace.become(out)
    except (ValueError, OSError) as error:
        raise ValueError(f"{error}{workspace.leave()}") from error
    except KeyboardInterrupt:
        print(f"interrupted{workspace.leave()}", file=sys.stderr)
        raise
    except BaseException:
        workspace.leave()
        raise


class Workspace:
    """The folder of a conversion that is not whole yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._is_begun = False

    def begin(self) -> Path:
        """Make the folder, empty."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._is_begun = True
        return self.folder

    def go_on(self, plan: dict[str, Any]) -> Path:
        """Return the folder of an interrupted conversion of the same plan, or a new one if there is none.

        Raises `ValueError` when the folder is of another plan.
        """
        path = self.folder / PLAN_NAME
        if not path.is_file():
            self.begin()
            path.write_text(json.dumps(plan), encoding="utf-8")
            return self.folder
        begun = json.loads(path.read_text(encoding="utf-8"))
        different = [name for name in plan if begun.get(name) != plan[name]]
        if different:
            raise ValueError(
                f"{self.folder} was begun with another {' and another '.join(different)}; convert with "
                "what it was begun with, or without --resume to begin again"
            )
        self._is_begun = True
        return self.folder

    def become(self, out: Path) -> None:
        """Take the place of `out`."""
        old = out.with_name(f".replaced_{out.name}")
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        self.folder.rename(out)
        shutil.rmtree(old, ignore_errors=True)

    def leave(self) -> str:
        """Remove the folder, or keep it and return what to do with it."""
        if not self._is_begun:
            return ""
        num_finished = len(list((self.folder / MARKERS).glob("*.json")))
        if num_finished == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
            return ""
        return (
            f"; {num_finished} finished pieces stay in {self.folder}: pass --resume to go on from them, or "
            "remove them"
        )


def check_target(out: Path, *, source: Path, overwrite: bool) -> None:
    """Raise `ValueError` when `out` cannot be written; both paths are resolved."""
    if out == source or out in source.parents or source in out.parents:
        raise ValueError(f"{out} and the source {source} lie in each other; choose another --out")
    blocking = next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None)
    if blocking is not None:
        raise ValueError(f"{blocking} is a file; choose another --out")
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists; choose another --out or pass --overwrite")


def check_free_space(out: Path, num_bytes: int) -> None:
    """Raise `ValueError` when the disk that `out` will be on has less than `num_bytes` free."""
    existing = next(path for path in out.resolve().parents if path.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise ValueError(
            f"{out} needs {num_bytes} bytes, but {existing} has {free} free; choose another --out"
        )
