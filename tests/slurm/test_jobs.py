"""The scripts of `examples/` on a real Slurm: what they train, and what they refuse."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from genrecal_mcore.training import export_student
from tests.helpers.measured import MEASURED
from tests.helpers.training_run import numbers_of
from tests.slurm.jobs import Workplace, has_ended

pytestmark = pytest.mark.slurm


def test_three_chained_jobs_give_the_student_of_plain_torchrun_bit_for_bit(
    workplace: Workplace, undisturbed: dict[int, Path], tmp_path: Path
) -> None:
    runs = {stage: tmp_path / f"stage{stage}" for stage in (1, 2, 3)}
    job_ids = workplace.submit_all_stages(tmp_path)
    assert len(job_ids) == 3
    for job_id in job_ids:
        workplace.wait_for_success(job_id)
    for stage, run_dir in runs.items():
        assert numbers_of(run_dir) == numbers_of(undisturbed[stage])
    hosts = {line.split(" on ")[-1] for line in first_log_lines(runs[2])}
    assert hosts == {"node1", "node2"}

    export_student(undisturbed[3], tmp_path / "expected")
    out = tmp_path / "out"
    data = workplace.folder / "data"
    evaluate = workplace.submit(
        "slurm_evaluate.sh",
        RUN=str(runs[3]),
        OUT=str(out),
        BENCHMARKS=str(data / "heldout.jsonl"),
        IMAGES=str(data / "images"),
    )
    workplace.wait_for_success(evaluate)
    files = sorted((tmp_path / "expected" / "student").glob("*.safetensors"))
    assert files
    for path in files:
        expected, found = load_file(path), load_file(out / "student" / path.name)
        assert expected.keys() == found.keys()
        assert all(expected[name].equal(found[name]) for name in expected)
    assert (out / "scores" / "heldout" / "scores.json").is_file()
    MEASURED.append("student of three chained jobs against that of torchrun: equal bit for bit")


def first_log_lines(run_dir: Path) -> list[str]:
    return [path.read_text().splitlines()[0] for path in sorted((run_dir / "logs").glob("*.log"))]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["mesh.teacher.pp=3"], "the meshes need 8 ranks"),
        (["mesh.teacher={tp: 4, pp: 1}"], "does not divide"),
    ],
    ids=["ranks", "heads"],
)
def test_a_layout_that_does_not_fit_ends_before_any_rank_starts(
    overrides: list[str], message: str, workplace: Workplace, tmp_path: Path
) -> None:
    arguments = workplace.overrides(tmp_path / "run", stage=1, init_from=None)
    job_id = workplace.submit("slurm_stage1.sh", *arguments, *overrides)
    facts = workplace.cluster.wait(job_id, has_ended, timeout_s=60)
    assert facts.state == "FAILED"
    assert message in workplace.output_of(job_id)
    assert not (tmp_path / "run").exists()
