"""Makes this rank's ends of the channel from teacher to student ranks, or what stands in for it."""

import torch

from genrecal_mcore.config import load_teacher_manifest
from genrecal_mcore.feature_cache import FeatureWriter
from genrecal_mcore.training.cache_setup import CacheToRead, CacheToWrite
from genrecal_mcore.training.cached_features import CachedFeatures
from genrecal_mcore.training.features import ChannelFeatures, FeatureSource
from genrecal_mcore.training.job import Job
from genrecal_mcore.training.written_features import SamplesToWrite, WrittenFeatures
from genrecal_mcore.transfer import Edge, FeatureReceiver, FeatureSender

MIB = 2**20


def feature_source(job: Job) -> FeatureSource | None:
    """Return where this student rank's teacher features come from; None where no teacher takes part."""
    if isinstance(job.cache, CacheToRead):
        return cached_features(job, job.cache)
    if job.topology.layout.teacher is None:
        return None
    return channel_features(job) if job.cache is None else written_features(job, job.cache)


def channel_features(job: Job) -> ChannelFeatures:
    """Return the features that the job's teacher ranks send."""
    mesh = job.topology.layout.teacher
    assert mesh is not None
    return ChannelFeatures(
        feature_receiver(job), job.route_plan, mesh, with_questions=job.stage.with_questions
    )


def written_features(job: Job, cache: CacheToWrite) -> WrittenFeatures:
    """Return the same, written to a cache beside whatever takes them."""
    teacher = job.config.teacher
    assert teacher is not None
    writer = FeatureWriter(
        cache.folder,
        shard_bytes=int(teacher.cache_shard_mib * MIB),
        capacity=job.config.transfer.prefetch,
    )
    return WrittenFeatures(
        channel_features(job),
        writer,
        SamplesToWrite(job.order, job.batch, keys=cache.keys, is_missing=cache.is_missing),
        holds_questions=job.stage.with_questions,
        writes_questions=teacher.writes_questions,
        status=job.status,
    )


def cached_features(job: Job, cache: CacheToRead) -> CachedFeatures:
    """Return the features that a cache holds of the job's samples."""
    return CachedFeatures(
        cache.reader,
        cache.record,
        samples_of=job.samples_of,
        with_questions=job.stage.with_questions,
        device=job.topology.device,
        status=job.status,
    )


def feature_sender(job: Job) -> FeatureSender:
    """Return the sending end of every edge of this rank."""
    topology, transfer = job.topology, job.config.transfer
    assert topology.layout.teacher is not None
    tp_rank = topology.layout.teacher.coordinate_of(topology.rank).tp
    student = topology.layout.student
    peers = {
        student.coordinate_of(receiver).dp: Edge(group=group, peer_rank=receiver)
        for (_, receiver), group in topology.edges.items()
    }
    return FeatureSender(
        peers,
        is_header_sender=tp_rank == 0,
        prefetch=transfer.prefetch,
        timeout_s=transfer.timeout_s,
        who=topology.layout.who,
        status=job.status,
    )


def feature_receiver(job: Job) -> FeatureReceiver:
    """Return the receiving end of every edge of this rank."""
    topology, transfer = job.topology, job.config.transfer
    teacher = topology.layout.teacher
    assert teacher is not None and job.config.teacher is not None
    manifest = load_teacher_manifest(job.config.teacher.checkpoint)
    peers = {}
    for (sender, _), group in topology.edges.items():
        at = teacher.coordinate_of(sender)
        peers[at.dp, at.tp] = Edge(group=group, peer_rank=sender)
    return FeatureReceiver(
        peers,
        timeout_s=transfer.timeout_s,
        hidden_size=manifest.language.hidden_size,
        dtype=getattr(torch, manifest.dtype),
        device=topology.device,
        who=topology.layout.who,
        status=job.status,
    )
