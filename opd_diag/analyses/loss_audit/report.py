"""Say in a few lines how far usual losses lie from the exact KL."""

from typing import Protocol

import polars as pl

from opd_diag.analyses.groups import GROUP
from opd_diag.analyses.wording import Row, count, estimate, number

MOST_GROUPS = 6


class Tables(Protocol):
    """The tables that are described."""

    @property
    def loss_audit(self) -> pl.DataFrame:
        """Estimators beside the exact KL."""

    @property
    def loss_groups(self) -> pl.DataFrame:
        """The same inside groups of rollouts."""


def summary_lines(tables: Tables) -> list[str]:
    """Write each estimator beside the exact KL, for the checkpoint that sampled the tokens.

    Of the other checkpoints the trainer's loss alone; where it is not known who sampled, the last
    one is written out.
    """
    table = tables.loss_audit
    lines = ["Estimators of the reverse KL over tokens in the loss, 95 % intervals over prompts."]
    whole = table.filter("sampled_here")["checkpoint"].to_list() or table["checkpoint"].to_list()
    for (name,), rows in table.group_by("checkpoint", maintain_order=True):
        there = list(rows.filter(pl.col("n") > 0).iter_rows(named=True))
        if not there:
            lines.append(f"{name}: no token in the loss has an exact KL")
            continue
        most = max(there, key=lambda row: int(row["n"]))
        lines.append(
            f"{name}: {count(most['n'])} tokens, exact KL {estimate(most, 'exact', 'nat')}"
        )
        shown = [row for row in there if row["trainer_loss"] or name == whole[-1]]
        lines += [f"  {row['estimator']:<28} {_described(row, most['n'])}" for row in shown]
        own = [row["estimator"] for row in shown if row["trainer_loss"] and name == whole[-1]]
        groups = tables.loss_groups.filter(
            pl.col("checkpoint") == name, pl.col("estimator").is_in(own), split=GROUP
        )
        for row in groups.head(MOST_GROUPS).iter_rows(named=True):
            exact = estimate(row, "exact", "nat")
            lines.append(f"    {row['group']}: {estimate(row, 'relative', '')} of {exact}")
        if (more := groups.height - MOST_GROUPS) > 0:
            lines.append(f"    and {more} more groups (loss_groups)")
        if absent := rows.filter(pl.col("n") == 0).height:
            lines.append(
                f"  {absent} more need columns or top K sets that this run lacks (n is 0 in "
                "loss_audit)"
            )
        if most["sampled_here"] is not True:
            told = "another model" if most["sampled_here"] is False else "nobody knows who"
            lines.append(
                f"  {told} sampled these tokens; k1, k2 and k3 are estimates under the model that "
                "did"
            )
    return lines


def _described(row: Row, most: int) -> str:
    mean = f"{estimate(row, 'relative', '')} of it"
    if row["exact"] is None:
        mean = f"mean {estimate(row, 'mean', 'nat')}"
    parts = [
        mean,
        f"sd a token {number(None if row['variance'] is None else row['variance'] ** 0.5)} nat",
    ]
    if row["flips"] is not None:
        parts.append(f"sign flipped on {estimate(row, 'flips', 'share')}")
    if row["at_clamp"] is not None:
        parts.append(f"cut {estimate(row, 'at_clamp', 'share')}")
    if row["n"] < most:
        parts.append(f"of {count(row['n'])} tokens alone")
    return "; ".join(parts)
