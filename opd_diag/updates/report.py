"""Describe an update in a few lines; it judges nothing."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from opd_diag.analyses import wording


def summary_lines(result: Any) -> list[str]:
    """Describe each update: its first-order and realised change, and the shares of the groups.

    Args:
        result: The tables of `update_alignment`.
    """
    table: pl.DataFrame = result.update_alignment
    lines: list[str] = []
    for (before, after), rows in table.group_by(
        "checkpoint_from", "checkpoint", maintain_order=True
    ):
        reverse = rows.filter(kl="reverse_kl")
        whole = reverse.filter(split="all").row(0, named=True)
        lines += [
            f"{before} to {after}: {wording.count(whole['n'])} tokens of "
            f"{whole['n_rollouts']} rollouts",
            "  KL(student ‖ teacher) a token: first order "
            f"{wording.estimate(whole, 'mean', 'nat')}, "
            f"realised {wording.estimate(whole, 'realised', 'nat')}{_random(whole)}",
            *_shares(reverse.filter(pl.col("split") != "all").to_dicts()),
        ]
    return lines


def _random(whole: wording.Row) -> str:
    if whole["random_mean"] is None:
        return ""
    mean, sd = (wording.number(whole[f"random_{name}"]) for name in ("mean", "sd"))
    return f"; random directions {mean} ± {sd}"


def _shares(rows: Sequence[wording.Row]) -> list[str]:
    return [
        f"  {row['group']}: {wording.share(row['token_share'])} of tokens, "
        f"{wording.estimate(row, 'share', 'share')} of the decrease; moved inside the rollout "
        f"{wording.share(row['shifted_share'])}{_later(row)}"
        for row in rows
        if row["share"] is not None
    ]


def _later(row: wording.Row) -> str:
    share = row["later_share"]
    return "" if share is None else f"; under the next update {wording.share(share)}"
