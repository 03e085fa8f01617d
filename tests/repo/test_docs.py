import re
from pathlib import Path

import pytest

from genrecal_mcore.evaluation.benchmarks import BENCHMARKS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "genrecal_mcore").rglob("*.py")))

PAPER_SYMBOLS = {"_l", "_s", "a_l", "gt_l", "r_al", "z_al"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_into_the_repository_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    inside = [target for target in targets if not target.startswith("https://")]
    assert [target for target in inside if not (page.parent / target).exists()] == []


def test_every_name_in_the_paper_map_stands_in_the_code() -> None:
    text = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
    names = {part for name in re.findall(r"`\.?([A-Za-z_][\w.]*)`", text) for part in name.split(".")}
    assert sorted(name for name in names - PAPER_SYMBOLS if not re.search(rf"\b{name}\b", CODE)) == []


@pytest.mark.evaluation
def test_every_benchmark_stands_in_its_table() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert [benchmark.name for benchmark in BENCHMARKS if f"| {benchmark.name} |" not in page] == []


@pytest.mark.parametrize("page", ["student_loop.py", "teacher_loop.py", "recalibrator.py", "frozen_head.py"])
def test_the_four_places_to_read_first_are_one_click_from_the_readme(page: str) -> None:
    assert re.search(rf"\]\(genrecal_mcore/\w+/{page}\)", (ROOT / "README.md").read_text(encoding="utf-8"))
