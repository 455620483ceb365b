"""Say in a few lines what `release_points` measured."""

from typing import TYPE_CHECKING

import polars as pl

from opd_diag.analyses.wording import count, estimate, number, share

if TYPE_CHECKING:
    from opd_diag.analyses.release_points import ReleasePoints

HEADLINES = {
    "accepted_at_6": "accepted at gain > 6",
    "accepted_up_at_6": "  the same upward",
    "accepted_shuffled_at_6": "  the same with segments shuffled",
    "step_beats_line": "  step beats a line (accepted, >= 100 segments)",
    "gain_mean": "mean gain",
    "release_frac_median": "median release, share of the response",
    "advantage_std_late_over_early": "std of the advantage, late / early",
}


def summary_lines(tables: "ReleasePoints") -> list[str]:
    """Write the headline figures of every checkpoint, with intervals and the paper's figures."""
    k = tables.release_summary.filter(pl.col("statistic") == "accepted_up_at_6")["k"].unique()
    rows = tables.release_summary.filter(
        pl.col("split") == "all", pl.col("k").is_null() | pl.col("k").is_in(k.implode())
    )
    lines = []
    for (name,), ours in rows.group_by("checkpoint", maintain_order=True):
        points = tables.release_points.filter(pl.col("checkpoint") == name)
        reasons = points["reason"].drop_nulls().value_counts(sort=True).iter_rows()
        counts = "".join(f", {count(n)} {reason}" for reason, n in reasons)
        lines.append(f"{name}: {count(points.height)} rollouts{counts}")
        by_name = {row["statistic"]: row for row in ours.iter_rows(named=True)}
        for statistic, text in HEADLINES.items():
            row = by_name[statistic]
            unit = "" if row["unit"] == "ratio" else row["unit"]
            figure = estimate(row, unit=unit)
            if row["paper"] is not None:
                figure += f" (paper: {(share if unit == 'share' else number)(row['paper'])})"
            lines.append(f"  {text:<48}{figure}")
    return lines
