"""Check a container, with or without a GPU: NVIDIA's builds are untouched, pins hold, the package starts.

Example: python examples/container_smoke.py

The Dockerfile's last step. It reads the constraints that the image was installed under.
"""

import subprocess
import sys
from importlib.metadata import distributions, version
from pathlib import Path

from container_requirements import is_nvidia_build, normalised

# Code that imports Megatron-core, transformers and PEFT in earnest.
MODULES = (
    "megatron.core",
    "genrecal_mcore.training.teacher_loop",
    "genrecal_mcore.training.student_loop",
    "genrecal_mcore.evaluation",
    "checkpoint_tools.hf2mcore",
)


def wrong_versions(constraints: list[str]) -> list[str]:
    """Return a sentence for each installed distribution that is not what its constraint says."""
    installed = {normalised(found.name) for found in distributions()}
    pins = [line.split("==") for line in constraints]
    return [
        f"{name}: expected {pin}, found {version(name)}"
        for name, pin in pins
        if normalised(name) in installed and version(name) != pin
    ]


def shadowed_builds(environment: Path) -> list[str]:
    """Return the NVIDIA builds of which another copy lies in the virtual environment."""
    folders = [str(folder) for folder in environment.glob("lib*/python3*/site-packages")]
    return sorted({found.name for found in distributions(path=folders) if is_nvidia_build(found.name)})


def transformer_engine_state() -> str:
    """Load Transformer Engine and return its version, or why it cannot be loaded on a machine without a GPU.

    It then counts as not installed for the rest of this process. Raises its error where there is a GPU.
    """
    import torch

    try:
        import transformer_engine.pytorch  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        if torch.cuda.is_available():
            raise
        sys.modules["transformer_engine"] = None  # importlib's way to say "not installed"
        return f"{version('transformer-engine')} installed, not loadable without a driver ({error})"
    return version("transformer-engine")


def check_lora() -> None:
    """Put LoRA on a layer: PEFT looks at every optional package of the image then, and refuses some."""
    import peft
    import torch

    model = peft.get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(3, 2)), peft.LoraConfig(target_modules=["0"])
    )
    model(torch.ones(1, 3)).sum().backward()


def main() -> int:
    """Run the checks; returns 1 when a version is wrong, and raises where an import fails."""
    environment = Path(sys.prefix)
    constraints = (environment / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wrong = wrong_versions(constraints)
    wrong += [f"{name}: a second copy shadows NVIDIA's" for name in shadowed_builds(environment)]
    if wrong:
        print("error: " + "\nerror: ".join(wrong))
        return 1

    import torch

    torch.ones(2).numpy()  # fails when torch was built for another numpy
    print(f"torch {torch.__version__} from {Path(torch.__file__).parent}, GPUs: {torch.cuda.device_count()}")
    print(f"transformer-engine {transformer_engine_state()}")
    for module in MODULES:
        __import__(module)
    check_lora()
    subprocess.run([environment / "bin" / "genrecal", "--help"], check=True, stdout=subprocess.DEVNULL)
    print(f"versions are as pinned; {', '.join(MODULES)}, LoRA and genrecal --help work")
    return 0


if __name__ == "__main__":
    sys.exit(main())
