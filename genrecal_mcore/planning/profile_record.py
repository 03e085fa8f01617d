"""What `genrecal profile` measured, as a file that `genrecal plan` reads."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genrecal_mcore.config import RunConfig
from genrecal_mcore.parallel import Layout
from genrecal_mcore.planning.costs import Op
from genrecal_mcore.planning.hardware import Hardware
from genrecal_mcore.planning.rates import LINKS, Rates, assumed_rates


class Profile(BaseModel):
    """Seconds that a run's own modules took on one device."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    date: str
    versions: dict[str, str]
    stage: int
    method: str
    dtype: str
    cores: int | None
    """Cores that ranks share on a CPU; None on GPUs."""
    crowded_pace: float = Field(gt=0, le=1)
    """How fast a core is while the others compute too, in times of its pace alone; 1 on GPUs."""
    seconds_per: dict[Op, float]
    """Of a flop, a byte, a call, a sample."""

    @property
    def title(self) -> str:
        """Name it for people."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"stage {self.stage} ({self.method}) in {self.dtype} on {self.device}, {self.date}, {versions}"


def load_profile(path: Path) -> Profile:
    """Read a profile; raises `ValueError` when the file is missing or is none."""
    if not path.is_file():
        raise ValueError(f"--profile: {path} does not exist; write one with genrecal profile")
    try:
        return Profile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"--profile: {path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial_{path.name}")
    partial.write_text(profile.model_dump_json(indent=1) + "\n", encoding="utf-8")
    partial.rename(path)


def check_profile(profile: Profile, config: RunConfig) -> None:
    """Raise `ValueError` when a profile was measured on another kind of run."""
    for key, found, wanted in (
        ("stage", profile.stage, config.stage),
        ("method", profile.method, config.method),
        ("train.dtype", profile.dtype, config.train.dtype),
    ):
        if found != wanted:
            raise ValueError(
                f"--profile was measured with {key} {found}, but this run has {wanted}; profile it"
            )


def measured_rates(profile: Profile, hardware: Hardware, layout: Layout) -> Rates:
    """Return the rates of a layout: measured where they were, by the data sheet between nodes.

    What elementwise passes take is part of what was measured.
    """
    assumed = assumed_rates(hardware, layout)
    in_node = layout.world_size <= hardware.devices_per_node
    measured = {
        op: seconds
        for op, seconds in profile.seconds_per.items()
        if in_node or op not in LINKS or op == Op.TENSOR_PARALLEL
    }
    return Rates(
        seconds_per={**assumed.seconds_per, Op.ELEMENTWISE: 0.0, **measured},
        hides_gathers=profile.cores is None,
        cores=profile.cores,
        crowded_pace=profile.crowded_pace,
        measured=profile.title,
    )
