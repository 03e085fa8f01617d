"""The naive single-process GenRecal of Algorithms 1-3, and its baselines: one sample at a time, plain loops,
whole logits, fp32.

Written from the paper (section 3) on transformers alone: it shares no model, layout or loss code with
genrecal_mcore, so that the two can be compared. Slow and wasteful on purpose.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLDecoderLayer, Qwen2VLRotaryEmbedding

Span = tuple[int, int]

NORM_EPSILON = 1e-5
"""Of the extra LayerNorm; torch's default."""

SUMMANDS = ("ce_recal", "kl_recal", "ce_reg", "kl_reg", "ce_student", "kl_student")
"""The loss is the sum of those that there are."""

BLOCKS = {
    "qwen2": (Qwen2DecoderLayer, Qwen2RotaryEmbedding),
    "llama": (LlamaDecoderLayer, LlamaRotaryEmbedding),
    "qwen2_vl_text": (Qwen2VLDecoderLayer, Qwen2VLRotaryEmbedding),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedConversation:
    """One sample in one model's tokens, with its pixels."""

    input_ids: torch.Tensor
    """`[s]`, ends with the last answer token."""
    answer_spans: Sequence[Span]
    pixel_values: torch.Tensor | None = None
    image_grid_thw: torch.Tensor | None = None
    text_ends: Sequence[Sequence[int]] = ()
    """Of each answer, the characters that are known at each of its tokens, one more at its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceSample:
    """One sample as both models see it."""

    teacher: RenderedConversation | None
    student: RenderedConversation
    replaced: Sequence[bool] = ()
    """Of each teacher answer token, in order: whether its input embedding stands for its feature."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """What a step minimises."""

    stage: int
    method: str = "genrecal"
    is_regularized: bool = True
    positions: str = "all"
    """Of the methods that compare both heads."""
    skew: float = 0.1
    position_weighting: str = "tokens"
    student_answers: bool = False
    ce_weight: float = 1.0
    """Of the cross entropy through the Recalibrator."""
    kl_weight: float = 1.0
    """Of the KL through the Recalibrator, or of both heads' divergence."""
    measures_gradients: bool = False
    """Of the student's question features, from the boundary and from the rest apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraState:
    """An adapter on the student's language body: tensors named `layers.N....lora_A.default.weight`."""

    tensors: Mapping[str, torch.Tensor]
    r: int
    alpha: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceStep:
    """Loss terms by metric name and gradients of every trainable tensor by name."""

    losses: dict[str, float]
    """And, where they are measured, norms of gradients."""
    recalibrator_gradients: dict[str, torch.Tensor]
    student_gradients: dict[str, torch.Tensor]


class ReferenceRecalibrator(nn.Module):
    """Rec-proj-pre, blocks of the student's class, Rec-proj-post, LayerNorm; one sequence at a time."""

    def __init__(
        self,
        student_text_config: PretrainedConfig,
        *,
        teacher_hidden_size: int,
        num_layers: int,
        has_norm: bool,
    ) -> None:
        super().__init__()
        config = copy.deepcopy(student_text_config)
        config.num_hidden_layers = num_layers
        config.layer_types = ["full_attention"] * num_layers
        # Eager attention obeys the mask that it is given and nothing else.
        config._attn_implementation = "eager"
        layer, rotary = BLOCKS[config.model_type]
        hidden_size = config.hidden_size
        self.is_mrope = config.model_type == "qwen2_vl_text"
        self.rec_proj_pre = nn.Linear(teacher_hidden_size, hidden_size)
        self.rec_body = nn.Module()
        self.rec_body.layers = nn.ModuleList(layer(config, i) for i in range(num_layers))
        self.rotary = rotary(config)
        self.rec_proj_post = nn.Linear(hidden_size, teacher_hidden_size)
        self.rec_norm = nn.LayerNorm(teacher_hidden_size, eps=NORM_EPSILON) if has_norm else None

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return `[s, h_t]` for input rows `[s, h_s]` that went through Rec-proj-pre where they had to."""
        num_rows = rows.shape[0]
        hidden_states = rows[None]  # [1, s, h_s]
        positions = torch.arange(num_rows)[None]
        if self.is_mrope:
            positions = positions.expand(3, 1, -1)  # three equal rows are plain 1-D RoPE
        position_embeddings = self.rotary(hidden_states, positions)
        mask = torch.full((num_rows, num_rows), float("-inf")).triu(1)[None, None]
        for layer in self.rec_body.layers:
            hidden_states = layer(hidden_states, attention_mask=mask, position_embeddings=position_embeddings)
        projected = self.rec_proj_post(hidden_states[0])
        return projected if self.rec_norm is None else self.rec_norm(projected)


@dataclass(kw_only=True)
class ReferenceModels:
    """Teacher, student and Recalibrator of one run, in fp32, with the student's adapter if there is one."""

    student: PreTrainedModel
    teacher: PreTrainedModel | None = None
    recalibrator: ReferenceRecalibrator | None = None
    trainable_student: dict[str, nn.Parameter] = field(default_factory=dict)

    def trainable_recalibrator(self) -> dict[str, nn.Parameter]:
        """Return the Recalibrator's learning tensors by name."""
        if self.recalibrator is None:
            return {}
        return {name: p for name, p in self.recalibrator.named_parameters() if p.requires_grad}


def build_reference_recalibrator(
    state: Mapping[str, torch.Tensor], student: PreTrainedModel, teacher: PreTrainedModel
) -> ReferenceRecalibrator:
    """Build a Recalibrator from a state dict of genrecal_mcore's names; it must fit exactly."""
    num_layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("rec_body.layers."))
    recalibrator = ReferenceRecalibrator(
        student.config.get_text_config(),
        teacher_hidden_size=teacher.config.get_text_config().hidden_size,
        num_layers=num_layers,
        has_norm="rec_norm.weight" in state,
    )
    missing, unexpected = recalibrator.load_state_dict(dict(state), strict=False)
    assert not unexpected, f"names that the paper's Recalibrator does not have: {unexpected}"
    assert not missing, f"missing from the Recalibrator: {missing}"
    return recalibrator


def add_reference_lora(student: PreTrainedModel, lora: LoraState) -> dict[str, nn.Parameter]:
    """Put the adapter into the student's language body, without dropout; return its parameters by name."""
    from peft import LoraConfig, inject_adapter_in_model

    targets = sorted({name.split(".lora_")[0] for name in lora.tensors})
    config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=targets)
    body = student.model.language_model
    inject_adapter_in_model(config, body)
    parameters = {name: p for name, p in body.named_parameters() if "lora_" in name}
    assert parameters.keys() == lora.tensors.keys(), parameters.keys() ^ lora.tensors.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(lora.tensors[name])
    return parameters


def reference_step(
    models: ReferenceModels, samples: Iterable[ReferenceSample], objective: Objective
) -> ReferenceStep:
    """Run forward and backward over all samples of one optimizer step.

    Every loss is a mean over all samples' tokens: sums and counts run over all samples before the division.
    """
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    questions: list[torch.Tensor] = []
    for sample in samples:
        for name, (value, count) in _loss_sums(models, sample, objective, questions).items():
            sums[name] = sums[name] + value if name in sums else value
            counts[name] = counts.get(name, 0) + count
    losses = {name: total / counts[name] for name, total in sums.items()}
    terms = {name: losses[name] for name in SUMMANDS if name in losses}
    if objective.position_weighting == "boundary_and_rest":
        terms = _terms_of_equal_groups(sums, counts)
    losses["loss"] = torch.stack([_weight(name, objective) * term for name, term in terms.items()]).sum()
    if objective.measures_gradients:
        losses |= _question_gradient_norms(sums, counts, questions, objective)
    return ReferenceStep(
        losses={name: value.item() for name, value in losses.items()},
        recalibrator_gradients=_gradients(losses["loss"], models.trainable_recalibrator()),
        student_gradients=_gradients(losses["loss"], models.trainable_student),
    )


def _weight(name: str, objective: Objective) -> float:
    """Return what a summand counts in the loss; the student's own cross entropy always counts once."""
    if name == "ce_student":
        return 1.0
    return objective.ce_weight if name.startswith("ce_") else objective.kl_weight


def _question_gradient_norms(
    sums: Mapping[str, torch.Tensor],
    counts: Mapping[str, int],
    questions: Sequence[torch.Tensor],
    objective: Objective,
) -> dict[str, torch.Tensor]:
    """Return the norm of the gradient that reaches all question rows, from each share of the loss."""
    divisors = {"boundary": counts["kl_recal"], "rest": counts["kl_recal"]}
    if objective.position_weighting == "boundary_and_rest":
        boundaries = counts["boundary"]
        divisors = {"boundary": 2 * boundaries, "rest": 2 * (counts["kl_recal"] - boundaries)}
    norms = {}
    for share, divisor in divisors.items():
        loss = (sums[f"ce_recal_{share}"] + sums[f"kl_recal_{share}"]) / divisor
        gradients = torch.autograd.grad(loss, questions, retain_graph=True)
        norms[f"grad_norm_z_qs_{share}"] = torch.cat(gradients).norm()
    return norms


def _terms_of_equal_groups(
    sums: Mapping[str, torch.Tensor], counts: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """Return the summands of the loss, each of the Recalibrator's as half a mean over boundaries and half one
    over the other positions.
    """
    terms = {}
    for name in (name for name in SUMMANDS if name in sums):
        if name.endswith("_student"):
            terms[name] = sums[name] / counts[name]
            continue
        boundaries = counts["boundary"]
        of_rest = sums[f"{name}_rest"] / (counts[name] - boundaries)
        terms[name] = (sums[f"{name}_boundary"] / boundaries + of_rest) / 2
    return terms


def body_features(model: PreTrainedModel, conversation: RenderedConversation) -> torch.Tensor:
    """Return the VLM body's output after the final norm, `[s, h]`, of one sample alone."""
    inputs: dict[str, Any] = {"input_ids": conversation.input_ids[None]}
    if conversation.pixel_values is not None:
        inputs["pixel_values"] = conversation.pixel_values
    if model.config.model_type in ("qwen2_vl", "qwen2_5_vl"):
        # The class remembers the position offset of its last images.
        model.model.rope_deltas = None
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
        if conversation.image_grid_thw is not None:
            inputs["image_grid_thw"] = conversation.image_grid_thw
    return model.model(**inputs, use_cache=False).last_hidden_state[0]


SumAndCount = tuple[torch.Tensor, int]


def _loss_sums(
    models: ReferenceModels, sample: ReferenceSample, objective: Objective, questions: list[torch.Tensor]
) -> dict[str, SumAndCount]:
    """Return the sample's sums; its rows z_q1, z_q2, ... are added to `questions`."""
    sums: dict[str, SumAndCount] = {}
    with torch.set_grad_enabled(objective.stage != 1):
        z_student = body_features(models.student, sample.student)
    if objective.stage != 1:
        cross_entropy = _student_cross_entropy(models.student, z_student, sample.student)
        sums["ce_student"] = cross_entropy, _num_answer_tokens(sample.student)
    if sample.teacher is None:
        return sums
    assert models.teacher is not None
    with torch.no_grad():
        z_teacher = body_features(models.teacher, sample.teacher)
    if objective.method == "genrecal":
        found, rows = _recalibrated_sums(models, sample, (z_student, z_teacher), objective)
        questions += rows
        return sums | found
    divergences = _own_divergences(models, sample, (z_student, z_teacher), objective)
    return sums | {"kl_student": (torch.stack(divergences).sum(), len(divergences))}


def _recalibrated_sums(
    models: ReferenceModels,
    sample: ReferenceSample,
    features: tuple[torch.Tensor, torch.Tensor],
    objective: Objective,
) -> tuple[dict[str, SumAndCount], list[torch.Tensor]]:
    sums: dict[str, SumAndCount] = {}
    z_student, z_teacher = features
    questions = _question_rows(sample, z_student)
    inputs = _teacher_inputs(models, sample, z_teacher)
    answers = [z_student[start:end] for start, end in sample.student.answer_spans]
    own_answers = answers if objective.student_answers else None
    paths = {"recal": _student_path(models, sample, (questions, own_answers), inputs)}
    if objective.stage == 1 and objective.is_regularized:
        paths["reg"] = _teacher_path(models, sample, inputs)
    for path, (rows, predicting) in paths.items():
        cross_entropies, divergences, is_boundary = _frozen_head_losses(
            models, sample, z_teacher, rows, predicting
        )
        for name, values in ((f"ce_{path}", cross_entropies), (f"kl_{path}", divergences)):
            sums[name] = values.sum(), len(values)
            sums[f"{name}_boundary"] = values[is_boundary].sum(), len(values)
            sums[f"{name}_rest"] = values[~is_boundary].sum(), len(values)
    return sums | {"boundary": (torch.zeros(()), len(sample.teacher.answer_spans))}, questions


def losses_of_path(
    models: ReferenceModels, own: ReferenceSample, *, seen: RenderedConversation
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return CE, KL and is_boundary `[t]` of a sample whose questions the student saw as in `seen`."""
    z_student, z_teacher = body_features(models.student, seen), body_features(models.teacher, own.teacher)
    questions = _question_rows(ReferenceSample(teacher=None, student=seen), z_student)
    rows, predicting = _student_path(models, own, (questions, None), z_teacher)
    return _frozen_head_losses(models, own, z_teacher, rows, predicting)


def _question_rows(sample: ReferenceSample, z_student: torch.Tensor) -> list[torch.Tensor]:
    """Return z_q1, z_q2, ... of a sample, each a tensor that a gradient can be asked for."""
    questions = []
    first = 0
    for start, end in sample.student.answer_spans:
        rows = z_student[first:start]
        questions.append(rows if rows.requires_grad else rows.requires_grad_())
        first = end
    return questions


def _own_divergences(
    models: ReferenceModels,
    sample: ReferenceSample,
    features: tuple[torch.Tensor, torch.Tensor],
    objective: Objective,
) -> list[torch.Tensor]:
    """Return the divergence of both models' own distributions at each position that is compared."""
    z_student, z_teacher = features
    size = min(models.student.lm_head.weight.shape[0], models.teacher.lm_head.weight.shape[0])
    places = [(i, i) for i in range(len(z_student))]
    if objective.positions == "answers":
        spans = zip(sample.student.answer_spans, sample.teacher.answer_spans, strict=True)
        places = [
            (of_student - 1 + j, of_teacher - 1 + j)
            for (of_student, end), (of_teacher, _) in spans
            for j in range(end - of_student)
        ]
    divergences = []
    for of_student, of_teacher in places:
        q = torch.softmax(models.student.lm_head(z_student[of_student])[:size], dim=-1)
        p = torch.softmax(models.teacher.lm_head(z_teacher[of_teacher])[:size], dim=-1)
        mixed = (1 - objective.skew) * p + objective.skew * q
        a, b = {"kl": (p, q), "reverse_kl": (q, p), "skew_reverse_kl": (q, mixed)}[objective.method]
        divergences.append((a * (a.log() - b.log())).sum())
    return divergences


def _teacher_inputs(
    models: ReferenceModels, sample: ReferenceSample, z_teacher: torch.Tensor
) -> torch.Tensor:
    """Return the teacher's rows as the Recalibrator reads them: features, some of them replaced by embeddings
    of the same size.
    """
    inputs = z_teacher.clone()
    positions = [i for start, end in sample.teacher.answer_spans for i in range(start, end)]
    embedding = models.teacher.get_input_embeddings().weight
    for position, is_replaced in zip(positions, sample.replaced, strict=bool(sample.replaced)):
        if is_replaced:
            row = embedding[sample.teacher.input_ids[position]]
            rms_wanted, rms_found = (x.square().mean().sqrt() for x in (z_teacher[position], row))
            inputs[position] = row * rms_wanted / rms_found
    return inputs


def _student_path(
    models: ReferenceModels,
    sample: ReferenceSample,
    features: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor] | None],
    teacher_inputs: torch.Tensor,
) -> tuple[torch.Tensor, list[list[int]]]:
    """Build `[z_q1, pre(z_a1), z_q2, pre(z_a2), ...]` from the student's questions, its own answers, if any,
    among the teacher's; return it with the rows that predict each answer's tokens.
    """
    pieces: list[torch.Tensor] = []
    predicting: list[list[int]] = []
    questions, own_answers = features
    for turn, (start, end) in enumerate(sample.teacher.answer_spans):
        pieces += list(questions[turn])
        rows = [len(pieces) - 1]
        answer = models.recalibrator.rec_proj_pre(teacher_inputs[start:end])
        if own_answers is None:
            order = [("teacher", j) for j in range(end - start)]
        else:
            order = _order_by_text(sample.student.text_ends[turn], sample.teacher.text_ends[turn])
        for model, j in order:
            pieces.append(answer[j] if model == "teacher" else own_answers[turn][j])
            if model == "teacher":
                rows.append(len(pieces) - 1)
        predicting.append(rows[:-1])  # the end of the answer predicts nothing
    return torch.stack(pieces), predicting


def _order_by_text(student_ends: Sequence[int], teacher_ends: Sequence[int]) -> list[tuple[str, int]]:
    """Return both models' tokens of an answer by the text that is known there, the student's first."""
    tokens = [(end, 0, j) for j, end in enumerate(student_ends)]
    tokens += [(end, 1, j) for j, end in enumerate(teacher_ends)]
    return [(("student", "teacher")[model], j) for _, model, j in sorted(tokens)]


def _teacher_path(
    models: ReferenceModels, sample: ReferenceSample, z_teacher: torch.Tensor
) -> tuple[torch.Tensor, list[list[int]]]:
    """Build `[pre(z_q1), pre(z_a1), ...]` from the teacher alone."""
    predicting = [list(range(start - 1, end - 1)) for start, end in sample.teacher.answer_spans]
    return models.recalibrator.rec_proj_pre(z_teacher), predicting


def _frozen_head_losses(
    models: ReferenceModels,
    sample: ReferenceSample,
    z_teacher: torch.Tensor,
    rows: torch.Tensor,
    predicting: Sequence[Sequence[int]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return CE, KL and is_boundary of every label-bearing position, each `[t]`."""
    head = models.teacher.lm_head
    recalibrated_logits = head(models.recalibrator(rows))  # [s, v]
    teacher_logits = head(z_teacher)
    cross_entropies, divergences, is_boundary = [], [], []
    for predicting_rows, (start, end) in zip(predicting, sample.teacher.answer_spans, strict=True):
        for j in range(end - start):
            log_q = torch.log_softmax(recalibrated_logits[predicting_rows[j]], dim=-1)
            log_p = torch.log_softmax(teacher_logits[start + j - 1], dim=-1)
            cross_entropies.append(-log_q[sample.teacher.input_ids[start + j]])
            divergences.append((log_p.exp() * (log_p - log_q)).sum())
            is_boundary.append(j == 0)
    return torch.stack(cross_entropies), torch.stack(divergences), torch.tensor(is_boundary)


def _student_cross_entropy(
    student: PreTrainedModel, z_student: torch.Tensor, conversation: RenderedConversation
) -> torch.Tensor:
    log_probabilities = torch.log_softmax(student.lm_head(z_student), dim=-1)
    terms = [
        -log_probabilities[position - 1, conversation.input_ids[position]]
        for start, end in conversation.answer_spans
        for position in range(start, end)
    ]
    return torch.stack(terms).sum()


def _num_answer_tokens(conversation: RenderedConversation) -> int:
    return sum(end - start for start, end in conversation.answer_spans)


def _gradients(loss: torch.Tensor, parameters: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    if not parameters:
        return {}
    gradients = torch.autograd.grad(
        loss, list(parameters.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return dict(zip(parameters, gradients, strict=True))
