import json
import shutil
from pathlib import Path

import pytest

from genrecal_mcore.config import RunConfig
from genrecal_mcore.data import index_of_run, load_processors
from genrecal_mcore.training.job import check_positions
from tests.helpers.first_step import raw_config
from tests.helpers.tiny_index import facts_of


def test_samples_longer_than_the_teachers_positions_are_refused(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_folders["teacher"], teacher)
    config = RunConfig.model_validate(raw_config({**tiny_folders, "teacher": teacher}, tmp_path / "run"))
    index = index_of_run(config, load_processors(config))
    longest = max(facts.teacher_tokens for facts in facts_of(index))
    manifest = json.loads((teacher / "teacher.json").read_text())
    for limit in (longest, longest - 1):
        manifest["language"]["max_position_embeddings"] = limit
        (teacher / "teacher.json").write_text(json.dumps(manifest))
        if limit == longest:
            check_positions(config, index)
    with pytest.raises(ValueError, match=f"a sample has {longest} tokens, but the teacher has {longest - 1}"):
        check_positions(config, index)
