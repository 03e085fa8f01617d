"""What a checkpoint folder holds: a Hugging Face checkpoint of any known layout, or a converted teacher.

Everything is read from configs and headers; tensors' values are read for `digests` alone, and to compare a
tied head that is stored a second time. What is wrong inside a folder becomes a problem of its description.
"""

from pathlib import Path

from checkpoint_tools.conversion import Progress, no_progress
from checkpoint_tools.inspection.facts import Inspection, as_json
from checkpoint_tools.inspection.hugging_face import inspect_hf
from checkpoint_tools.inspection.teacher import inspect_teacher, mesh_sizes
from genrecal_mcore.config.teacher_manifest import MANIFEST_NAME

__all__ = ["Inspection", "as_json", "inspect_checkpoint", "mesh_sizes"]

HINTS = {
    "state.json": "it looks like a checkpoint of a run: `genrecal export RUN` writes a folder to inspect",
    "config.yaml": "it looks like a run folder: `genrecal export RUN` writes a folder to inspect",
}
"""Files of folders that are no checkpoint for this."""
FOUND_BY = (MANIFEST_NAME, "config.json")


def inspect_checkpoint(
    folder: Path, *, digests: bool = False, progress: Progress = no_progress
) -> Inspection:
    """Describe a Hugging Face checkpoint or a converted teacher.

    `digests`: read every file of a teacher and compare it with `teacher.json`. Raises `ValueError` for a
    folder that is neither, or of which config or weights cannot be opened at all.
    """
    if (folder / MANIFEST_NAME).is_file():
        return inspect_teacher(folder, digests=digests, progress=progress)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder}: expected a Hugging Face checkpoint (config.json and safetensors) or a converted "
            f"teacher ({MANIFEST_NAME}), found {_what_is_at(folder)}"
        )
    if digests:
        raise ValueError(f"{folder} has no {MANIFEST_NAME}, which --digests compares its files with")
    return inspect_hf(folder)


def _what_is_at(path: Path) -> str:
    if not path.is_dir():
        return "a file" if path.exists() else "nothing: it does not exist"
    names = sorted(child.name for child in path.iterdir())
    if not names:
        return "an empty folder"
    listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    hints = [hint for name, hint in HINTS.items() if name in names]
    inside = [name for name in names if any((path / name / file).is_file() for file in FOUND_BY)]
    hints += [f"inspect its {' or '.join(inside)}/"] if inside and not hints else []
    return "; ".join([listed, *hints])
