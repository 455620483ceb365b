"""Say in a few sentences what was learned, whether compatibility mattered, and who would know."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from opd_diag.analyses.teachability import Teachability

Row = Mapping[str, Any]

BUDGET = 0.10
KL_NAMES = {"forward_kl": "KL(teacher ‖ student)", "reverse_kl": "KL(student ‖ teacher)"}
MECHANICAL = (
    "Every selector with D in it holds the very KL that the gain is taken from: some gain falls "
    "to it under any change of the student."
)


def summary_lines(result: "Teachability") -> list[str]:
    """Give the headline figures with their intervals and controls, one sentence or two a line.

    Args:
        result: The tables of `teachability`.
    """
    gains = result.teachability
    whole = gains.filter(group="all", feature="all")
    lines = [_gain(row) for row in whole.iter_rows(named=True)]
    lines += [
        f"{row['n']:,} tokens left out: {row['reason']}."
        for row in gains.filter(group="missing", kl="forward_kl").iter_rows(named=True)
    ]
    if whole["gain"].null_count():
        return lines
    groups = gains.filter(
        pl.col("feature").eq("all") & ~pl.col("group").is_in(["all", "missing"]), kl="forward_kl"
    )
    lines += [
        f"{row['group']}: {row['n'] / whole['n'][0]:.0%} of tokens, "
        f"gain {_interval(row, 'gain', 'nat')}."
        for row in groups.iter_rows(named=True)
    ]
    if not groups["group"].is_in(["trained-on", "trained prompt", "held-out"]).any():
        lines.append("Whether these contexts were trained on is not known from policy and step.")
    contrast, models = result.teachability_contrast, result.teachability_models
    lines.append(_matched(contrast.row(by_predicate=_headline("matched"), named=True)))
    lines += _model(models)
    lines.append(_thirds(contrast.row(by_predicate=_headline("Q3 thirds"), named=True)))
    return lines + _selectors(result.teachability_selectors)


def _headline(contrast: str) -> pl.Expr:
    return (pl.col("contrast") == contrast) & (pl.col("kl") == "forward_kl")


def _gain(row: Row) -> str:
    name = KL_NAMES[row["kl"]]
    if row["gain"] is None:
        return f"{name} of {row['checkpoint']}: {_interval(row, 'base', 'nat')}; {row['reason']}."
    weak = f" ({row['reason']})" if row["reason"] else ""
    moved = f"fell by {_interval(row, 'gain', 'nat')}"
    if row["gain"] < 0:
        ends = {"gain_low": "gain_high", "gain_high": "gain_low", "gain": "gain"}
        rise = {name: -row[end] if row[end] is not None else None for name, end in ends.items()}
        moved = f"rose by {_interval({**row, **rise}, 'gain', 'nat')}"
    return (
        f"{name} {moved} a token from {row['features_from']} to {row['checkpoint']}, from "
        f"{row['base']:.3f}; the mean relative gain, of tokens above max(noise floor, 0.01), is "
        f"{_interval(row, 'relative', 'of their KL')}{weak}."
    )


def _matched(row: Row) -> str:
    question = "Does compatibility matter, given entropy, divergence and position? "
    if row["difference_low"] is None:
        return f"{question}No answer: {row['reason']}."
    verdict = "not seen"
    if row["difference_low"] > 0:
        verdict = "compatible tokens gain more"
    elif row["difference_high"] < 0:
        verdict = "compatible tokens gain less"
    weak = f" ({row['reason']})" if row["reason"] else ""
    return (
        f"{question}{verdict}: {row['n_pairs']:,} matched pairs ({row['share_matched']:.0%} of the "
        f"top third) differ in gain by {_interval(row, 'difference', 'nat')}; with compatibility "
        f"permuted by {row['null_low']:.4f} to {row['null_high']:.4f}{weak}."
    )


def _model(models: pl.DataFrame) -> list[str]:
    test = (pl.col("term") == "local compatibility") & ~pl.col("trimmed")
    rows = models.filter(test & (pl.col("kl") == "forward_kl")).to_dicts()
    return [
        f"Least squares: gain changes by {_interval(row, 'coefficient', 'nat')} per unit of local "
        f"compatibility, which fits {row['delta_r2']:.2%} of its variance "
        f"(permuted: up to {row['null_delta_r2']:.2%})."
        for row in rows
        if row["coefficient"] is not None
    ]


def _thirds(row: Row) -> str:
    if row["difference"] is None:
        return f"Q3, top minus bottom third of compatibility: {row['reason']}."
    return (
        f"Q3, top minus bottom third of compatibility: {_interval(row, 'difference', 'nat')}; "
        f"entropy and divergence alone give {row['null']:.4f}. Descriptive: this is no test of "
        "compatibility."
    )


def _selectors(table: pl.DataFrame) -> list[str]:
    near = (pl.col("budget") - BUDGET).abs()
    rows = table.filter(near == near.min(), kl="forward_kl")
    measured = rows.filter(pl.col("over_random").is_not_null())
    lines = []
    for row in measured.sort("gain", descending=True).head(3).iter_rows(named=True):
        share = "no share, since all gain is not above 0"
        if row["captured"] is not None:
            share = _interval(row, "captured", "of all gain")
        lines.append(
            f"{row['selector']} at {row['budget']:.0%} of tokens: gain "
            f"{_interval(row, 'gain', 'nat')}, above random by "
            f"{_interval(row, 'over_random', 'nat')}, {share}."
        )
    lines.append(MECHANICAL)
    absent = rows.filter(n=0)
    lines += [f"{row['selector']}: {row['reason']}." for row in absent.iter_rows(named=True)]
    return lines


def _interval(row: Row, name: str, unit: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return f"unknown {unit}"
    if low is None:
        return f"{value:.4f} {unit} (no interval: {row['reason']})"
    return f"{value:.4f} {unit} [{low:.4f}, {high:.4f}]"
