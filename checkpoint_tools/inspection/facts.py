"""What is found in a checkpoint folder, as records."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genrecal_mcore.config import Family, LanguageBodySpec

PARTS = ("vision", "language", "embedding", "head")
"""`vision` has the projector, `language` is without the embedding."""
OTHER_PARTS = ("tied_head", "unknown")
"""A second copy of the embedding, which counts as no parameter, and what the class does not have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorFacts:
    """One stored tensor."""

    name: str
    """As in the file; a teacher's has the name of its subfolder before it."""
    native: tuple[str, ...]
    """Native names of the tensors that it holds; none if it is unknown."""
    part: str
    """One of `PARTS` and `OTHER_PARTS`."""
    shape: tuple[int, ...]
    dtype: str
    num_parameters: int
    """Of the model: neither a tied head's nor the zeros that a layout pads with."""
    num_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DigestFacts:
    """The files of a teacher compared with `teacher.json`."""

    num_files: int
    missing: tuple[str, ...]
    differing: tuple[str, ...]
    """Those that cannot be read are among them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherFacts:
    """What only a converted teacher has."""

    source: str
    dtype: str
    verified: tuple[str, ...]
    tp: tuple[int, ...]
    """Tensor-parallel sizes that it can run at, each together with each of `pp`."""
    pp: tuple[int, ...]
    digests: DigestFacts | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What a folder holds."""

    path: Path
    family: Family
    layout: str
    """Of a teacher: that of its source."""
    language: LanguageBodySpec | None
    """None when the config describes no body that can be converted; `problems` says why."""
    vision: Mapping[str, int | None]
    """Layers, hidden size and heads; None for what the config does not name."""
    tensors: tuple[TensorFacts, ...]
    num_files: int
    """Files of weights; of a teacher all that `teacher.json` names."""
    problems: tuple[str, ...]
    teacher: TeacherFacts | None = None

    @property
    def dtypes(self) -> dict[str, int]:
        """Number of tensors of each dtype."""
        return dict(Counter(tensor.dtype for tensor in self.tensors))

    @property
    def parts(self) -> dict[str, dict[str, int]]:
        """Tensors, parameters and bytes of each part, and `total`."""
        found = {tensor.part for tensor in self.tensors}
        names = [*PARTS, *(part for part in OTHER_PARTS if part in found)]
        sums = {name: _sums(tensor for tensor in self.tensors if tensor.part == name) for name in names}
        return sums | {"total": _sums(self.tensors)}


def _sums(tensors: Iterable[TensorFacts]) -> dict[str, int]:
    rows = [(1, tensor.num_parameters, tensor.num_bytes) for tensor in tensors]
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    return dict(zip(("tensors", "parameters", "bytes"), map(sum, columns), strict=True))


def as_json(inspection: Inspection, *, with_tensors: bool) -> dict[str, Any]:
    """Return everything as one JSON object; the tensors only when asked for."""
    found: dict[str, Any] = {
        "kind": "teacher" if inspection.teacher else "hugging_face",
        "path": str(inspection.path),
        "family": inspection.family.value,
        "layout": inspection.layout,
        "language": inspection.language.model_dump() if inspection.language else None,
        "vision": dict(inspection.vision),
        "num_files": inspection.num_files,
        "parts": inspection.parts,
        "dtypes": inspection.dtypes,
        "problems": list(inspection.problems),
    }
    if inspection.teacher:
        found["teacher"] = asdict(inspection.teacher)
    if with_tensors:
        found["tensors"] = [asdict(tensor) for tensor in inspection.tensors]
    return found
