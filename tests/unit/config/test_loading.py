from pathlib import Path

import pytest

from genrecal_mcore.config import ConfigError, RunConfig, load_run_config, write_run_config
from genrecal_mcore.config.loading import known_keys

STAGE_1 = """
stage: 1
run: {dir: runs/one}
mesh:
  teacher: {tp: 2, pp: 2}
  student: {dp: 2}
train: {steps: 10, micro_batch_size: 2}
teacher: {checkpoint: teacher}
student: {checkpoint: student}
data:
  sources: [{path: train.jsonl, images: images}]
"""


@pytest.fixture
def stage_1(tmp_path: Path) -> Path:
    path = tmp_path / "stage1.yaml"
    path.write_text(STAGE_1)
    return path


def problems_of(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_run_config(path, overrides)
    return str(caught.value)


def test_overrides_are_yaml_values_and_make_sections(stage_1: Path) -> None:
    config = load_run_config(
        stage_1,
        ["mesh.teacher.tp=4", "transfer.timeout_s=1e3", "recalibrator.regularizer=false", "run.dir=runs/a=b"],
    )
    assert config.mesh.teacher is not None and config.mesh.teacher.tp == 4
    assert config.transfer.timeout_s == 1000.0
    assert config.recalibrator.regularizer is False
    assert config.run.dir == Path("runs/a=b")


def test_what_is_written_is_whole_and_reads_back_equal(stage_1: Path, tmp_path: Path) -> None:
    config = load_run_config(stage_1, ["train.seed=7"])
    write_run_config(config, tmp_path / "run" / "config.yaml")
    assert load_run_config(tmp_path / "run" / "config.yaml") == config
    written = (tmp_path / "run" / "config.yaml").read_text()
    assert "prefetch: 2" in written  # a default


def test_all_problems_are_listed_at_once_with_the_nearest_key(stage_1: Path) -> None:
    text = problems_of(
        stage_1,
        "mesh.teacher.tensor_parallel=2",
        "train.learning_rate=1e-3",
        "train.accumulation_step=4",
        "train.steps=0",
        "data.sources=[{path: a.jsonl}]",
        "no_equals_sign",
    )
    assert "has 6 problem(s)" in text
    assert "train.accumulation_step is not a key; the nearest is train.accumulation_steps" in text
    assert "mesh.teacher.tensor_parallel is not a key" in text
    assert "train.learning_rate is not a key" in text
    assert "train.steps: input should be greater than or equal to 1, found 0" in text
    assert "data.sources.0.images is missing" in text
    assert "override 'no_equals_sign' is not of the form key.subkey=value" in text


def test_contradictions_are_reported_beside_unknown_keys(stage_1: Path) -> None:
    text = problems_of(
        stage_1,
        "mesh.teacher.tp=1",
        "mesh.teacher.sequence_parallel=true",
        "train.lr=1e-5",
        "train.lr_final=1e-4",
        "trian.steps=3",
    )
    assert "trian is not a key; the nearest is train" in text
    assert "mesh.teacher.sequence_parallel is true with mesh.teacher.tp 1" in text
    assert "train.lr_final (0.0001) is above train.lr (1e-05)" in text


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["stage=2"], "init_from is missing; method genrecal, stage 2 starts from a stage-1 run"),
        (["init_from=runs/other"], "method genrecal, stage 1 starts afresh; remove it"),
        (["teacher=null"], "teacher.checkpoint is missing; method genrecal, stage 1 needs a teacher"),
        (["mesh.teacher=null"], "mesh.teacher is missing; method genrecal, stage 1 needs a teacher"),
        (["stage=3", "init_from=runs/two"], "mesh.teacher is set, but method genrecal, stage 3 has no"),
        (["method=sft"], "stage 1 does not exist for method sft"),
        (["method=kl"], "stage 1 does not exist for method kl"),
        (["method=kl", "stage=2", "teacher=null"], "method kl, stage 2 needs a teacher"),
        (["method=kl", "stage=2", "init_from=runs/one"], "method kl, stage 2 starts afresh; remove it"),
        (["method=kl", "stage=3"], "init_from is missing; method kl, stage 3 starts from a stage-2 run"),
        (
            ["recalibrator.student_answers=true"],
            "recalibrator.student_answers is true, but recalibrator.answer_input is features",
        ),
        (["recalibrator.masked_rate=0.3"], "recalibrator.answer_input is features; set that to masked"),
        (
            ["method=kl", "stage=2", "recalibrator.answer_input=embeddings"],
            "recalibrator.answer_input is embeddings, but method kl has no Recalibrator; remove it",
        ),
        (
            ["method=kl", "stage=2", "loss.position_weighting=boundary_and_rest"],
            "loss.position_weighting is boundary_and_rest, but method kl has no Recalibrator",
        ),
        (
            ["method=sft", "stage=2", "recalibrator.extra_norm=false"],
            "recalibrator.extra_norm is False, but method sft has no Recalibrator; remove it",
        ),
        (
            ["method=kl", "stage=2", "loss.ce_weight=0.5"],
            "loss.ce_weight is 0.5, but method kl has no Recalibrator, whose cross entropy it weighs; remove",
        ),
        (["method=sft", "stage=2", "loss.kl_weight=2"], "loss.kl_weight is 2, but method sft has no teacher"),
        (["method=kl", "stage=2", "loss.kl_weight=0"], "leaves nothing of method kl; use method sft"),
        (["loss.ce_weight=0", "loss.kl_weight=0"], "are both 0, which leaves no loss; raise one of them"),
        (
            ["method=sft", "stage=2", "train.diagnostics_every_steps=5"],
            "train.diagnostics_every_steps is set, but method sft, stage 2 has no Recalibrator",
        ),
        (["distillation.positions=answers"], "method genrecal compares no heads; remove it"),
        (["distillation.skew=0.2", "method=kl"], "distillation.skew is 0.2, but method kl has no skew"),
        (["mesh.teacher.tp.x=1"], "override mesh.teacher.tp.x: tp holds a value, not a section"),
        (["train.micro_batch_tokens=9"], "train.micro_batch_tokens (9) is below data.max_tokens (4096)"),
        (
            ["mesh.teacher.layers_per_stage=[1, 2, 1]"],
            "mesh.teacher.layers_per_stage [1, 2, 1] has 3 entries, but mesh.teacher.pp is 2; give",
        ),
        (
            ["mesh.teacher.layers_per_stage=[4, 0]"],
            "mesh.teacher.layers_per_stage.1: input should be greater than or equal to 1, found 0",
        ),
        (
            ["stage=2", "train.checkpointed_layers=3", "train.gradient_checkpointing=false"],
            "train.checkpointed_layers is 3, but train.gradient_checkpointing is false; remove one of them",
        ),
        (["train.checkpointed_layers=3"], "train.checkpointed_layers is 3, but in stage 1 the student does"),
        (
            ["trace.first_step=1000000", "trace.num_steps=1"],
            "trace.first_step (1000000) is not a step of this",
        ),
        (
            ["data.sources=[{path: a, weight: 1}, {path: b, name: other}]"],
            "data.sources: a has a weight, but other has none; give every source one, or none",
        ),
        (["data.sources=[{path: a, weight: 0}]"], "data.sources.0.weight: input should be greater than 0"),
        (["data.sources=none.yaml"], "data.sources: none.yaml does not exist; give a list of sources, or"),
        (["stage=4"], "stage: input should be 1, 2 or 3, found 4"),
    ],
)
def test_what_cannot_be_run_is_refused(stage_1: Path, overrides: list[str], expected: str) -> None:
    assert expected in problems_of(stage_1, *overrides)


def test_files_that_are_no_configuration_are_named(tmp_path: Path) -> None:
    assert "does not exist" in problems_of(tmp_path / "missing.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    assert f"{broken} is not YAML" in problems_of(broken)
    broken.write_text("- 1")
    assert "must hold keys and values, found list" in problems_of(broken)


def test_sources_can_be_a_list_in_a_file_of_their_own(stage_1: Path, tmp_path: Path) -> None:
    listed = tmp_path / "mixture.yaml"
    listed.write_text("- {path: a.parquet, weight: 2}\n- {path: b.tar, weight: 1, domain: chart}\n")
    config = load_run_config(stage_1, [f"data.sources={listed}", "data.exclude_domains=[chart]"])
    assert [(source.label, source.weight) for source in config.data.sources] == [("a", 2.0), ("b", 1.0)]
    write_run_config(config, tmp_path / "config.yaml")
    listed.unlink()
    assert load_run_config(tmp_path / "config.yaml") == config


def test_what_is_wrong_with_a_list_of_sources_is_named(stage_1: Path, tmp_path: Path) -> None:
    listed = tmp_path / "mixture.yaml"
    listed.write_text("sources: []")
    assert f"{listed} must hold a list, found dict" in problems_of(stage_1, f"data.sources={listed}")
    listed.write_text("- {path: a.parquet}\n- {path: b.parquet, wait: 1}\n")
    text = problems_of(stage_1, f"data.sources={listed}")
    assert "data.sources.1.wait is not a key; the nearest is data.sources.weight" in text


EXAMPLES = Path("examples/configs")
RUNS = sorted([*EXAMPLES.glob("[!s]*.yaml"), *EXAMPLES.glob("study/*.yaml")])
"""Not the grids of studies."""


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_example_is_a_valid_run(path: Path) -> None:
    load_run_config(path)


def test_the_papers_mixture_names_its_domains_and_no_weights() -> None:
    # Section 4.1(b) and appendix F; densefusion is in none of the paper's domains.
    sources = load_run_config(Path("examples/configs/paper_stage3.yaml")).data.sources
    assert len({source.name for source in sources}) == len(sources) == 22
    domains = [source.domain for source in sources]
    assert {domain: domains.count(domain) for domain in domains} == {
        "general": 1,
        "caption": 1,
        "knowledge": 6,
        "science_math": 6,
        "chart_document": 8,
    }
    assert all(source.weight is None for source in sources)


def test_every_key_says_what_it_means() -> None:
    assert {"mesh.teacher.tp", "data.sources.path", "transfer.prefetch"} <= set(known_keys(RunConfig))
