import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from genrecal_mcore.observability import METRIC_FIELDS, EvaluationTable, MetricsWriter, write_report
from genrecal_mcore.status import RankStatus, StatusRecord, status_path

VOID_TAGS = {"meta", "img"}


class BalanceChecker(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def make_run(folder: Path, *, stage: int, num_steps: int) -> Path:
    terms = ("ce_recal", "ce_recal_boundary", "ce_recal_rest") if stage < 3 else ("ce_student",)
    with MetricsWriter(folder / "metrics.jsonl", first_step=0) as writer:
        for step in range(num_steps):
            values = dict.fromkeys(METRIC_FIELDS) | dict.fromkeys(terms, 2.0 / (step + 1))
            sizes = {"step": step, "stage": stage, "step_s": 0.5, "loss": 3.0, "answer_tokens_student": 40}
            writer.write(values | sizes)
    (folder / "config.yaml").write_text("run: {dir: 'runs/<one>'}\n")
    return folder


TABLE = EvaluationTable(columns=("Model", "All"), rows=(("Teacher & co", "93.1"),), caption="Of 7 questions.")


def test_page_loads_nothing_and_holds_every_plot_that_it_saved(tmp_path: Path) -> None:
    runs = {
        "Stage 1: align": make_run(tmp_path / "one", stage=1, num_steps=70),
        "SFT": make_run(tmp_path / "two", stage=3, num_steps=1),
    }
    page = write_report(tmp_path / "out", runs=runs, table=TABLE, title="Demo").read_text()
    inside = {base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)}
    saved = {path.name: path.read_bytes() for path in (tmp_path / "out" / "plots").iterdir()}
    assert sorted(saved) == [
        "sft_losses.png",
        "sft_time.png",
        "stage_1_align_losses.png",
        "stage_1_align_time.png",
    ]
    assert inside == set(saved.values())
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http" not in page.replace("http-equiv", "")


def test_a_run_with_status_files_shows_the_seconds_of_every_rank(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one", stage=1, num_steps=3)
    roles = ["teacher tp 0 pp 0 dp 0", "student dp 0"]
    for rank, role in enumerate(roles):
        record = StatusRecord(rank=rank, role=role, host="node", pid=1, world_size=2)
        RankStatus(status_path(run, rank), record).close()
    page = write_report(tmp_path / "out", runs={"one": run}, table=None, title="Demo").read_text()
    png = (tmp_path / "out" / "plots" / "one_ranks.png").read_bytes()
    assert base64.b64encode(png).decode() in page


def test_page_is_balanced_html_with_its_texts_escaped(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one", stage=1, num_steps=3)
    page = write_report(tmp_path / "out", runs={"a < b": run}, table=TABLE, title="Demo").read_text()
    checker = BalanceChecker()
    checker.feed(page)
    assert checker.open == []
    assert "a &lt; b" in page
    assert "Teacher &amp; co" in page
    assert "runs/&lt;one&gt;" in page


def test_a_report_without_evaluation_has_no_result_section(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one", stage=1, num_steps=3)
    page = write_report(tmp_path / "out", runs={"one": run}, table=None, title="Demo").read_text()
    assert "<h2>Result</h2>" not in page


def test_a_run_without_a_step_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run 'empty': .*metrics\.jsonl has no finished step"):
        write_report(tmp_path / "out", runs={"empty": tmp_path / "empty"}, table=None, title="Demo")
    assert not (tmp_path / "out").exists()
