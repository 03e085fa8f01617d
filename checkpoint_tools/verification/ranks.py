"""Runs converted teachers on ranks of this machine and gathers what each part computed."""

import multiprocessing
import os
import tempfile
import warnings
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from safetensors.torch import load_file, save_file

from checkpoint_tools.verification.activations import Activations
from checkpoint_tools.verification.probe import Probe
from genrecal_mcore.cli.quiet import quiet_imports
from genrecal_mcore.data.types import Microbatch
from genrecal_mcore.models import Packing, TeacherStage, load_teacher_head, load_teacher_stage
from genrecal_mcore.parallel import (
    Layout,
    MeshSpec,
    Topology,
    build_topology,
    children_import_silently,
    install_cpu_shims,
)
from genrecal_mcore.status import unrecorded_status
from genrecal_mcore.training.pipeline import PipelineLink
from genrecal_mcore.transfer import Unit

TIMEOUT_S = 600.0
UNIT = Unit(step=0, microbatch=0, student_rank=0)


def activations_on_ranks(
    teachers: dict[str, Path], probes: dict[str, Probe], mesh: MeshSpec
) -> dict[str, list[Activations]]:
    """Run each teacher on its probe, on `mesh`; return per teacher what `activations.activations_of` would.

    Ranks are processes of this machine: with a GPU each over NCCL, otherwise over gloo. Raises what the first
    rank that failed raised.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["genrecal_mcore.training", "checkpoint_tools.verification.ranks"])
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        with children_import_silently():  # the fork server, which starts with the first rank and stays
            torch.multiprocessing.start_processes(
                _work, (teachers, probes, mesh, out), nprocs=mesh.size + 1, start_method="forkserver"
            )
        return {key: _gathered(out, key, teachers[key], probes[key], mesh) for key in teachers}


def _work(rank: int, teachers: dict[str, Path], probes: dict[str, Probe], mesh: MeshSpec, out: Path) -> None:
    torch.set_num_threads(1)
    quiet_imports()
    warnings.filterwarnings("ignore", category=FutureWarning)
    device = torch.device("cpu")
    if torch.cuda.device_count() > mesh.size:
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    else:
        install_cpu_shims()
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{out / 'rendezvous'}",
        rank=rank,
        world_size=mesh.size + 1,
    )
    # The last rank is a student mesh of one, without which there is no layout; it only makes the groups.
    layout = Layout(teacher=mesh, student=MeshSpec(name="student", rank_offset=mesh.size))
    topology = build_topology(layout, rank=rank, device=device, served_pairs=[])
    if topology.is_teacher:
        for key, folder in teachers.items():
            tensors = _local_activations(folder, mesh, topology, probes[key])
            save_file({n: t.cpu().contiguous() for n, t in tensors.items()}, _file(out, key, rank))
    dist.barrier()
    dist.destroy_process_group()


def _file(out: Path, key: str, rank: int) -> Path:
    return out / f"{key.replace(os.sep, '_')}.{rank}.safetensors"


@torch.inference_mode()
def _local_activations(folder: Path, mesh: MeshSpec, topology: Topology, probe: Probe) -> Activations:
    """Return this rank's tensors: `[t/tp, 1, h]` under sequence parallelism, otherwise `[t, 1, h]`."""
    stage = load_teacher_stage(folder, mesh, topology.teacher_groups, device=topology.device)
    parts = mesh.tp if mesh.sequence_parallel else 1
    batch = probe.microbatch(pad_to_multiple_of=parts).to(topology.device)
    link = PipelineLink(
        topology, dtype=stage.body.config.params_dtype, timeout_s=TIMEOUT_S, status=unrecorded_status()
    )
    found: Activations = {}
    for layer in stage.body.decoder.layers:
        name = f"layer {layer.layer_number - 1}"
        layer.register_forward_hook(lambda _, __, output, name=name: found.update({name: output[0]}))
    if stage.is_first_stage:
        hidden_states = _embed(stage, batch, found)
    else:
        length = batch.input_ids.shape[1]
        hidden_states = link.take(link.post(UNIT, (length // parts, 1, stage.body.config.hidden_size)))
    packing = Packing.of(batch.bounds, topology.device)
    hidden_states = stage.body(hidden_states, batch.position_ids, packing)
    if stage.is_last_stage:
        found["final norm"] = hidden_states
    else:
        link.send(UNIT, hidden_states)
        link.drain()
    return found


def _embed(stage: TeacherStage, batch: Microbatch, found: Activations) -> torch.Tensor:
    features, vision = None, batch.vision
    if vision is not None:
        features = stage.all_gather_image_features(
            vision.pixel_values.to(stage.body.config.params_dtype),
            vision.image_grid_thw,
            vision.features_per_item,
        )
    found["embeddings"] = stage.embed(batch.input_ids, features)
    return found["embeddings"]


def _gathered(out: Path, key: str, folder: Path, probe: Probe, mesh: MeshSpec) -> list[Activations]:
    """Put the ranks' parts together again, one dictionary a sample, and add logits by the folder's head."""
    whole: Activations = {}
    for pp in range(mesh.pp):
        ranks = [load_file(_file(out, key, mesh.rank_at(tp=tp, pp=pp))) for tp in range(mesh.tp)]
        for name in ranks[0]:
            local = [tensors[name] for tensors in ranks]
            whole[name] = torch.cat(local) if mesh.sequence_parallel else local[0]
    head = load_teacher_head(folder, device=torch.device("cpu"))
    samples = []
    bounds = probe.microbatch(pad_to_multiple_of=1).bounds
    for start, end in pairwise(bounds):
        found = {name: tensor[start:end, 0] for name, tensor in whole.items()}
        found["logits"] = found["final norm"] @ head.T
        samples.append(found)
    return samples
