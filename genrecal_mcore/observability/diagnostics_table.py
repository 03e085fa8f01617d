"""Shows `diagnostics.json` of a run as tables; its format stands in docs/design.md."""

from collections.abc import Mapping
from typing import Any

from genrecal_mcore.observability.evaluation_table import EvaluationTable

SHARES = ("ce_boundary", "kl_boundary", "ce_rest", "kl_rest")
SHARE_COLUMNS = ("CE, boundary", "KL, boundary", "CE, rest", "KL, rest")
SWAPS = {"question": "another sample's question", "image": "the same text, another image"}


def diagnostics_tables(facts: Mapping[str, Any]) -> list[EvaluationTable]:
    """Return the losses under swaps, and both models' perplexities and cosines, ready to print."""
    return [_swap_table(facts), _path_table(facts)]


def _swap_table(facts: Mapping[str, Any]) -> EvaluationTable:
    rows = [("as it is", str(facts["num_samples"]), *_shares(facts["paths"]["student"]))]
    for name, label in SWAPS.items():
        found = facts["swaps"][name]
        number = str(found["num_samples"])
        if 0 < found["num_samples"] < facts["num_samples"]:
            rows.append(("as it is, those of the next row", number, *_shares(found["own"])))
        if found["num_samples"]:
            rows.append((label, number, *_shares(found["swapped"])))
    return EvaluationTable(
        columns=("What the student sees", "samples", *SHARE_COLUMNS),
        rows=tuple(rows),
        caption=(
            f"Recalibrated features at step {facts['step']}: mean cross entropy and KL at boundary positions "
            "and at the others. Where a swap changes nothing, the student's features are not used."
        ),
    )


def _path_table(facts: Mapping[str, Any]) -> EvaluationTable:
    heads, paths, cosine = facts["own_heads"], facts["paths"], facts["cosine"]
    perplexities = (
        ("student, own head", heads["student"]),
        ("teacher, own head", heads["teacher"]),
        ("z_qs, z_al recalibrated, teacher's head", paths["student"]),
        ("z_ql, z_al recalibrated, teacher's head", paths["teacher"]),
    )
    rows = [(label, f"perplexity {found['perplexity']:.3f}") for label, found in perplexities]
    rows += [
        (
            f"cosine of both paths, pooled over {where}",
            f"own {cosine[key]['diagonal']:.3f}, others {cosine[key]['off_diagonal']:.3f}",
        )
        for key, where in (("boundary", "the boundary"), ("all", "all positions"))
    ]
    return EvaluationTable(
        columns=("What", "found"),
        rows=tuple(rows),
        caption=f"{facts['num_samples']} samples of {', '.join(facts['data'])}.",
    )


def _shares(found: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(f"{found[name]:.4f}" for name in SHARES)
