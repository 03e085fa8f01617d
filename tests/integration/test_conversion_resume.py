"""Conversions in pieces: by several processes, killed and gone on with, on a full disk, at a layout."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from checkpoint_tools import pieces
from checkpoint_tools.conversion import Options, convert_to_mcore
from checkpoint_tools.engine import plan_conversion
from checkpoint_tools.loadable import check_loads_at
from checkpoint_tools.pieces import Piece, pieces_of
from genrecal_mcore.config import load_teacher_manifest
from genrecal_mcore.layouts import open_checkpoint
from tests.helpers.tiny_models import make_tiny_model

SMALL = 60_000
"""Bytes a piece: the tiny model has several."""


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", SMALL)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("source") / "model", "internvl_llama", seed=4)


@pytest.fixture
def undisturbed(source: Path, tmp_path: Path) -> dict[str, str]:
    """Return the digests of a conversion at one go."""
    convert_to_mcore(source, tmp_path / "undisturbed")
    return load_teacher_manifest(tmp_path / "undisturbed").digests


def killed_after(num_bytes: int) -> Callable[[int], Callable[[int], None]]:
    """Return a progress callback that kills its own process once so many bytes are written."""
    written = 0

    def advance(new: int) -> None:
        nonlocal written
        written += new
        if written >= num_bytes:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda _: advance


def convert_and_die(source: Path, out: Path, *, after_bytes: int) -> None:
    child = os.fork()
    if child == 0:
        convert_to_mcore(source, out, progress=killed_after(after_bytes))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def count_written(monkeypatch: pytest.MonkeyPatch) -> list[Piece]:
    """Return a list that every piece joins when it is written."""
    written: list[Piece] = []
    write_piece = pieces.write_piece

    def counted(plan: object, folder: Path, piece: Piece, advance: object) -> object:
        written.append(piece)
        return write_piece(plan, folder, piece, advance)  # type: ignore[arg-type]

    monkeypatch.setattr(pieces, "write_piece", counted)
    return written


def test_several_processes_write_what_one_does(
    source: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    assert sum(name.endswith(".distcp") for name in undisturbed) >= 4
    seen: list[int] = []
    convert_to_mcore(source, tmp_path / "out", Options(jobs=3), progress=lambda total: seen.append)
    assert load_teacher_manifest(tmp_path / "out").digests == undisturbed
    totals: list[int] = []
    convert_to_mcore(source, tmp_path / "alone", progress=lambda total: totals.append)
    assert sum(seen) == sum(totals) and len(seen) < len(totals)


def test_a_machine_with_a_gpu_writes_what_one_without_does(
    source: Path, undisturbed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's writer copies ahead, in another order, when it sees CUDA; tensors here share memory."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    convert_to_mcore(source, tmp_path / "out")
    assert load_teacher_manifest(tmp_path / "out").digests == undisturbed


def test_a_killed_conversion_goes_on_where_it_stopped(
    source: Path, undisturbed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    convert_and_die(source, out, after_bytes=3 * SMALL)
    assert not out.exists()
    written = count_written(monkeypatch)
    convert_to_mcore(source, out, Options(resume=True, verify=True))
    num_pieces = sum(name.endswith(".distcp") for name in undisturbed) + 2
    assert 0 < len(written) <= num_pieces - 2
    assert load_teacher_manifest(out).digests == undisturbed
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_piece_that_was_cut_short_is_written_again(
    source: Path, undisturbed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    convert_and_die(source, out, after_bytes=3 * SMALL)
    first = tmp_path / ".partial_out" / "language" / "__0_0.distcp"
    first.write_bytes(first.read_bytes()[:-1])
    written = count_written(monkeypatch)
    convert_to_mcore(source, out, Options(resume=True))
    assert written[0].name == "language_0"
    assert load_teacher_manifest(out).digests == undisturbed


def test_a_conversion_of_something_else_is_not_gone_on_with(source: Path, tmp_path: Path) -> None:
    convert_and_die(source, tmp_path / "out", after_bytes=3 * SMALL)
    with pytest.raises(ValueError, match="was begun with another --dtype; convert with"):
        convert_to_mcore(source, tmp_path / "out", Options(resume=True, dtype="bfloat16"))
    os.utime(source / "model.safetensors")
    with pytest.raises(ValueError, match="was begun with another source; convert with"):
        convert_to_mcore(source, tmp_path / "out", Options(resume=True))
    convert_to_mcore(source, tmp_path / "out")


def test_resume_without_anything_to_go_on_with_begins(
    source: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    convert_to_mcore(source, tmp_path / "out", Options(resume=True))
    assert load_teacher_manifest(tmp_path / "out").digests == undisturbed


def test_a_disk_that_is_full_half_way_ends_with_one_message_and_can_be_gone_on_with(
    source: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """A limit on the size of files stands for the disk: writing fails in the same place, with an OSError."""
    script = (
        "from checkpoint_tools import pieces; pieces.PIECE_BYTES = 60000\n"
        "from checkpoint_tools.hf2mcore import main\n"
        "from checkpoint_tools.command_line import run_command; run_command(main)"
    )
    command = [sys.executable, "-c", script, "--hf-path", str(source), "--out", str(tmp_path / "out")]
    limit = 65_000

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=limit_files, timeout=120
    )
    assert done.returncode == 2
    assert "File too large" in done.stderr and "Traceback" not in done.stderr
    assert ".partial_out/vision: the " in done.stderr and "make room on the disk" in done.stderr
    assert "finished pieces stay in" in done.stderr and "pass --resume to go on" in done.stderr
    assert not (tmp_path / "out").exists()
    convert_to_mcore(source, tmp_path / "out", Options(resume=True))
    assert load_teacher_manifest(tmp_path / "out").digests == undisturbed


def test_an_interrupted_script_says_how_to_go_on(source: Path, tmp_path: Path) -> None:
    script = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell put us behind &\n"
        "from checkpoint_tools import pieces; pieces.PIECE_BYTES = 60000\n"
        "finish = pieces.finish_piece\n"
        "def then_interrupt(*args):\n"
        "    finished = finish(*args); os.kill(os.getpid(), signal.SIGINT); return finished\n"
        "pieces.finish_piece = then_interrupt\n"
        "from checkpoint_tools.hf2mcore import main\n"
        "from checkpoint_tools.command_line import run_command; run_command(main)"
    )
    command = [sys.executable, "-c", script, "--hf-path", str(source), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 130
    assert "interrupted; " in done.stderr and "pass --resume to go on" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_disk_that_is_full_in_the_language_body_ends_with_one_message(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "checkpoint_tools.hf2mcore", "--hf-path", str(source)]

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit_files,
        timeout=120,
    )
    assert done.returncode == 2
    assert "/language: the " in done.stderr and "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"undisturbed"}


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_every_rank_of_a_layout_finds_its_tensors(source: Path, tmp_path: Path, tp: int, pp: int) -> None:
    convert_to_mcore(source, tmp_path / "out", Options(tp=tp, pp=pp, verify=True))
    verified = load_teacher_manifest(tmp_path / "out").verified
    assert verified == ("round_trip", f"loads_at_tp{tp}_pp{pp}")


def test_a_layout_that_does_not_divide_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"4 layers, which --pp \(3\) does not divide; .*--tp \(4\)"):
        convert_to_mcore(source, tmp_path / "out", Options(tp=4, pp=3))
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_no_rank_reads_is_found(source: Path, tmp_path: Path) -> None:
    convert_to_mcore(source, tmp_path / "out")
    manifest = load_teacher_manifest(tmp_path / "out")
    fewer = manifest.language.model_copy(update={"num_layers": 2})
    with pytest.raises(ValueError, match=r"tensors that no rank of tp 1 x pp 1 reads, e\.g\. decoder"):
        check_loads_at(fewer, tmp_path / "out" / "language", tp=1, pp=1)
    more = manifest.language.model_copy(update={"num_layers": 6})
    with pytest.raises(ValueError, match=r"lacks the tensor decoder\.layers\.4"):
        check_loads_at(more, tmp_path / "out" / "language", tp=1, pp=1)


def test_pieces_hold_every_tensor_once(source: Path) -> None:
    plan = plan_conversion(open_checkpoint(source))
    names = [(piece.part, spec.name) for piece in pieces_of(plan, torch.float32) for spec in piece.specs]
    assert len(names) == len(set(names)) == len(plan.entries) + len(plan.vision) + 1
