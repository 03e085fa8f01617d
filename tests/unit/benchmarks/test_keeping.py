from pathlib import Path

from benchmarks.keeping import JSON_NAME, PAGE_NAME, kept_run, read_kept, write_kept
from benchmarks.results import Benchmark, Target


def benchmark(title: str, *, measured: float) -> Benchmark:
    return Benchmark(
        title=title,
        command="python -m benchmarks.one",
        about="One against the other.",
        header=("way", "time"),
        rows=[("one", f"{measured:.2f} x")],
        targets=[Target(name="time", measured=measured, sense="at most", limit=0.9, reason="it is slow")],
    )


def test_a_result_that_is_measured_again_takes_the_place_of_the_former(tmp_path: Path) -> None:
    write_kept({name: kept_run(benchmark(name, measured=0.7)) for name in ("one", "other")}, tmp_path)
    write_kept(read_kept(tmp_path) | {"one": kept_run(benchmark("one", measured=0.8))}, tmp_path)
    kept = read_kept(tmp_path)
    assert [kept[name].benchmark.targets[0].measured for name in ("one", "other")] == [0.8, 0.7]
    assert (tmp_path / JSON_NAME).exists()


def test_the_page_has_the_table_and_says_which_target_is_met(tmp_path: Path) -> None:
    write_kept({"one": kept_run(benchmark("First", measured=0.8))}, tmp_path)
    write_kept(read_kept(tmp_path) | {"other": kept_run(benchmark("Second", measured=1.0))}, tmp_path)
    page = (tmp_path / PAGE_NAME).read_text(encoding="utf-8")
    assert "| one | 0.80 x |" in page
    assert "- met: time, 0.8 x (at most 0.9 x)" in page
    assert "- missed: time, 1 x (at most 0.9 x): it is slow" in page
