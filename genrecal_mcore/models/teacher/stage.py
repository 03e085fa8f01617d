"""One rank's part of the frozen teacher: vision on the first pipeline stage, a slice of the decoder
everywhere.

Weights never move and never learn. The features of a microbatch leave the last stage; see
`training.teacher_loop` for who asks for them.
"""

from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core.process_groups_config import ProcessGroupCollection
from transformers import PreTrainedModel

from genrecal_mcore.config import TeacherManifest, validate_teacher_folder
from genrecal_mcore.models.teacher.language_body import TeacherLanguageBody
from genrecal_mcore.models.teacher.loading import load_language_body
from genrecal_mcore.models.vision import image_features, load_vision_model, scatter_features
from genrecal_mcore.parallel import MeshSpec


class TeacherStage(torch.nn.Module):
    """The teacher modules of one rank."""

    def __init__(self, body: TeacherLanguageBody, vision: PreTrainedModel | None) -> None:
        super().__init__()
        self.body = body
        self.vision = vision

    @property
    def is_first_stage(self) -> bool:
        """Whether this stage embeds tokens and sees pixels."""
        return self.body.is_first_stage

    @property
    def is_last_stage(self) -> bool:
        """Whether this stage ends with the final norm."""
        return self.body.is_last_stage

    def embed(self, input_ids: torch.Tensor, features: torch.Tensor | None) -> torch.Tensor:
        """Return the decoder's input: global `[s, b, h]`, local `[s/tp, b, h]` under sequence parallelism.

        `input_ids` `[b, s]`; `features` `[n, h]` of every image token of the microbatch, or None without
        images.
        """
        hidden_states = self.body.embed(input_ids)  # [b, s, h]
        if features is not None:
            assert self.vision is not None
            image_token_id = self.vision.config.image_token_id
            hidden_states = scatter_features(hidden_states, input_ids, features, image_token_id)
        return self.body.scatter_sequence(
            hidden_states.transpose(0, 1).contiguous()
        )  # [b, s, h] -> [s, b, h]

    def all_gather_image_features(
        self,
        pixel_values: torch.Tensor,
        image_grid_thw: torch.Tensor | None,
        features_per_item: tuple[int, ...],
    ) -> torch.Tensor:
        """Return features `[n, h]` of all tiles or images, each computed once (collective over tp)."""
        assert self.vision is not None
        group = self.body.groups.tp
        tp, tp_rank = group.size(), group.rank()
        if tp == 1:
            return image_features(self.vision, pixel_values, image_grid_thw)
        bounds = item_bounds(len(features_per_item), tp)
        counts = [sum(features_per_item[a:b]) for a, b in bounds]
        first, last = bounds[tp_rank]
        padded = torch.zeros(
            max(counts),
            self.body.spec.hidden_size,
            dtype=self.body.config.params_dtype,
            device=pixel_values.device,
        )
        if last > first:
            pixels, grid = slice_items(pixel_values, image_grid_thw, first, last)
            padded[: counts[tp_rank]] = image_features(self.vision, pixels, grid)
        gathered = torch.empty(tp * max(counts), padded.shape[1], dtype=padded.dtype, device=padded.device)
        dist.all_gather_into_tensor(gathered, padded, group=group)
        blocks = gathered.split(max(counts))
        return torch.cat([block[:count] for block, count in zip(blocks, counts, strict=True)])


def item_bounds(num_items: int, num_ranks: int) -> list[tuple[int, int]]:
    """Return for each rank the half-open range of vision items that it computes, as even as can be."""
    return [(num_items * r // num_ranks, num_items * (r + 1) // num_ranks) for r in range(num_ranks)]


def slice_items(
    pixel_values: torch.Tensor, image_grid_thw: torch.Tensor | None, first: int, last: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the pixels (and grids) of vision items `[first, last)`."""
    if image_grid_thw is None:
        return pixel_values[first:last], None
    patches = image_grid_thw.prod(-1).cumsum(0).tolist()
    start, end = ([0, *patches][i] for i in (first, last))
    return pixel_values[start:end], image_grid_thw[first:last]


def load_teacher_stage(
    folder: Path, mesh: MeshSpec, groups: ProcessGroupCollection, *, device: torch.device
) -> TeacherStage:
    """Build this rank's teacher stage and fill it from a converted checkpoint folder.

    Raises `ValueError` for a folder that is damaged or that the mesh cannot hold, saying which and why.
    """
    manifest = validate_teacher_folder(folder)
    dtype = torch_dtype(manifest)
    body = TeacherLanguageBody(manifest.language, mesh, groups, dtype=dtype)
    load_language_body(body.sharded_state_dict(), folder / "language")
    vision = None
    if body.is_first_stage:
        vision = load_vision_model(folder / "vision", manifest.family, dtype=dtype)
    return TeacherStage(body, vision).to(device)


def torch_dtype(manifest: TeacherManifest) -> torch.dtype:
    """Return the torch dtype that a teacher is stored in."""
    return getattr(torch, manifest.dtype)
