"""Say in a few lines what `release_points` found."""

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from opd_diag.analyses.release_points import ReleasePoints

HEADLINES = {
    "accepted_at_6": "accepted at gain > 6",
    "accepted_up_at_6": "  the same upward",
    "accepted_shuffled_at_6": "  the same with segments shuffled",
    "step_beats_line": "  step beats a line (accepted, >= 100 segments)",
    "gain_mean": "mean gain, nat",
    "release_frac_median": "median release, share of the response",
    "advantage_std_late_over_early": "std of the advantage, late / early",
}


def summary_lines(found: "ReleasePoints") -> list[str]:
    """Write the headline figures of every checkpoint, with intervals and the paper's figures."""
    k = found.release_summary.filter(pl.col("statistic") == "accepted_up_at_6")["k"].unique()
    rows = found.release_summary.filter(
        pl.col("split") == "all", pl.col("k").is_null() | pl.col("k").is_in(k.implode())
    )
    lines = []
    for (name,), ours in rows.group_by("checkpoint", maintain_order=True):
        points = found.release_points.filter(pl.col("checkpoint") == name)
        reasons = points["reason"].drop_nulls().value_counts(sort=True).iter_rows()
        counts = "".join(f", {count:,} {reason}" for reason, count in reasons)
        lines.append(f"{name}: {points.height:,} rollouts{counts}")
        by_name = {row["statistic"]: row for row in ours.iter_rows(named=True)}
        lines += [f"  {text:<48}{_figure(by_name[key])}" for key, text in HEADLINES.items()]
    return lines


def _figure(row: dict[str, float | str | None]) -> str:
    if row["value"] is None:
        return f"- ({row['reason']})"
    text = f"{row['value']:.3g}"
    if row["value_low"] is not None:
        text += f" [{row['value_low']:.3g}, {row['value_high']:.3g}]"
    text += "" if row["reason"] is None else f" ({row['reason']})"
    return text if row["paper"] is None else f"{text}  paper: {row['paper']:.3g}"
