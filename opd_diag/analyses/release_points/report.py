"""Describe in a few lines what `release_points` measured."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import polars as pl

from opd_diag.analyses.wording import count, estimate, number
from opd_diag.tables.columns.release_points import LINE_SEGMENTS


class Tables(Protocol):
    """The tables that are described."""

    @property
    def release_points(self) -> pl.DataFrame:
        """One row per rollout."""

    @property
    def release_summary(self) -> pl.DataFrame:
        """Rates, medians and controls."""


GAIN = (
    "Gain: by how much a step down fits the margins of a rollout's segments better than their "
    "mean, as the fall of the BIC in nat; below 0 the mean fits better."
)
PAPER = (
    "arXiv 2605.13643 has 79 % of gains above 6 nat, 24.0 nat on average, and a median release at "
    "13 % of the response."
)


def summary_lines(tables: Tables) -> list[str]:
    """Describe every checkpoint: the rule beside its controls, the margin, the gain, the cut."""
    summary = tables.release_summary.filter(pl.col("split") == "all")
    k = summary.filter(pl.col("statistic") == "accepted")["k"].unique()
    rows = summary.filter(pl.col("k").is_null() | pl.col("k").is_in(k.implode()))
    lines = []
    for (name,), ours in rows.group_by("checkpoint", maintain_order=True):
        points = tables.release_points.filter(pl.col("checkpoint") == name)
        reasons = points["reason"].drop_nulls().value_counts(sort=True).iter_rows()
        counts = "".join(f", {count(n)} {reason}" for reason, n in reasons)
        lines.append(f"{name}: {count(points.height)} rollouts{counts}")
        lines += _lines({row["statistic"]: row for row in ours.iter_rows(named=True)})
    return [*lines, GAIN, PAPER]


def _lines(by_name: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    def of(name: str) -> str:
        return estimate(by_name[name])

    threshold = number(by_name["accepted"]["threshold"])
    yield f"  released at the threshold {threshold}: {of('accepted')} of the rollouts"
    yield f"    upward {of('accepted_up')}, segments shuffled {of('accepted_shuffled')}"
    yield f"    downward minus upward: {of('accepted_minus_up')}"
    yield f"  watched segment by segment, the rule stops {of('stopped')} of the rollouts"
    controls = f"upward {of('stopped_up')}, segments shuffled {of('stopped_shuffled')}"
    yield f"    {controls}; tokens saved {of('stop_saved')}"
    release = by_name["release_frac_median"]
    yield f"  median release: {estimate(release)} of the response; mean gain {of('gain_mean')}"
    yield f"  log(1 + margin), first fifth minus last: {of('margin_early_minus_late')}"
    if by_name["gain_over_line"]["n"]:
        line = of("gain_over_line_minus_reversed")
        yield f"  step over a line, minus the same reversed ({LINE_SEGMENTS} segments): {line}"
    if by_name["reverse_kl_kept"]["n"]:
        kept, dealt = of("reverse_kl_kept"), of("reverse_kl_kept_dealt")
        yield f"  KL before the release: {kept}; before those of other rollouts: {dealt}"
