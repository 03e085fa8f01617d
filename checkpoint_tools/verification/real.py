"""Gates of a real checkpoint: names and shapes (L0), the way back (L1), one image and prompt (L4)."""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from checkpoint_tools.conversion import verify_round_trip
from checkpoint_tools.engine import ConversionPlan, plan_conversion
from checkpoint_tools.verification.activations import Activations, activations_of, cosine, first_difference
from checkpoint_tools.verification.outcome import Outcome
from checkpoint_tools.verification.probe import Probe
from checkpoint_tools.verification.ranks import activations_on_ranks
from genrecal_mcore.config import validate_teacher_folder
from genrecal_mcore.data import ImageFile, ModelProcessor, RenderedSample, Sample, Turn, load_processor
from genrecal_mcore.data.types import IMAGE_PLACEHOLDER
from genrecal_mcore.evaluation.generate import generate_answers
from genrecal_mcore.layouts import open_checkpoint
from genrecal_mcore.native import load_native_model
from genrecal_mcore.parallel import MeshSpec

MIN_COSINE = {"float32": 0.99999, "float16": 0.99, "bfloat16": 0.98}
"""Of every position's final hidden state; the half types round otherwise in other kernels."""
MIN_TOP1 = {"float32": 0.99, "float16": 0.95, "bfloat16": 0.95}
"""Share of positions whose likeliest next token is the same."""
MAX_NEW_TOKENS = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What L4 asks: one image and prompt; without an answer, the Hugging Face model's own is taken."""

    image: Path
    prompt: str
    answer: str | None = None


def check_names(hf_path: Path) -> tuple[ConversionPlan | None, Outcome]:
    """Pass L0 for a folder."""
    checkpoint = open_checkpoint(hf_path)
    try:
        plan = plan_conversion(checkpoint)
    except ValueError as error:
        return None, _outcome("L0", hf_path, passed=False, detail=str(error))
    detail = f"{checkpoint.family.value}, {checkpoint.layout.name}, {len(plan.keys)} tensors"
    return plan, _outcome("L0", hf_path, passed=True, detail=detail)


def check_way_back(plan: ConversionPlan, hf_path: Path, teacher: Path) -> Outcome:
    """Pass L1 for a folder and the teacher converted from it: every tensor back, bit by bit."""
    dtype = getattr(torch, validate_teacher_folder(teacher).dtype)
    try:
        verify_round_trip(plan, teacher, dtype)
    except ValueError as error:
        return _outcome("L1", hf_path, passed=False, detail=str(error))
    return _outcome("L1", hf_path, passed=True, detail="bit-equal")


def check_answers(
    hf_path: Path, teacher: Path, question: Question, mesh: MeshSpec, *, names_layers: bool
) -> list[Outcome]:
    """Pass L4: hidden states and likeliest tokens of an image and prompt, and the canary.

    The canary is the loss of the answer, which must be larger with a blank image: it catches a vision tower
    that was not loaded or is not seen.
    """
    dtype = validate_teacher_folder(teacher).dtype
    model = load_native_model(hf_path, dtype=getattr(torch, dtype)).eval()
    processor = load_processor(hf_path)
    image = _opened(question.image)
    answer = question.answer
    if answer is None:
        sample = _sample(question, answer="")
        (answer,) = generate_answers(model, processor, [sample], max_new_tokens=MAX_NEW_TOKENS)
    blank = Image.new("RGB", image.size, (127, 127, 127))
    probe = _probe(processor, _sample(question, answer=answer), [image, blank])
    expected = activations_of(model, probe)
    found = activations_on_ranks({"teacher": teacher}, {"teacher": probe}, mesh)["teacher"]
    pairs = list(zip(expected, found, strict=True))
    cosines = torch.cat([cosine(a["final norm"], b["final norm"]) for a, b in pairs])
    top1 = torch.cat([_top1(a) == _top1(b) for a, b in pairs]).float().mean()
    passed = cosines.min().item() >= MIN_COSINE[dtype] and top1.item() >= MIN_TOP1[dtype]
    detail = (
        f"tp {mesh.tp} pp {mesh.pp}: cosine {cosines.min().item():.6f} or more at {len(cosines)} positions, "
        f"top-1 agreement {100 * top1.item():.1f} %"
    )
    if names_layers:
        detail += ", " + first_difference(expected, found, min_cosine=MIN_COSINE[dtype])
    with_image, without = (
        _loss(activations, sample) for activations, sample in zip(found, probe.samples, strict=True)
    )
    canary = f"loss of {answer!r} with the image {with_image:.3f}, with a blank one {without:.3f}"
    return [
        _outcome("L4", hf_path, passed=passed, detail=detail),
        _outcome("L4 canary", hf_path, passed=with_image < without, detail=canary),
    ]


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path).convert("RGB")
    except OSError as error:
        raise ValueError(f"--image {path} cannot be read as an image: {error}") from None


def _sample(question: Question, *, answer: str) -> Sample:
    turn = Turn(question=f"{IMAGE_PLACEHOLDER}\n{question.prompt}", answer=answer)
    return Sample(
        id="question",
        images=(ImageFile(name=question.image.name, path=question.image),),
        turns=(turn,),
        source="",
    )


def _probe(processor: ModelProcessor, sample: Sample, images: list[Image.Image]) -> Probe:
    rendered = processor.render(sample, [images[0].size])
    return Probe(
        samples=(rendered,) * len(images), vision=tuple(processor.pixels([image]) for image in images)
    )


def _top1(activations: Activations) -> torch.Tensor:
    return activations["logits"].argmax(-1).cpu()


def _loss(activations: Activations, sample: RenderedSample) -> float:
    """Return the mean cross entropy of the answer's tokens, each predicted from the position before it."""
    start, end = sample.answer_spans[-1]
    logits = activations["logits"][start - 1 : end - 1].float()
    return torch.nn.functional.cross_entropy(logits, sample.input_ids[start:end]).item()


def _outcome(gate: str, hf_path: Path, *, passed: bool, detail: str) -> Outcome:
    return Outcome(gate=gate, model=hf_path.name, role="teacher", passed=passed, detail=detail)
