"""Tiny teachers and students with one tokenizer, whose heads are padded to different sizes."""

from pathlib import Path

from checkpoint_tools.conversion import convert_to_mcore
from tests.helpers.tiny_data import make_tiny_dataset
from tests.helpers.tiny_models import TinyModelKind, make_tiny_model

KINDS: dict[str, TinyModelKind] = {"internvl": "internvl_qwen2", "qwen2_vl": "qwen2_vl"}
SMALL = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "vocab_size": 330}


def make_models_of_one_tokenizer(root: Path) -> dict[str, Path]:
    """Write `data`, and for each family a model `F`, its conversion `F_teacher` and a student `small_F`."""
    made = {"data": make_tiny_dataset(root / "data", 12, seed=5)}
    for seed, (name, kind) in enumerate(KINDS.items()):
        made[name] = make_tiny_model(root / name, kind, seed=seed, shares_tokenizer=True, vocab_size=342)
        made[f"small_{name}"] = make_tiny_model(
            root / f"small_{name}", kind, seed=seed + 9, shares_tokenizer=True, **SMALL
        )
        made[f"{name}_teacher"] = root / f"{name}_teacher"
        convert_to_mcore(made[name], made[f"{name}_teacher"])
    return made
