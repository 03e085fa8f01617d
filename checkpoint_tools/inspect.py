"""Print what a checkpoint folder holds: a Hugging Face checkpoint, or a converted teacher.

Example: python checkpoint_tools/inspect.py checkpoints/teacher --digests
"""

import sys

if __name__ == "__main__":
    del sys.path[0]  # this folder: this file would hide the standard library's inspect

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from checkpoint_tools.command_line import progress_bar, run_command
from genrecal_mcore.cli.console import table_console
from genrecal_mcore.cli.quiet import quiet_imports

if TYPE_CHECKING:
    from checkpoint_tools.inspection import Inspection


LANGUAGE_ROWS = {
    "layers": "num_layers",
    "hidden size": "hidden_size",
    "attention heads": "num_attention_heads",
    "key-value heads (groups)": "num_query_groups",
    "head dim": "head_dim",
    "FFN size": "ffn_hidden_size",
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "rope base": "rotary_base",
    "M-RoPE section": "mrope_section",
    "norm epsilon": "norm_epsilon",
    "qkv bias": "qkv_bias",
    "tied embeddings": "tied_embeddings",
}
VISION_ROWS = {"layers": "num_layers", "hidden size": "hidden_size", "attention heads": "num_attention_heads"}
PART_NAMES = {
    "vision": "vision (tower and projector)",
    "language": "language (without embedding)",
    "tied_head": "head, a copy of the embedding",
}


def main(
    folder: Annotated[Path, typer.Argument(help="Hugging Face checkpoint, or teacher of hf2mcore.py.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    digests: Annotated[
        bool, typer.Option("--digests", help="Compare every file of a teacher with teacher.json.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, no tables.")] = False,
) -> None:
    """Print what a checkpoint folder holds; exit code 1 when something in it is wrong.

    Example: python checkpoint_tools/inspect.py checkpoints/teacher --digests
    """
    quiet_imports()
    from checkpoint_tools import inspection

    with progress_bar() as progress:
        found = inspection.inspect_checkpoint(folder, digests=digests, progress=progress)
    if as_json:
        typer.echo(json.dumps(inspection.as_json(found, with_tensors=tensors), indent=2))
    else:
        show(found, with_tensors=tensors)
    if found.problems:
        raise typer.Exit(1)


def show(found: "Inspection", *, with_tensors: bool) -> None:
    """Print tables, then the problems."""
    console = table_console(markup=False, emoji=False, highlight=False)
    tables = [_two_columns(str(found.path), _facts(found)), _sizes(found), _parts(found)]
    tables += [_two_columns("dtypes", [(name, _number(count)) for name, count in found.dtypes.items()])]
    for table in tables + [_tensors(found)] * with_tensors:
        console.print(table)
    for problem in found.problems:
        console.print(f"problem: {problem}", soft_wrap=True)


def _number(value: object) -> str:
    """Return a value for a table: separators in numbers, words for switches."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 and value.is_integer() else f"{value:g}"
    if isinstance(value, tuple):
        return ", ".join(map(_number, value)) or "-"
    return str(value)


def _two_columns(title: str, rows: list[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _facts(found: "Inspection") -> list[tuple[str, str]]:
    rows: list[tuple[str, object]] = [
        ("kind", "converted teacher" if found.teacher else "Hugging Face checkpoint"),
        ("family", found.family.value),
        ("layout of the source" if found.teacher else "layout", found.layout),
        ("tensors", len(found.tensors)),
        ("files" if found.teacher else "files of weights", found.num_files),
    ]
    if found.teacher:
        rows += [
            ("source", found.teacher.source),
            ("dtype", found.teacher.dtype),
            ("checks passed", found.teacher.verified),
            ("tensor-parallel sizes", found.teacher.tp),
            ("pipeline-parallel sizes, even", found.teacher.pp),
            ("digests", _digests(found)),
        ]
    return [(name, _number(value)) for name, value in rows]


def _digests(found: "Inspection") -> str:
    assert found.teacher is not None
    facts = found.teacher.digests
    if facts is None:
        return "not compared (--digests)"
    wrong = len(facts.missing) + len(facts.differing)
    same = facts.num_files - wrong
    return f"{same:,} of {facts.num_files:,} files as in teacher.json"


def _sizes(found: "Inspection") -> Table:
    language = found.language.model_dump() if found.language else {}
    table = Table("size", title="sizes", title_justify="left")
    for name in ("language body", "vision tower"):
        table.add_column(name, justify="right")
    for row, field in LANGUAGE_ROWS.items():
        vision = _number(found.vision[VISION_ROWS[row]]) if row in VISION_ROWS else ""
        table.add_row(row, _number(language.get(field)), vision)
    return table


def _parts(found: "Inspection") -> Table:
    table = Table("part", title="contents", title_justify="left")
    columns = ("tensors", "parameters", "bytes")
    for name in columns:
        table.add_column(name, justify="right")
    for part, sums in found.parts.items():
        if part == "total":
            table.add_section()
        table.add_row(PART_NAMES.get(part, part), *(_number(sums[name]) for name in columns))
    return table


def _tensors(found: "Inspection") -> Table:
    table = Table(title="tensors", title_justify="left")
    for name in ("name", "native", "shape", "dtype"):
        table.add_column(name, overflow="fold", justify="right" if name == "shape" else "left")
    for row in _tensor_rows(found):
        table.add_row(*row)
    return table


def _tensor_rows(found: "Inspection") -> Iterator[tuple[str, str, str, str]]:
    for tensor in found.tensors:
        shape = " x ".join(map(_number, tensor.shape)) or "scalar"
        yield tensor.name, "\n".join(tensor.native) or "unknown", shape, tensor.dtype


if __name__ == "__main__":
    run_command(main)
