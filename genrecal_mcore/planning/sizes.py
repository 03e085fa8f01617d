"""Counts parameters exactly: arithmetic over sizes. What is no arithmetic is counted in `on_meta`."""

from dataclasses import dataclass
from math import prod

from genrecal_mcore.config import LanguageBodySpec
from genrecal_mcore.parallel import MeshSpec

ROOT = "root"
"""The unit of FSDP that holds what is in no decoder layer."""


def layer_unit(number: int) -> str:
    """Return the unit of FSDP that a decoder layer is, the student's first, then the Recalibrator's."""
    return f"layer {number}"


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentTensor:
    """One parameter of the student side, the student's or the Recalibrator's."""

    name: str
    shape: tuple[int, ...]
    element_size: int
    """Bytes of an element where it is kept, sharded."""
    learns: bool
    unit: str | None
    """The unit of FSDP that gathers it: the decoder layer that holds it, or `ROOT`. None for one that is
    whole on every rank.
    """

    @property
    def is_recalibrator(self) -> bool:
        """Whether it belongs to the Recalibrator."""
        return self.name.startswith("recalibrator.")

    @property
    def numel(self) -> int:
        """Elements of the whole tensor."""
        return prod(self.shape)

    def local_numel(self, dp: int) -> int:
        """Return the elements that the first of dp ranks keeps; FSDP2 pads the others' shards to as many."""
        if self.unit is None:
            return self.numel
        return -(-self.shape[0] // dp) * prod(self.shape[1:])


def teacher_body_parameters(spec: LanguageBodySpec, mesh: MeshSpec, *, stage: int) -> int:
    """Return the parameters of one tp rank's share of a pipeline stage of the language body.

    The modules of `models.teacher.language_body`: norms lie whole on each tp rank; linears are cut, and so is
    the vocabulary, rounded up to a multiple of tp.
    """
    tp, num_layers = mesh.tp, len(mesh.layers_of_stage(stage, num_layers=spec.num_layers))
    h, f, d = spec.hidden_size, spec.ffn_hidden_size, spec.head_dim
    heads, qkv_rows = spec.num_attention_heads, (spec.num_attention_heads + 2 * spec.num_query_groups) * d
    linears = qkv_rows * h + heads * d * h + 3 * f * h
    if spec.qkv_bias:
        linears += qkv_rows
    count = num_layers * (linears // tp + 2 * h)
    if stage == 0:
        count += -(-spec.vocab_size // tp) * h
    if stage == mesh.pp - 1:
        count += h
    return count
