"""Digests of a checkpoint's files: what is damaged is found before anything is read from it."""

import json
import logging
import shutil
from pathlib import Path

from genrecal_mcore.config import sha256_of

logger = logging.getLogger(__name__)

DIGESTS_NAME = "digests.json"
DAMAGED_PREFIX = ".damaged_"


def digests_of(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file in a folder, hidden ones included, by name."""
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.is_file()}


def damage_of(checkpoint: Path) -> str | None:
    """Say what is wrong with a checkpoint, naming the file, or return None when it is as it was written."""
    path = checkpoint / DIGESTS_NAME
    try:
        expected = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{path} cannot be read ({error})"
    if not isinstance(expected, dict):
        return f"{path} must hold an object, found {type(expected).__name__}"
    for name, digest in expected.items():
        if not (checkpoint / name).is_file():
            return f"{checkpoint / name} is missing"
        if sha256_of(checkpoint / name) != digest:
            return f"{checkpoint / name} is not as it was written"
    return None


def newest_whole(checkpoints: list[Path]) -> Path | None:
    """Return the newest undamaged checkpoint of a sorted list; damaged ones are renamed, out of the way.

    Raises `ValueError` when there are checkpoints and all of them are damaged.
    """
    damages: dict[Path, str] = {}
    for checkpoint in reversed(checkpoints):
        damage = damage_of(checkpoint)
        if damage is None:
            for damaged, what in damages.items():
                _set_aside(damaged)
                logger.warning("%s: %s is used instead of %s", what, checkpoint.name, damaged.name)
            if damages:
                point_latest_to(checkpoint)
            return checkpoint
        damages[checkpoint] = damage
    if damages:
        raise ValueError(
            f"every checkpoint is damaged: {'; '.join(damages.values())}; remove {checkpoints[0].parent} to "
            "begin the run again"
        )
    return None


def point_latest_to(checkpoint: Path) -> None:
    """Write a checkpoint's name into the file `latest` beside it, at once or not at all."""
    written = checkpoint.with_name(".latest")
    written.write_text(checkpoint.name + "\n", encoding="utf-8")
    written.replace(checkpoint.with_name("latest"))


def _set_aside(checkpoint: Path) -> None:
    aside = checkpoint.with_name(DAMAGED_PREFIX + checkpoint.name)
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)
