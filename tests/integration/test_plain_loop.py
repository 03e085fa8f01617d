"""A loop over padded batches that computes every logit, with transformers alone, learns what a run learns."""

from pathlib import Path

import pytest
import yaml

from benchmarks.plain_loop import run_plain_loop
from benchmarks.ragged import Lengths
from benchmarks.stage2_step import LOSS_TERMS, PLAIN_STEPS, plain_run_of, write_files
from tests.helpers.closeness import assert_relatively_close
from tests.helpers.rank_pool import RankPool
from tests.helpers.training_run import numbers_of, train_run

pytestmark = pytest.mark.distributed

TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
RTOL = {0: 1e-5, 1: 1e-4}
"""By step. Adam makes whole steps of gradients that are zero but for rounding, as those of key biases."""


def test_two_steps_of_stage_2_have_the_losses_of_a_plain_transformers_loop(
    rank_pool: RankPool, tmp_path: Path
) -> None:
    path = write_files(
        tmp_path,
        teacher=TINY | {"num_key_value_heads": 2},
        student=TINY | {"num_key_value_heads": 4},
        lengths=Lengths(question=(5, 40), answer=(1, 12)),
    )
    raw = yaml.safe_load(path.read_text())
    alignment = raw | {"stage": 1, "init_from": None, "run": {"dir": str(tmp_path / "stage1")}}
    alignment["train"] = raw["train"] | {"steps": 1}
    rank_pool.run(train_run, 2, alignment)
    rank_pool.run(train_run, 2, raw)
    own = numbers_of(tmp_path / "run")
    plain = run_plain_loop(plain_run_of(path, tmp_path)).losses
    assert len(plain) == PLAIN_STEPS
    for step, losses in enumerate(plain):
        assert set(losses) == set(LOSS_TERMS)
        for name, value in losses.items():
            difference = abs(own[step][name] - value)
            compared = f"a plain loop's losses of step {step}"
            assert_relatively_close(difference, value, RTOL[step], name=compared, where=name)
