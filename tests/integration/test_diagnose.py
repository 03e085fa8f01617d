"""`genrecal diagnose` on a trained run: what it finds against the naive reference, what it refuses."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from genrecal_mcore.cli import main as command_line
from genrecal_mcore.config import load_run_config
from genrecal_mcore.data import ModelProcessor, Sample, draw_samples, load_processor
from genrecal_mcore.diagnostics import Diagnosis, DiagnosisSettings, diagnose_run
from genrecal_mcore.native import load_native_model
from genrecal_mcore.observability import FEATURES_NAME, diagnosed_steps, write_report
from genrecal_mcore.training.checkpoint import read_model_tensors
from genrecal_mcore.training.student_assembly import result_of
from tests.helpers.closeness import assert_relatively_close
from tests.helpers.first_step import conversation, raw_config
from tests.helpers.rank_pool import RankPool
from tests.helpers.reference import (
    LoraState,
    Objective,
    ReferenceModels,
    ReferenceSample,
    add_reference_lora,
    build_reference_recalibrator,
    losses_of_path,
    reference_step,
)
from tests.helpers.training_run import train_run

pytestmark = pytest.mark.distributed

RTOL = 1e-5  # worst seen 5.8e-7
NUM_SAMPLES = 12
SHARES = ("ce_boundary", "ce_rest", "kl_boundary", "kl_rest")


@pytest.fixture(scope="module")
def runs(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """Train two steps of each stage."""
    root = tmp_path_factory.mktemp("diagnosed")
    folders = {stage: root / f"stage{stage}" for stage in (1, 2, 3)}
    for stage, folder in folders.items():
        config = raw_config(tiny_folders, folder, stage=stage)
        config["mesh"] = {"teacher": {}, "student": {"dp": 1}}
        config["train"] |= {"steps": 2, "lr": 1e-2, "checkpoint_every_steps": 1}
        config["init_from"] = folders.get(stage - 1)
        if stage == 3:
            config |= {"teacher": None, "mesh": {"student": {"dp": 1}}}
        rank_pool.run(train_run, 1 + (stage < 3), config)
    return folders


@pytest.fixture(scope="module")
def diagnosis(runs: dict[int, Path]) -> Diagnosis:
    return diagnose_run(runs[2], DiagnosisSettings(num_samples=NUM_SAMPLES))


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the run left, on transformers alone, and the samples in the order in which they are looked at."""

    models: ReferenceModels
    processors: dict[str, ModelProcessor]
    samples: list[Sample]

    def rendered(self, sample: Sample) -> ReferenceSample:
        return ReferenceSample(**{role: conversation(p, sample) for role, p in self.processors.items()})

    def shares(self, seen_of: Callable[[Sample], Sample | None]) -> dict[str, float]:
        """Return the mean losses of all samples of which the student sees something."""
        values: dict[str, list[torch.Tensor]] = {name: [] for name in SHARES}
        for sample in self.samples:
            seen = seen_of(sample)
            if seen is None:
                continue
            own, of_student = self.rendered(sample), conversation(self.processors["student"], seen)
            ce, kl, is_boundary = losses_of_path(self.models, own, seen=of_student)
            for name, losses in (("ce", ce), ("kl", kl)):
                values[f"{name}_boundary"].append(losses[is_boundary])
                values[f"{name}_rest"].append(losses[~is_boundary])
        return {name: torch.cat(losses).mean().item() for name, losses in values.items()}

    def next_alike(self, sample: Sample, key: Callable[[Sample], int]) -> Sample | None:
        """Return the next sample with the same key, in a circle."""
        place = self.samples.index(sample)
        following = self.samples[place + 1 :] + self.samples[:place]
        return next((other for other in following if key(other) == key(sample)), None)


@pytest.fixture(scope="module")
def reference(runs: dict[int, Path], tiny_folders: dict[str, Path]) -> Reference:
    teacher, student = (
        load_native_model(tiny_folders[name], dtype=torch.float32).eval()
        for name in ("teacher_hf", "student")
    )
    prefix = "student.model.language_model."
    tensors = read_model_tensors(result_of(runs[2]), "")
    lora = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    state = {name.removeprefix("recalibrator."): t for name, t in tensors.items() if name.startswith("rec")}
    recalibrator = build_reference_recalibrator(state, student, teacher)
    add_reference_lora(student, LoraState(tensors=lora, r=3, alpha=6.0))
    processors = {"teacher": load_processor(tiny_folders["teacher_hf"])}
    processors["student"] = load_processor(tiny_folders["student"])
    drawn = draw_samples(load_run_config(runs[2] / "config.yaml").data, processors, num_samples=NUM_SAMPLES)
    return Reference(
        models=ReferenceModels(student=student, teacher=teacher, recalibrator=recalibrator),
        processors=processors,
        samples=[sample for sample, _ in drawn],
    )


def assert_close(found: dict[str, Any], expected: dict[str, float]) -> None:
    for name, value in expected.items():
        difference = abs(found[name] - value)
        assert_relatively_close(difference, abs(value), RTOL, name="diagnosed losses", where=name)


def test_losses_of_both_paths_and_both_heads_equal_the_reference(
    diagnosis: Diagnosis, reference: Reference
) -> None:
    samples = [reference.rendered(sample) for sample in reference.samples]
    losses = reference_step(reference.models, samples, Objective(stage=1)).losses
    own = reference_step(reference.models, samples, Objective(stage=2)).losses["ce_student"]
    facts = diagnosis.facts
    assert_close(facts["paths"]["student"], {"ce": losses["ce_recal"], **reference.shares(lambda own: own)})
    assert_close(facts["paths"]["teacher"], {"ce": losses["ce_reg"]})
    assert_close(facts["own_heads"]["student"], {"ce": own, "perplexity": math.exp(own)})
    swapped_roles = [ReferenceSample(teacher=None, student=sample.teacher) for sample in samples]
    as_student = ReferenceModels(student=reference.models.teacher)
    teachers = reference_step(as_student, swapped_roles, Objective(stage=3)).losses["ce_student"]
    assert_close(facts["own_heads"]["teacher"], {"ce": teachers, "perplexity": math.exp(teachers)})


def test_losses_with_another_samples_question_equal_the_reference(
    diagnosis: Diagnosis, reference: Reference
) -> None:
    def other(sample: Sample) -> Sample | None:
        return reference.next_alike(sample, lambda of: len(of.turns))

    found = diagnosis.facts["swaps"]["question"]
    assert found["num_samples"] == NUM_SAMPLES
    assert_close(found["own"], reference.shares(lambda own: own))
    assert_close(found["swapped"], reference.shares(other))


def test_losses_with_another_image_equal_the_reference(diagnosis: Diagnosis, reference: Reference) -> None:
    def with_other_image(sample: Sample) -> Sample | None:
        other = reference.next_alike(sample, lambda of: len(of.images))
        return replace(sample, images=other.images) if sample.images and other is not None else None

    found = diagnosis.facts["swaps"]["image"]
    assert found["num_samples"] == sum(bool(sample.images) for sample in reference.samples)
    assert_close(found["own"], reference.shares(lambda own: own if own.images else None))
    assert_close(found["swapped"], reference.shares(with_other_image))


def test_features_are_pooled_and_compared_as_the_cosines_say(
    diagnosis: Diagnosis, runs: dict[int, Path]
) -> None:
    features = load_file(runs[2] / "features.safetensors")
    kinds = ("before", "after", "recalibrated_all", "recalibrated_boundary")
    assert features.keys() == {f"{model}_{kind}" for model in ("student", "teacher") for kind in kinds}
    widths = {"before": 48, "after": 48, "recalibrated_all": 40, "recalibrated_boundary": 40}
    for name, tensor in features.items():
        assert tensor.shape == (NUM_SAMPLES, widths[name.partition("_")[2]])
    for pooling in ("all", "boundary"):
        found = diagnosis.facts["cosine"][pooling]
        cosines = torch.nn.functional.cosine_similarity(
            features[f"student_recalibrated_{pooling}"][:, None],
            features[f"teacher_recalibrated_{pooling}"][None],
            dim=-1,
        )
        # A hundred groups of 10 of 12: every sample and pair is there about as often.
        assert found["diagonal"] == pytest.approx(cosines.diagonal().mean().item(), abs=0.02)
        off_diagonal = (cosines.sum() - cosines.diagonal().sum()) / (NUM_SAMPLES * (NUM_SAMPLES - 1))
        assert found["off_diagonal"] == pytest.approx(off_diagonal.item(), abs=0.02)
        assert len(found["matrix"]) == 10 and {len(row) for row in found["matrix"]} == {10}


def test_what_is_written_is_shown_by_the_report(
    diagnosis: Diagnosis, runs: dict[int, Path], tmp_path: Path
) -> None:
    assert json.loads((runs[2] / "diagnostics.json").read_text()) == diagnosis.facts
    page = write_report(tmp_path, runs={"two": runs[2]}, table=None, title="t").read_text(encoding="utf-8")
    assert "the same text, another image" in page
    assert f"{diagnosis.facts['swaps']['question']['swapped']['kl_boundary']:.4f}" in page


def test_a_run_is_diagnosed_at_each_of_its_checkpoints_and_at_its_beginning(
    diagnosis: Diagnosis, runs: dict[int, Path]
) -> None:
    def at(stage: int, step: int) -> Diagnosis:
        return diagnose_run(runs[stage], DiagnosisSettings(num_samples=NUM_SAMPLES, step=step))

    began, first, last, before = at(2, 0), at(2, 1), at(2, 2), at(1, 2)
    assert began.facts["paths"] == before.facts["paths"]
    assert last.facts == diagnosis.facts
    assert first.facts["paths"] not in (began.facts["paths"], last.facts["paths"])
    found = diagnosed_steps(runs[2])
    assert list(found) == [0, 1, 2] and found[2] == runs[2]
    assert load_file(found[1] / FEATURES_NAME).keys() == first.features.keys()
    with pytest.raises(ValueError, match=r"no checkpoint of step 3; those there: 1, 2\. train\."):
        at(2, 3)


def test_what_cannot_be_diagnosed_is_refused(
    diagnosis: Diagnosis, runs: dict[int, Path], tmp_path: Path
) -> None:
    del diagnosis  # stage 2 is diagnosed
    with pytest.raises(ValueError, match="diagnostics.json exists; pass --overwrite to replace it"):
        diagnose_run(runs[2], DiagnosisSettings(num_samples=NUM_SAMPLES))
    with pytest.raises(ValueError, match="--num-samples must be at least 10, found 9"):
        diagnose_run(runs[1], DiagnosisSettings(num_samples=9))
    with pytest.raises(ValueError, match="13 samples were asked for, but the data has 12 whole ones"):
        diagnose_run(runs[1], DiagnosisSettings(num_samples=13))
    with pytest.raises(
        ValueError, match="of method genrecal, stage 3, which has no Recalibrator; name a run"
    ):
        diagnose_run(runs[3], DiagnosisSettings())
    with pytest.raises(ValueError, match="is not a run folder"):
        diagnose_run(tmp_path, DiagnosisSettings())


def test_the_command_prints_what_it_finds(
    runs: dict[int, Path],
    tiny_folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = ["--data", str(tiny_folders["data"])]
    for arguments, code in ((data, 2), ([*data, "--images", str(tiny_folders["data"].parent / "images")], 0)):
        command = ["genrecal", "diagnose", str(runs[1]), *arguments, "--num-samples", "10"]
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit) as caught:
            command_line.main()
        assert caught.value.code == code
    captured = capsys.readouterr()
    assert "--data and --images belong together" in captured.err
    assert "another sample's question" in captured.out and "perplexity" in captured.out
