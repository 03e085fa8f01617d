"""Builds what a student rank trains: student, Recalibrator and head, from files and from an earlier run's
result.
"""

import logging
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedModel

from genrecal_mcore.config import RunConfig, load_run_config
from genrecal_mcore.models import (
    Recalibrator,
    add_lora,
    checkpoint_layers,
    initialise_recalibrator,
    learn_all_but_vision_encoder,
    learn_body,
    load_student,
    load_teacher_head,
    merge_lora,
    use_packed_attention,
    vision_encoder,
)
from genrecal_mcore.training.checkpoint import checkpoint_of_step, latest_checkpoint, read_model_tensors
from genrecal_mcore.training.integrity import damage_of
from genrecal_mcore.training.stages import Stage, stage_of
from genrecal_mcore.training.student_module import StudentModule

logger = logging.getLogger(__name__)


def build_student_module(config: RunConfig, *, device: torch.device) -> StudentModule:
    """Return the unsharded module of a run at its first step, with what learns marked."""
    stage = stage_of(config)
    student = student_before_stage(config)
    recalibrator = head = None
    if stage.has_teacher:
        assert config.teacher is not None
        head = load_teacher_head(config.teacher.checkpoint, device=device)
    if stage.has_recalibrator:
        assert head is not None
        recalibrator = recalibrator_before_stage(config, student, teacher_hidden_size=head.shape[1])
    return assemble_student_module(config, student, recalibrator, head).to(device)


def assemble_student_module(
    config: RunConfig,
    student: PreTrainedModel,
    recalibrator: Recalibrator | None,
    head: torch.Tensor | None,
) -> StudentModule:
    """Put the parts of a run together: adapters, what learns, dtypes, modes.

    `student` is in the run's dtype, nothing of it learning; `head` is `[v, h_t]`. Parameters that learn
    become float32, whatever the dtype of the rest: an update of 1e-4 would be lost in bfloat16. A frozen
    Recalibrator is in the run's dtype too. The parts may be on the meta device: `planning` counts what this
    returns.
    """
    stage = stage_of(config)
    use_packed_attention(student.model.language_model.config)
    if stage.student_learns == "lora":
        add_lora_(student, config)
    elif stage.student_learns == "body":
        learn_body(student)
    elif stage.student_learns == "all_but_vision_encoder":
        learn_all_but_vision_encoder(student)
    if recalibrator is not None:
        recalibrator.requires_grad_(stage.recalibrator_learns)
    module = StudentModule(
        student, recalibrator, head, stage=stage, loss_memory_bytes=config.loss.memory_budget_mib * 2**20
    )
    dtype = getattr(torch, config.train.dtype)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else dtype)
    set_modes(module, config)
    return module


def student_before_stage(config: RunConfig) -> PreTrainedModel:
    """Return the student as the run starts with it: from its files, plus what earlier runs taught it."""
    student = load_student(config.student.checkpoint, dtype=getattr(torch, config.train.dtype))
    if config.init_from is not None:
        apply_result(student, config.init_from)
    return student


def apply_result(student: PreTrainedModel, run_dir: Path, *, step: int | None = None) -> None:
    """Bring a freshly loaded student to the state in which a run left it, or had it after `step` steps,
    adapters merged.

    Runs that the named one started from are applied first.
    """
    config = load_run_config(run_dir / "config.yaml")
    stage = stage_of(config)
    if config.init_from is not None:
        apply_result(student, config.init_from)
    if stage.student_learns == "nothing":
        return
    tensors = read_model_tensors(result_of(run_dir, step=step), "student.")
    if stage.student_learns == "lora":
        add_lora_(student, config)
    _load_into(student, tensors, where=run_dir)
    if stage.student_learns == "lora":
        merge_lora(student)
        student.requires_grad_(False)


def add_lora_(student: PreTrainedModel, config: RunConfig) -> None:
    """Put the adapters that a run asks for into the student, in place."""
    lora = config.student.lora
    assert lora is not None
    add_lora(student, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, seed=config.train.seed)


def result_of(run_dir: Path, *, step: int | None = None) -> Path:
    """Return the newest checkpoint of a run, or the one after `step` steps.

    Raises `ValueError` when there is none or it is damaged.
    """
    checkpoint = latest_checkpoint(run_dir) if step is None else checkpoint_of_step(run_dir, step)
    if checkpoint is None:
        raise ValueError(
            f"{run_dir} holds no checkpoint to start from; train it first or name another run in init_from"
        )
    damage = damage_of(checkpoint)
    if damage is not None:
        raise ValueError(f"{damage}; resume the run {run_dir}, which goes back to the checkpoint before it")
    return checkpoint


def recalibrator_before_stage(
    config: RunConfig, student: PreTrainedModel, *, teacher_hidden_size: int
) -> Recalibrator:
    """Return the Recalibrator as the run starts with it: new in stage 1, an earlier run's afterwards."""
    if config.init_from is not None:
        return recalibrator_of(config.init_from, config, student, teacher_hidden_size=teacher_hidden_size)
    recalibrator = new_recalibrator(config, student, teacher_hidden_size=teacher_hidden_size)
    std = student.config.get_text_config().initializer_range
    initialise_recalibrator(recalibrator, std=std, seed=config.train.seed)
    return recalibrator


def new_recalibrator(
    config: RunConfig, student: PreTrainedModel, *, teacher_hidden_size: int
) -> Recalibrator:
    """Return a Recalibrator as `config` says, for a student, with torch's own initialisation."""
    return Recalibrator(
        student.config.get_text_config(),
        teacher_hidden_size=teacher_hidden_size,
        num_layers=config.recalibrator.num_layers,
        extra_norm=config.recalibrator.extra_norm,
    )


def recalibrator_of(
    run_dir: Path,
    config: RunConfig,
    student: PreTrainedModel,
    *,
    teacher_hidden_size: int,
    step: int | None = None,
) -> Recalibrator:
    """Return the Recalibrator that a run left, or had after `step` steps, for a student and as `config` says.

    Raises `ValueError` when the run left another one.
    """
    recalibrator = new_recalibrator(config, student, teacher_hidden_size=teacher_hidden_size)
    tensors = recalibrator_result(run_dir, step=step)
    missing = [name for name, _ in recalibrator.named_parameters() if name not in tensors]
    if missing:
        raise ValueError(
            f"{run_dir} left a Recalibrator without {missing[0]}, which this run's has; set "
            "recalibrator.num_layers and recalibrator.extra_norm as they are there"
        )
    _load_into(recalibrator, tensors, where=run_dir)
    return recalibrator


def recalibrator_result(run_dir: Path, *, step: int | None = None) -> dict[str, torch.Tensor]:
    """Return the Recalibrator's tensors of a run, at its end or after `step` steps, or of the run that it
    started from when it did not train one.
    """
    tensors = read_model_tensors(result_of(run_dir, step=step), "recalibrator.")
    if tensors:
        return tensors
    parent = load_run_config(run_dir / "config.yaml").init_from
    if parent is None:
        raise ValueError(
            f"{run_dir} and the runs before it hold no Recalibrator; stage 2 starts from a stage-1 run"
        )
    return recalibrator_result(parent)


def _load_into(module: torch.nn.Module, tensors: dict[str, torch.Tensor], *, where: Path) -> None:
    own = dict(module.named_parameters(remove_duplicate=False))
    wrong = [name for name, tensor in tensors.items() if name not in own or own[name].shape != tensor.shape]
    if wrong:
        raise ValueError(f"{where} holds {len(wrong)} tensors that do not fit this model, e.g. {wrong[0]}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def set_modes(module: StudentModule, config: RunConfig) -> None:
    """Put what learns into training mode, the vision encoder into evaluation mode; set up recomputation."""
    module.train(module.stage.student_learns != "nothing")
    for encoder in vision_encoder(module.student):
        encoder.eval()
    if module.recalibrator is not None:
        module.recalibrator.train()
    if config.train.gradient_checkpointing and module.stage.student_learns != "nothing":
        num_layers = len(student_layers(module))
        checkpoint_layers(module.student, num_layers=config.train.num_checkpointed(num_layers))


def shard_(module: StudentModule, config: RunConfig, group: dist.ProcessGroup) -> StudentModule:
    """Shard parameters, gradients and optimizer state over the student group with FSDP2, in place.

    Every decoder layer is a unit of its own; what learns of head, embedding, vision and projections belongs
    to the root, so that the one forward of the root finds it whole. Gradients are summed, not averaged:
    losses are divided by global counts already.
    """
    mesh = DeviceMesh.from_group(group, module_device_type(module))
    dtype = getattr(torch, config.train.dtype)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    shard = partial(fully_shard, mesh=mesh, mp_policy=policy, ignored_params=whole_parameters(module, config))
    for layer in student_layers(module):
        shard(layer, reshard_after_forward=config.train.reshard_after_forward)
    for layer in recalibrator_layers(module):
        # The last ones forward are the first ones backward, which would wait for weights gathered again.
        shard(layer, reshard_after_forward=False)
    shard(module)
    for child in module.modules():
        if isinstance(child, FSDPModule):
            child.set_gradient_divide_factor(1.0)
            child.set_force_sum_reduction_for_comms(True)
    return module


def whole_parameters(module: StudentModule, config: RunConfig) -> set[torch.nn.Parameter]:
    """Return the parameters that every rank keeps whole and never gathers: frozen ones outside the student's
    decoder layers, and without `train.reshard_after_forward` those inside too.

    The root's weights are whole from the forward to the backward pass: shards of them would come on top.
    """
    frozen = {p for p in module.parameters() if not p.requires_grad}
    if not config.train.reshard_after_forward:
        return frozen
    return frozen - {p for layer in student_layers(module) for p in layer.parameters()}


def student_layers(module: StudentModule) -> list[torch.nn.Module]:
    """Return the decoder layers of the student, which are sharded one by one."""
    return list(module.student.model.language_model.layers)


def recalibrator_layers(module: StudentModule) -> list[torch.nn.Module]:
    """Return the decoder layers of the Recalibrator, which are sharded one by one."""
    return list(module.recalibrator.rec_body.layers) if module.recalibrator is not None else []


def module_device_type(module: torch.nn.Module) -> str:
    """Return `cpu` or `cuda`: where the module's parameters are."""
    return next(module.parameters()).device.type


def trainable_parameters(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the parameters that learn, in the module's order."""
    return [p for p in module.parameters() if p.requires_grad]


def log_parameters(module: StudentModule, stage: Stage) -> None:
    """Log how many parameters there are and how many of them learn."""
    total = sum(p.numel() for p in module.parameters())
    learning = sum(p.numel() for p in trainable_parameters(module))
    logger.info("student side: %d parameters, %d learn (student: %s)", total, learning, stage.student_learns)
