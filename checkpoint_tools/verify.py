"""Prove that models convert: every family on tiny models, or one real checkpoint.

Examples: python checkpoint_tools/verify.py --all-families --gates L0,L1,L2,L3
python checkpoint_tools/verify.py --hf-path models/InternVL2_5-78B --mcore-path checkpoints/teacher
--image cat.png --prompt "What is shown?" --tp 4 --pp 2
"""

import sys

if __name__ == "__main__":
    del sys.path[0]  # this folder: its inspect.py would hide the standard library's

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from checkpoint_tools.command_line import run_command
from genrecal_mcore.cli.console import table_console
from genrecal_mcore.cli.quiet import quiet_imports

if TYPE_CHECKING:
    from checkpoint_tools.verification.outcome import Outcome
    from checkpoint_tools.verification.real import Question
    from genrecal_mcore.parallel import MeshSpec

FAMILY_GATES = ("L0", "L1", "L2", "L3")
CHECKPOINT_GATES = ("L0", "L1", "L4")
ROLE_ORDER = ("both", "teacher", "student")


def main(
    all_families: Annotated[
        bool, typer.Option("--all-families", help="Every model, tiny and random, L0 at full size.")
    ] = False,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="One of them, e.g. InternVL2.5-8B; repeatable.")
    ] = None,
    hf_path: Annotated[Path | None, typer.Option(help="A real checkpoint: L0, L1, L4.")] = None,
    mcore_path: Annotated[Path | None, typer.Option(help="The teacher converted from --hf-path.")] = None,
    gates: Annotated[str | None, typer.Option(help="Gates to pass, e.g. L0,L1; all if left out.")] = None,
    tp: Annotated[int, typer.Option(min=1, help="L4: tensor-parallel size.")] = 1,
    pp: Annotated[int, typer.Option(min=1, help="L4: pipeline-parallel size.")] = 1,
    image: Annotated[Path | None, typer.Option(help="L4: an image file.")] = None,
    prompt: Annotated[str | None, typer.Option(help="L4: a question about it.")] = None,
    answer: Annotated[str | None, typer.Option(help="L4: its answer; by default the model's own.")] = None,
    activations: Annotated[
        bool, typer.Option("--activations", help="Name the first layer whose output differs.")
    ] = False,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the outcomes to this file.")] = None,
) -> None:
    """Prove that models convert; exit code 1 when a gate is not passed.

    Example: python checkpoint_tools/verify.py --all-families --gates L0,L1,L2,L3
    """
    quiet_imports()
    if (hf_path is None) == (not all_families and not model):
        raise ValueError("name either --all-families (or --model NAME) or --hf-path FOLDER")
    if hf_path is None:
        about_l4 = {"mcore_path": mcore_path, "image": image, "prompt": prompt, "answer": answer}
        ignored = [name for name, value in about_l4.items() if value is not None]
        ignored += [name for name, size in (("tp", tp), ("pp", pp)) if size != 1]
        if ignored:
            raise ValueError(
                f"--{ignored[0].replace('_', '-')} belongs to --hf-path, a family has layouts of its own"
            )
        outcomes = _families(model, _chosen(gates, FAMILY_GATES, "--all-families"), names_layers=activations)
    else:
        from checkpoint_tools.verification.real import Question
        from genrecal_mcore.parallel import MeshSpec

        question = None
        if image is not None and prompt is not None:
            question = Question(image=image, prompt=prompt, answer=answer)
        mesh = MeshSpec(name="teacher", tp=tp, pp=pp, sequence_parallel=tp > 1)
        chosen = _chosen(gates, CHECKPOINT_GATES, "--hf-path")
        outcomes = _checkpoint(hf_path, mcore_path, chosen, question, mesh, names_layers=activations)
    _print(outcomes)
    if as_json is not None:
        as_json.write_text(json.dumps([asdict(o) for o in outcomes], indent=2) + "\n", encoding="utf-8")
    if not all(outcome.passed for outcome in outcomes):
        raise typer.Exit(1)


def _chosen(gates: str | None, known: tuple[str, ...], where: str) -> tuple[str, ...]:
    chosen = known if gates is None else tuple(gates.split(","))
    unknown = [gate for gate in chosen if gate not in known]
    if unknown:
        raise ValueError(f"--gates {gates}: {where} has the gates {','.join(known)}, not {','.join(unknown)}")
    return chosen


def _families(models: list[str] | None, gates: tuple[str, ...], *, names_layers: bool) -> list["Outcome"]:
    import torch

    from checkpoint_tools.verification import gates as family_gates
    from checkpoint_tools.verification.names_and_shapes import check_names_and_shapes
    from genrecal_mcore.layouts.published_models import PUBLISHED_MODELS

    # As many as each rank has: with another number of threads torch sums, and so rounds, in another order.
    torch.set_num_threads(1)
    unknown = [name for name in models or () if name not in family_gates.TINY_MODELS]
    if unknown:
        raise ValueError(f"--model {unknown[0]}: expected one of {', '.join(family_gates.TINY_MODELS)}")
    names = models or list(family_gates.TINY_MODELS)
    outcomes = []
    if "L0" in gates:
        full_size = [name for name in names if name in PUBLISHED_MODELS]
        outcomes += [check_names_and_shapes(name) for name in full_size]
    if not set(gates) & {"L1", "L2", "L3"}:
        return outcomes
    with tempfile.TemporaryDirectory() as root:
        folders = {name: Path(root) / str(seed) for seed, name in enumerate(names)}
        tinies = [
            family_gates.make_tiny_family(name, folders[name], seed=seed) for seed, name in enumerate(names)
        ]
        if "L1" in gates:
            for tiny in tinies:
                outcomes += family_gates.check_round_trips(tiny, folders[tiny.name])
        if "L2" in gates:
            outcomes += family_gates.check_teacher_logits(
                "L2", tinies, (family_gates.ONE_RANK,), names_layers=names_layers
            )
            outcomes += [family_gates.check_student_logits(tiny) for tiny in tinies]
        if "L3" in gates:
            outcomes += family_gates.check_teacher_logits(
                "L3", tinies, family_gates.L3_MESHES, names_layers=names_layers
            )
    return outcomes


def _checkpoint(
    hf_path: Path,
    mcore_path: Path | None,
    gates: tuple[str, ...],
    question: "Question | None",
    mesh: "MeshSpec",
    *,
    names_layers: bool,
) -> list["Outcome"]:
    from checkpoint_tools.verification.real import check_answers, check_names, check_way_back

    if mcore_path is None and set(gates) & {"L1", "L4"}:
        raise ValueError("L1 and L4 need --mcore-path, the teacher converted from --hf-path; or --gates L0")
    if question is None and "L4" in gates:
        raise ValueError("L4 needs --image and --prompt; or choose --gates L0,L1")
    plan, names = check_names(hf_path)
    outcomes = [names]
    if plan is None or mcore_path is None:
        return outcomes
    if "L1" in gates:
        outcomes.append(check_way_back(plan, hf_path, mcore_path))
    if question is not None and "L4" in gates:
        outcomes += check_answers(hf_path, mcore_path, question, mesh, names_layers=names_layers)
    return outcomes


def _print(outcomes: list["Outcome"]) -> None:
    console = table_console()
    table = Table("model", "role", "gate", "", "measured")
    for outcome in sorted(outcomes, key=lambda o: (o.model, ROLE_ORDER.index(o.role), o.gate)):
        verdict = "[green]passed[/]" if outcome.passed else "[red]FAILED[/]"
        table.add_row(outcome.model, outcome.role, outcome.gate, verdict, outcome.detail)
    console.print(table)
    passed = sum(outcome.passed for outcome in outcomes)
    console.print(f"{passed} of {len(outcomes)} gates passed")


if __name__ == "__main__":
    run_command(main)
