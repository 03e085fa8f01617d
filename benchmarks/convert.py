"""Times hf2mcore.py on a synthetic checkpoint in published layout, against copying the same files.

Example: python benchmarks/convert.py --gigabytes 8 --folder /scratch
"""

import copy
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from benchmarks.resident_memory import sampled_memory
from checkpoint_tools.conversion import write_shards
from checkpoint_tools.streaming import TensorSpec, cut_into_pieces
from checkpoint_tools.verification.tiny import original_model
from genrecal_mcore.cli.console import table_console
from genrecal_mcore.layouts.published_models import PUBLISHED_MODELS, PublishedModel

CONVERTER = Path(__file__).parents[1] / "checkpoint_tools" / "hf2mcore.py"
MODEL = "InternVL2.5-8B"
SHARD_BYTES = 2 * 10**9
GIB = 2**30


@dataclass
class Way:
    """One way to get the checkpoint over, and what was measured."""

    name: str
    run: Callable[[Path], float]
    """Writes into a folder; returns the peak resident memory in bytes, 0 where it is not of interest."""
    seconds: list[float] = field(default_factory=list)
    peak: float = 0.0


def main(
    gigabytes: Annotated[float, typer.Option(help="Size of the synthetic checkpoint.")] = 8.0,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each way is run; medians are shown.")] = 3,
    folder: Annotated[Path | None, typer.Option(help="Disk to use; three times the size is needed.")] = None,
) -> None:
    """Print seconds against a plain copy, peak memory and bytes a second."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = Path(name)
        num_bytes, largest = make_checkpoint(root / "source", gigabytes=gigabytes)
        ways = [
            Way("copy of the files", lambda out: copy_files(root / "source", out)),
            *(
                Way(f"hf2mcore.py --jobs {jobs}", lambda out, jobs=jobs: convert(root / "source", out, jobs))
                for jobs in (1, 2)
            ),
        ]
        for _ in range(rounds):
            for way in ways:
                start = time.perf_counter()
                way.peak = max(way.peak, way.run(root / "out"))
                way.seconds.append(time.perf_counter() - start)
                shutil.rmtree(root / "out")
    print_table(ways, num_bytes=num_bytes, largest=largest)


def make_checkpoint(folder: Path, *, gigabytes: float) -> tuple[int, int]:
    """Write `MODEL` with as many layers as fit, in its makers' layout and bfloat16.

    Returns its bytes and those of its largest tensor.
    """
    config = copy.deepcopy(PUBLISHED_MODELS[MODEL].config)
    specs = tensor_specs(config, num_layers=1)
    one = sum(spec.num_bytes for spec in specs)
    layer = sum(spec.num_bytes for spec in tensor_specs(config, num_layers=2)) - one
    specs = tensor_specs(config, num_layers=1 + max(0, round((gigabytes * 1e9 - one) / layer)))
    noise = torch.randint(-(2**15), 2**15, (2**24,), dtype=torch.int16)
    shapes = {spec.name: spec.shape for spec in specs}

    def read(name: str) -> torch.Tensor:
        size = torch.Size(shapes[name])
        repeated = noise.repeat(-(-size.numel() // noise.numel()))[: size.numel()]
        return repeated.view(torch.bfloat16).reshape(size)

    folder.mkdir()
    write_shards(folder, cut_into_pieces(specs, max_bytes=SHARD_BYTES), read, lambda _: None)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    added = {"<IMG_CONTEXT>": PUBLISHED_MODELS[MODEL].image_token_id}
    (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    return sum(spec.num_bytes for spec in specs), max(spec.num_bytes for spec in specs)


def tensor_specs(config: dict, *, num_layers: int) -> list[TensorSpec]:
    """Return the published tensors of the model with so many layers."""
    config["llm_config"]["num_hidden_layers"] = num_layers
    with torch.device("meta"):
        original = original_model(PublishedModel(config=config, image_token_id=0))
    return [
        TensorSpec(name=name, shape=tuple(tensor.shape), dtype=torch.bfloat16)
        for name, tensor in original.state_dict().items()
    ]


def copy_files(source: Path, out: Path) -> float:
    """Copy a folder; like the conversion, be done when the disk has it."""
    shutil.copytree(source, out)
    for path in out.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    return 0.0


def convert(source: Path, out: Path, jobs: int) -> float:
    """Run the script as a user does; return the peak of all its processes' resident memory together."""
    command = [sys.executable, str(CONVERTER), "--hf-path", str(source), "--out", str(out)]
    process = subprocess.Popen([*command, "--jobs", str(jobs)], stdout=subprocess.DEVNULL)
    with sampled_memory(process.pid) as peak:
        if process.wait() != 0:
            raise RuntimeError(f"{CONVERTER.name} ended with exit code {process.returncode}")
    return peak[0]


def print_table(ways: list[Way], *, num_bytes: int, largest: int) -> None:
    """Print every way beside the first."""
    console = table_console()
    title = f"{MODEL}-like, {num_bytes / 1e9:.1f} GB, largest tensor {largest / GIB:.2f} GiB"
    table = Table("", "seconds", "GB/s", "speed of copying", "peak memory in GiB", title=title)
    copied = statistics.median(ways[0].seconds)
    for way in ways:
        seconds = statistics.median(way.seconds)
        table.add_row(
            way.name,
            f"{seconds:.1f}",
            f"{num_bytes / seconds / 1e9:.2f}",
            f"{100 * copied / seconds:.0f} %",
            f"{way.peak / GIB:.2f}" if way.peak else "",
        )
    console.print(table)
    console.print(
        f"peak memory must stay below {3 + largest / GIB:.2f} GiB; medians of {len(ways[0].seconds)}"
    )


if __name__ == "__main__":
    typer.run(main)
