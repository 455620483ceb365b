"""Describe in a few lines what `teachability` measured; what it answers stands in the findings."""

from collections.abc import Mapping
from typing import Any, Protocol

import polars as pl

from opd_diag.analyses import wording
from opd_diag.tables.columns.teachability import MATCHED, RANDOM, WORDS
from opd_diag.tables.columns.tokens import KL_NAMES


class Tables(Protocol):
    """The tables that are described."""

    @property
    def teachability(self) -> pl.DataFrame:
        """Gain by groups of tokens."""

    @property
    def teachability_kl(self) -> pl.DataFrame:
        """KL under every checkpoint."""

    @property
    def teachability_contrast(self) -> pl.DataFrame:
        """Compatible against incompatible tokens."""

    @property
    def teachability_selectors(self) -> pl.DataFrame:
        """What every selector captures."""


Row = Mapping[str, Any]

BUDGET = 0.10
SHOWN_SELECTORS = 3
MECHANICAL = (
    "Every selector with divergence in it holds the very KL that a gain is taken from: some gain "
    "falls to it under any change of the student."
)


def summary_lines(result: Tables) -> list[str]:
    """Give the headline figures with their intervals and controls, one sentence or two a line.

    Args:
        result: The tables of `teachability`.
    """
    table = result.teachability_kl
    lines = [
        _kl(table.filter(kl=kl, group="all")) for kl in table["kl"].unique(maintain_order=True)
    ]
    gains = result.teachability
    lead = table["kl"][0]
    lines += [
        f"{wording.count(row['n'])} tokens left out: {row['reason']}."
        for row in gains.filter(group="missing", kl=lead).to_dicts()
    ]
    whole = gains.filter(group="all", feature="all", kl=lead).row(0, named=True)
    if whole["gain"] is None:
        return lines
    lines.append(
        f"Below: features of {whole['features_from']}, gain in {KL_NAMES[lead]} from "
        f"{whole['gain_from']} to {whole['checkpoint']}: {wording.estimate(whole, 'gain', 'nat')} "
        f"a token."
    )
    groups = gains.filter(
        pl.col("feature").eq("all") & ~pl.col("group").is_in(["all", "missing"]), kl=lead
    ).to_dicts()
    parts = [
        f"{WORDS.get(row['group'], row['group'])} ({wording.share(row['n'] / whole['n'])} of "
        f"tokens) {wording.estimate(row, 'gain', 'nat')}"
        for row in groups
    ]
    lines.append(f"Gain by group: {'; '.join(parts)}.")
    contrast = result.teachability_contrast.filter(kl=lead)
    lines.append(_matched(contrast.filter(contrast=MATCHED).row(0, named=True)))
    return lines + _selectors(result.teachability_selectors.filter(kl=lead), lead)


def _kl(rows: pl.DataFrame) -> str:
    first, last = rows.row(0, named=True), rows.row(-1, named=True)
    text = (
        f"{KL_NAMES[first['kl']]}: {wording.estimate(first, 'mean', 'nat')} under "
        f"{first['checkpoint']}"
    )
    if rows.height == 1:
        return f"{text} ({first['reason']})."
    return (
        f"{text}, {wording.estimate(last, 'mean', 'nat')} under {last['checkpoint']}; change "
        f"{wording.estimate(last, 'change', 'nat')} a token, "
        f"{wording.estimate(last, 'relative', 'share')} of the KL (median token "
        f"{wording.share(last['relative_median'])})."
    )


def _matched(row: Row) -> str:
    reason = wording.in_full(row["reason"])
    if row["difference"] is None:
        return f"Compatible against incompatible tokens: {wording.MISSING} ({reason})."
    weak = f" ({reason})" if reason else ""
    return (
        f"{wording.count(row['n_pairs'])} pairs alike in entropy, divergence and position, of high "
        f"and low compatibility, differ in gain by {wording.estimate(row, 'difference', 'nat')}, "
        f"less what these tell by {wording.estimate(row, 'adjusted', 'nat')}; with "
        f"compatibility permuted by {wording.number(row['null_low'])} to "
        f"{wording.number(row['null_high'])}{weak}."
    )


def _selectors(table: pl.DataFrame, lead: str) -> list[str]:
    near = (pl.col("budget") - BUDGET).abs()
    rows = table.filter(near == near.min())
    measured = rows.filter(pl.col("gain").is_not_null(), pl.col("selector") != RANDOM)
    best = measured.sort("gain", descending=True).head(SHOWN_SELECTORS).to_dicts()
    lines = [
        f"{WORDS.get(row['selector'], row['selector'])} at {wording.share(row['budget'])} of "
        f"tokens: gain {wording.estimate(row, 'gain', 'nat')}, minus that of all tokens "
        f"{wording.estimate(row, 'over_mean', 'nat')}; of all gain "
        f"{wording.estimate(row, 'captured', 'share')}."
        for row in best
    ]
    lines.append(MECHANICAL)
    absent = rows.filter(n=0).to_dicts()
    if absent:
        lines.append("; ".join(f"{row['selector']}: {row['reason']}" for row in absent) + ".")
    return lines
