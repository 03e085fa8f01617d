"""Says to megatron-core which pipeline stage holds which decoder layers, so that each gets its global number.

The number is part of the names in a checkpoint: a converted teacher loads at any split.
"""

from megatron.core.transformer.enums import LayerType
from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout

from genrecal_mcore.parallel import MeshSpec


class StageLayout(PipelineParallelLayerLayout):
    """The split of a mesh as one of its stages sees it.

    mcore 0.16.1 asks for a stage's first layer without saying which stage (`get_transformer_layer_offset`),
    and the base class would then look into `parallel_state`, where nothing is.
    """

    def __init__(self, mesh: MeshSpec, *, num_layers: int, stage: int) -> None:
        counts = [len(mesh.layers_of_stage(i, num_layers=num_layers)) for i in range(mesh.pp)]
        stages = [[LayerType.decoder] * count for count in counts]
        # mcore wants to see both ends; we build neither by this table.
        stages[0].insert(0, LayerType.embedding)
        stages[-1].append(LayerType.loss)
        super().__init__(stages, mesh.pp)
        self.stage = stage

    def get_layer_offset(
        self,
        layer_type: LayerType = LayerType.decoder,
        vp_stage: int | None = None,
        pp_rank: int | None = None,
    ) -> int:
        """Return how many layers stand before this stage, or before `pp_rank`."""
        return super().get_layer_offset(layer_type, vp_stage, self.stage if pp_rank is None else pp_rank)
