import csv
import json
from pathlib import Path

import pytest

from genrecal_mcore.evaluation.files import BenchmarkFile, read_questions
from genrecal_mcore.evaluation.judge_files import write_judge_files
from genrecal_mcore.evaluation.question import Answer
from tests.helpers.tiny_benchmarks import choice_row, write_tsv

pytestmark = pytest.mark.evaluation


def test_a_tsv_file_gives_vlmevalkits_table_without_images(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "MMStar.tsv", [choice_row(1, hint="a\nb"), choice_row(2)])
    reading = read_questions(BenchmarkFile.parse(str(path)))
    answers = {"1": Answer(text='say "B"\tor\nC', is_cut=False), "2": Answer(text="C", is_cut=False)}
    (written,) = write_judge_files(tmp_path, reading, answers, model="tiny", benchmark="MMStar")
    assert written.name == "tiny_MMStar.tsv"
    with written.open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file, dialect=csv.excel_tab)
    assert first["prediction"] == 'say "B"\tor\nC'
    assert (first["hint"], second["hint"]) == ("a\nb", "")
    assert "image" not in first
    assert second["answer"] == "C"


def test_questions_of_mm_vet_give_answers_by_id(tmp_path: Path) -> None:
    path = tmp_path / "mm-vet.json"
    record = {"imagename": "a.png", "question": "What is x?", "answer": "-1"}
    path.write_text(json.dumps({"v1_0": record, "v1_1": record}))
    answers = {"v1_1": Answer(text="b", is_cut=False), "v1_0": Answer(text="ä", is_cut=False)}
    reading = read_questions(BenchmarkFile.parse(str(path)))
    (written,) = write_judge_files(tmp_path, reading, answers, model="tiny", benchmark="mm-vet")
    assert written.name == "tiny.json"
    assert json.loads(written.read_text(encoding="utf-8")) == {"v1_0": "ä", "v1_1": "b"}
