import pytest

from genrecal_mcore.evaluation.benchmarks import BENCHMARKS, benchmark_named

pytestmark = pytest.mark.evaluation


@pytest.mark.parametrize(
    ("name", "benchmark"),
    [
        ("MMBench_DEV_EN", "MMBench"),
        ("MMBench_DEV_CN_V11", "MMBench"),
        ("MMBench_V11", "MMBench"),
        ("MMBench_TEST_CN_V11", "MMBench, test"),
        ("MMMU_DEV_VAL", "MMMU"),
        ("mmmu", "MMMU"),
        ("MMMU_TEST", "MMMU, test"),
        ("MMMU_Pro_10c", "MMMU-Pro, 10 options"),
        ("MMMU_Pro_V", "MMMU-Pro, vision"),
        ("MMStar", "MMStar"),
        ("AI2D_TEST", "AI2D"),
        ("AI2D_TEST_NO_MASK", "AI2D"),
        ("SEEDBench2_Plus", "SEED-Bench-2-Plus"),
        ("RealWorldQA", "RealWorldQA"),
        ("BLINK", "BLINK"),
        ("BLINK_circular", "BLINK"),
        ("ChartQA_TEST", "ChartQA"),
        ("MathVista_MINI", "MathVista"),
        ("MMVet", "MM-Vet"),
        ("mm-vet", "MM-Vet"),
        ("mm-vet-v2", "MM-Vet v2"),
    ],
)
def test_a_benchmark_is_known_by_the_name_of_its_file(name: str, benchmark: str) -> None:
    found = benchmark_named(name)
    assert found is not None
    assert found.name == benchmark


@pytest.mark.parametrize(
    "name", ["ChartQAPro", "MMBench-Video", "MMMU_Pro_10c_COT", "MMStar2", "SEEDBench_IMG"]
)
def test_another_benchmark_with_a_name_like_it_is_not_taken_for_it(name: str) -> None:
    assert benchmark_named(name) is None


def test_a_benchmark_without_a_rule_says_who_judges() -> None:
    assert [b.name for b in BENCHMARKS if b.score is None and b.judge is None] == []
