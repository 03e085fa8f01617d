"""`verify.py` on a real checkpoint, the demo's trained teacher, and what it says when something is wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from checkpoint_tools.conversion import convert_to_mcore

ROOT = Path(__file__).parents[2]
DEMO_TEACHER = ROOT / "examples" / "demo" / "teacher_hf"

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("verify") / "teacher"
    convert_to_mcore(DEMO_TEACHER, out)
    return out


@pytest.fixture(scope="module")
def circle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "circle.png"
    image = Image.new("RGB", (64, 64), (235, 235, 235))
    ImageDraw.Draw(image).ellipse((14, 14, 50, 50), fill=(0, 0, 255))
    image.save(path)
    return path


def verify(*args: str | Path, num_threads: int = 1) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "checkpoint_tools" / "verify.py"), *map(str, args)]
    # A user's own filter, under which no rank's imports may be heard either.
    environ = os.environ | {
        "PYTHONWARNINGS": "ignore:resource_tracker",
        "OMP_NUM_THREADS": str(num_threads),
    }
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environ)


def question(teacher: Path, image: Path) -> list[str | Path]:
    return [
        "--hf-path",
        DEMO_TEACHER,
        "--mcore-path",
        teacher,
        "--image",
        image,
        "--prompt",
        "what color is the shape?",
    ]


def test_a_trained_teacher_passes_at_tp_2_x_pp_2(teacher: Path, circle: Path, tmp_path: Path) -> None:
    done = verify(
        *question(teacher, circle), "--tp", "2", "--pp", "2", "--activations", "--json", tmp_path / "out.json"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = {o["gate"]: o for o in json.loads((tmp_path / "out.json").read_text())}
    assert list(outcomes) == ["L0", "L1", "L4", "L4 canary"]
    assert "top-1 agreement 100.0 %" in outcomes["L4"]["detail"]
    assert "no part differs" in outcomes["L4"]["detail"]
    assert done.stderr == ""


def test_a_vision_tower_that_was_not_loaded_is_caught(teacher: Path, circle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(teacher, broken)
    path = broken / "vision" / "model.safetensors"
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator) * 0.02 if "projector" in name else tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})
    done = verify(*question(broken, circle), "--gates", "L1,L4", "--activations")
    assert done.returncode == 1
    assert "does not come back as it was" in done.stdout.replace("│", " ")
    assert "first differs at embeddings" in done.stdout


def test_a_layer_that_differs_is_named(teacher: Path, circle: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(DEMO_TEACHER, changed)
    tensors = load_file(changed / "model.safetensors")
    name = next(n for n in tensors if "layers.1.mlp.down_proj" in n)
    tensors[name] = tensors[name] * 1.3
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    convert_to_mcore(changed, tmp_path / "other")
    done = verify(*question(tmp_path / "other", circle), "--gates", "L4", "--activations")
    assert done.returncode == 1
    assert "first differs at layer 1" in done.stdout


def test_families_pass_with_as_many_threads_as_a_user_has() -> None:
    """InternVL2-76B's tiny model rounds most: its own logits in fp32 are 2e-5 from those in fp64."""
    done = verify("--all-families", "--gates", "L2", num_threads=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "26 of 26 gates passed" in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "name either --all-families"),
        (["--all-families", "--gates", "L0,L4"], "--all-families has the gates L0,L1,L2,L3, not L4"),
        (["--all-families", "--tp", "4"], "--tp belongs to --hf-path"),
        (["--model", "GPT-4"], "--model GPT-4: expected one of Qwen2-VL-2B"),
        (["--hf-path", str(DEMO_TEACHER), "--gates", "L1"], "need --mcore-path"),
        (["--hf-path", "nowhere", "--gates", "L0"], "nowhere/config.json does not exist"),
    ],
)
def test_a_wrong_call_ends_with_one_message(args: list[str], message: str) -> None:
    done = verify(*args)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


def test_an_image_that_is_none_is_named(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_bytes(np.arange(9, dtype=np.uint8).tobytes())
    done = verify(*question(teacher, tmp_path / "text.png"), "--gates", "L4")
    assert done.returncode == 2
    assert "text.png cannot be read as an image" in done.stderr
