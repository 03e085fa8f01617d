"""Stage 2 as a plain transformers loop: both models in one process, padded batches, logits of every position.

The mathematics is that of Algorithm 2; `benchmarks.stage2_step` runs it beside `genrecal train`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax
from torch.nn.utils.rnn import pad_sequence

from genrecal_mcore.data import RenderedSample
from genrecal_mcore.native import load_native_model
from tests.helpers.reference import NORM_EPSILON, ReferenceRecalibrator

NO_LABEL = -100


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedSample:
    """One sample in both models' tokens."""

    teacher: RenderedSample
    student: RenderedSample


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainRun:
    """What the loop is to do."""

    teacher: Path
    """Hugging Face folder, as the student's."""
    student: Path
    recalibrator: dict[str, torch.Tensor]
    lora_r: int
    lr: float
    num_threads: int
    steps: Sequence[Sequence[Sequence[PairedSample]]]
    """Of each step, its microbatches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainResult:
    """What it did."""

    losses: list[dict[str, float]]
    """Of each step, the terms by the names of metrics.jsonl."""
    seconds: list[float]


class PaddedRecalibrator(ReferenceRecalibrator):
    """The naive reference's Recalibrator, over a padded batch."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        for layer in self.rec_body.layers:
            layer.self_attn.config._attn_implementation = "sdpa"

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return `[b, s, h_t]` for input rows `[b, s, h_s]`; padding on the right changes nothing."""
        positions = self.rotary(rows, torch.arange(rows.shape[1])[None])
        for layer in self.rec_body.layers:
            rows = layer(rows, attention_mask=None, position_embeddings=positions)
        assert self.rec_norm is not None
        return self.rec_norm(self.rec_proj_post(rows))


def run_plain_loop(run: PlainRun) -> PlainResult:
    """Run the loop in this process, fp32."""
    torch.set_num_threads(run.num_threads)
    torch.manual_seed(0)
    teacher, student = (load_native_model(path, dtype=torch.float32) for path in (run.teacher, run.student))
    teacher.requires_grad_(False).eval()
    recalibrator = recalibrator_of(run, student, teacher)
    student.requires_grad_(False).train()
    adapt(student, r=run.lora_r)
    learning = [p for model in (student, recalibrator) for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=run.lr, weight_decay=0.0)
    losses, seconds = [], []
    for microbatches in run.steps:
        start = time.perf_counter()
        losses.append(step((teacher, student, recalibrator), microbatches))
        torch.nn.utils.clip_grad_norm_(learning, float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    return PlainResult(losses=losses, seconds=seconds)


def recalibrator_of(run: PlainRun, student: nn.Module, teacher: nn.Module) -> PaddedRecalibrator:
    """Return the Recalibrator that stage 1 left."""
    num_layers = 1 + max(int(name.split(".")[2]) for name in run.recalibrator if ".layers." in name)
    built = PaddedRecalibrator(
        student.config.get_text_config(),
        teacher_hidden_size=teacher.config.get_text_config().hidden_size,
        num_layers=num_layers,
        has_norm=True,
    )
    built.load_state_dict(run.recalibrator)
    assert built.rec_norm is not None and built.rec_norm.eps == NORM_EPSILON
    return built


def adapt(student: nn.Module, *, r: int) -> None:
    """Put LoRA into every linear layer of the student's decoder."""
    from peft import LoraConfig, inject_adapter_in_model

    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=r, lora_alpha=r, lora_dropout=0.0, target_modules=linear)
    inject_adapter_in_model(config, student.model.language_model)


def step(
    models: tuple[nn.Module, nn.Module, nn.Module], microbatches: Sequence[Sequence[PairedSample]]
) -> dict[str, float]:
    """Sum up the gradients of all microbatches; return the step's losses."""
    samples = [sample for microbatch in microbatches for sample in microbatch]
    teacher_tokens = sum(sample.teacher.num_answer_tokens for sample in samples)
    student_tokens = sum(sample.student.num_answer_tokens for sample in samples)
    terms: dict[str, float] = {}
    for microbatch in microbatches:
        sums = microbatch_sums(models, microbatch)
        loss = (sums["ce_recal"] + sums["kl_recal"]) / teacher_tokens + sums["ce_student"] / student_tokens
        loss.backward()
        for name, value in sums.items():
            tokens = student_tokens if name == "ce_student" else teacher_tokens
            terms[name] = terms.get(name, 0.0) + value.item() / tokens
    return terms | {"loss": sum(terms.values())}


def microbatch_sums(
    models: tuple[nn.Module, nn.Module, nn.Module], samples: Sequence[PairedSample]
) -> dict[str, torch.Tensor]:
    """Return the sums of the loss terms over a padded batch."""
    teacher, student, recalibrator = models
    with torch.no_grad():
        of_teacher = outputs(teacher, [sample.teacher for sample in samples])
    of_student = outputs(student, [sample.student for sample in samples])
    labels = pad_sequence(
        [labels_of(sample.student) for sample in samples], batch_first=True, padding_value=NO_LABEL
    )
    ce_student = summed_cross_entropy(of_student.logits, labels)
    rows, labels = [], []
    for i, sample in enumerate(samples):
        ((start, end),), ((question_end, _),) = sample.teacher.answer_spans, sample.student.answer_spans
        answer = recalibrator.rec_proj_pre(of_teacher.hidden_states[-1][i, start:end])
        rows.append(torch.cat([of_student.hidden_states[-1][i, :question_end], answer]))
        unlabelled = torch.full((question_end,), NO_LABEL)
        labels.append(torch.cat([unlabelled, sample.teacher.input_ids[start:end]]))
    recalibrated = recalibrator(pad_sequence(rows, batch_first=True))
    logits = teacher.lm_head(recalibrated)
    labels = pad_sequence(labels, batch_first=True, padding_value=NO_LABEL)
    is_scored = labels[:, 1:] != NO_LABEL
    of_answers = pad_sequence([labels_of(sample.teacher) for sample in samples], True, NO_LABEL)[:, 1:]
    log_p = log_softmax(of_teacher.logits[:, :-1][of_answers != NO_LABEL], -1)
    log_q = log_softmax(logits[:, :-1][is_scored], -1)
    return {
        "ce_recal": summed_cross_entropy(logits, labels),
        "kl_recal": (log_p.exp() * (log_p - log_q)).sum(),
        "ce_student": ce_student,
    }


def outputs(model: nn.Module, samples: Sequence[RenderedSample]) -> object:
    """Return what a model's own forward gives for a batch padded on the right: logits and features."""
    ids = pad_sequence([sample.input_ids for sample in samples], batch_first=True)
    mask = pad_sequence([torch.ones_like(sample.input_ids) for sample in samples], batch_first=True)
    return model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)


def labels_of(sample: RenderedSample) -> torch.Tensor:
    """Return the tokens of a sample's answers, and elsewhere that there is no label."""
    labels = torch.full_like(sample.input_ids, NO_LABEL)
    for start, end in sample.answer_spans:
        labels[start:end] = sample.input_ids[start:end]
    return labels


def summed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the sum over labels of the cross entropy of the logits one position before, as transformers."""
    return cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=NO_LABEL, reduction="sum"
    )
