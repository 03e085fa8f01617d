"""Gates L1 to L3: tiny random models of the true classes, against the published modules.

L1  bit-equal round trip, as a teacher (to Megatron-core and back) and as a student (to the native class and
    back), in the published layout and, for InternVL, in both native ones.
L2  fp32 logits on one rank, as a teacher and as a student; InternLM2 as a student in fp64 too, exactly.
L3  logits as a teacher at tp 2, at pp 2 and at tp 2 x pp 2, with sequence parallelism.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from checkpoint_tools.conversion import Options, convert_to_hf, convert_to_mcore
from checkpoint_tools.verification.activations import Activations, activations_of, first_difference
from checkpoint_tools.verification.outcome import ROLES, Outcome
from checkpoint_tools.verification.probe import Probe, tiny_probe
from checkpoint_tools.verification.ranks import activations_on_ranks
from checkpoint_tools.verification.tiny import original_model, randomize, tiny_model, write_published
from genrecal_mcore.config import family_of_hf_config
from genrecal_mcore.layouts import open_checkpoint
from genrecal_mcore.layouts.native import INTERNVL_OLD
from genrecal_mcore.layouts.published_models import PUBLISHED_MODELS
from genrecal_mcore.native import load_native_model
from genrecal_mcore.parallel import MeshSpec
from genrecal_mcore.training.export import write_in_layout_of

ATOL_ONE_RANK = 1e-5
"""Worst seen 3.8e-6; logits reach 6."""
ATOL_TENSOR_PARALLEL = 2e-5
"""Worst seen 7.5e-6; logits reach 6."""
MIN_COSINE = 0.999999
"""Of a layer's output that counts as equal in fp32."""
ONE_RANK = MeshSpec(name="teacher")
L3_MESHES = (
    MeshSpec(name="teacher", tp=2, sequence_parallel=True),
    MeshSpec(name="teacher", pp=2),
    MeshSpec(name="teacher", tp=2, pp=2, sequence_parallel=True),
)
KEPT_DUMMIES = "NVLM-D-72B (dummy heads not zero)"
TINY_MODELS = (*PUBLISHED_MODELS, KEPT_DUMMIES)


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyFamily:
    """A tiny model in its makers' files, and converted."""

    name: str
    original: nn.Module
    published: Path
    teacher: Path
    probe: Probe


def make_tiny_family(name: str, folder: Path, *, seed: int) -> TinyFamily:
    """Write a tiny model under `folder` and convert it into a teacher."""
    model = tiny_model("NVLM-D-72B" if name == KEPT_DUMMIES else name)
    original = randomize(original_model(model), seed=seed, keeps_dummy_heads=name == KEPT_DUMMIES)
    published = write_published(folder / "published", model, original)
    convert_to_mcore(published, folder / "teacher", Options(verify=True))
    family = family_of_hf_config(model.config, where=name)
    return TinyFamily(
        name=name,
        original=original,
        published=published,
        teacher=folder / "teacher",
        probe=tiny_probe(family, seed=seed),
    )


def check_round_trips(tiny: TinyFamily, folder: Path) -> list[Outcome]:
    """Pass L1: every published tensor comes back bit by bit, under its name, and none besides."""
    convert_to_hf(tiny.teacher, folder / "back", overwrite=False)
    problems = {"teacher": _difference(tiny.published, folder / "back")}
    layouts = [open_checkpoint(tiny.published).layout.name]
    for layout, source in _native_spellings(tiny, folder):
        layouts.append(layout)
        convert_to_mcore(source, folder / f"{layout}_teacher", Options(verify=True))
        convert_to_hf(folder / f"{layout}_teacher", folder / f"{layout}_back", overwrite=False)
        problems["teacher"] = problems["teacher"] or _difference(source, folder / f"{layout}_back")
    student = load_native_model(tiny.published, dtype=torch.float32)
    write_in_layout_of(tiny.published, student, folder / "student")
    problems["student"] = _difference(tiny.published, folder / "student")
    return [
        Outcome(
            gate="L1",
            model=tiny.name,
            role=role,
            passed=problems[role] is None,
            detail=problems[role] or "bit-equal: " + ", ".join(layouts if role == "teacher" else layouts[:1]),
        )
        for role in ROLES
    ]


def _native_spellings(tiny: TinyFamily, folder: Path) -> Iterator[tuple[str, Path]]:
    """Write an `internvl_chat` model as transformers' two native layouts have it."""
    checkpoint = open_checkpoint(tiny.published)
    if checkpoint.layout.name != "internvl_chat":
        return
    native = load_native_model(tiny.published, dtype=torch.float32)
    native.save_pretrained(folder / "native_new", save_original_format=False)
    yield "native_new", folder / "native_new"
    old = folder / "native_old"
    native.save_pretrained(old, save_original_format=False)
    tensors = load_file(old / "model.safetensors")
    old_names = {key: next(n for row in INTERNVL_OLD if (n := row.published_name(key))) for key in tensors}
    renamed = {old_names[key]: tensor for key, tensor in tensors.items()}
    save_file(renamed, old / "model.safetensors", metadata={"format": "pt"})
    yield "native_old", old


def _difference(expected: Path, found: Path) -> str | None:
    """Return what differs between two folders' tensors, or None."""
    a, b = (load_file(folder / "model.safetensors") for folder in (expected, found))
    if a.keys() != b.keys():
        return f"other names: {sorted(a.keys() ^ b.keys())[:3]}"
    changed = [name for name in a if a[name].dtype != b[name].dtype or not torch.equal(a[name], b[name])]
    return f"other values: {changed[:3]}" if changed else None


def check_teacher_logits(
    gate: str, tinies: Sequence[TinyFamily], meshes: Sequence[MeshSpec], *, names_layers: bool = False
) -> list[Outcome]:
    """Pass L2 (one rank) or L3 (several) as teachers; `names_layers`: say which layer differs first."""
    expected = {tiny.name: activations_of(tiny.original, tiny.probe) for tiny in tinies}
    teachers = {tiny.name: tiny.teacher for tiny in tinies}
    probes = {tiny.name: tiny.probe for tiny in tinies}
    passed = dict.fromkeys(expected, True)
    details: dict[str, list[str]] = {name: [] for name in expected}
    for mesh in meshes:
        bound = ATOL_TENSOR_PARALLEL if mesh.tp > 1 else ATOL_ONE_RANK
        for name, found in activations_on_ranks(teachers, probes, mesh).items():
            worst = worst_difference(expected[name], found)
            passed[name] &= worst <= bound
            details[name].append(f"tp {mesh.tp} pp {mesh.pp}: {worst:.1e}")
            if names_layers:
                details[name].append(first_difference(expected[name], found, min_cosine=MIN_COSINE))
    return [
        Outcome(gate=gate, model=name, role="teacher", passed=passed[name], detail=", ".join(details[name]))
        for name in expected
    ]


def check_student_logits(tiny: TinyFamily) -> Outcome:
    """Pass L2 as a student."""
    expected = activations_of(tiny.original, tiny.probe)
    student = load_native_model(tiny.published, dtype=torch.float32).eval()
    worst = worst_difference(expected, activations_of(student, tiny.probe))
    passed, detail = worst <= ATOL_ONE_RANK, f"{worst:.1e}"
    if "InternLM2" in tiny.published.joinpath("config.json").read_text(encoding="utf-8"):
        exact = _worst_in_fp64(tiny)
        passed, detail = passed and exact == 0.0, detail + f", in fp64 {exact:.1e}"
    return Outcome(gate="L2", model=tiny.name, role="student", passed=passed, detail=detail)


def _worst_in_fp64(tiny: TinyFamily) -> float:
    """Compare text logits in fp64, where only another order of operations could differ."""
    ids = torch.cat([sample.input_ids for sample in tiny.probe.samples])[None]
    student = load_native_model(tiny.published, dtype=torch.float64).eval()
    with torch.no_grad():
        found = student(input_ids=ids, use_cache=False).logits
        expected = tiny.original.double()(ids, None)
    tiny.original.float()
    return (found - expected).abs().max().item()


def worst_difference(expected: list[Activations], found: list[Activations]) -> float:
    """Return the largest absolute difference of two models' logits."""
    return max(
        (a["logits"].float() - b["logits"].float()).abs().max().item()
        for a, b in zip(expected, found, strict=True)
    )
