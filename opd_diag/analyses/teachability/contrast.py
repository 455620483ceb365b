"""Compare the gain of compatible and incompatible tokens: described in Q3, answered in pairs."""

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.reasons import ONE_CHECKPOINT
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.analyses.teachability.contexts import Contexts, Floats, Integers
from opd_diag.analyses.teachability.sample import Sample
from opd_diag.stats import bootstrap
from opd_diag.stats.matching import Pairs, match_nearest
from opd_diag.stats.p_values import sign_flip_p
from opd_diag.stats.quantiles import TENTHS, quantile_in_draws, tenths, thirds_difference
from opd_diag.tables.columns.teachability import MATCHED, REGRESSION, THIRDS

CALIPER = 0.2  # normal scores, or SD of position
TIE_CALIPER = 1e-5  # wider than the tie coordinate, which so never decides what may pair
MOST_IMBALANCE = 0.1  # normal scores, or SD of position
MOST_TWOFOLD = 0.1  # share of pairs whose divergence differs more than twofold
FEWEST_PAIRS, FEWEST_PROMPTS = 50, 10
Q3_DRAWS = 200
NULL_DRAWS = 5
COORDINATES = ("entropy", "divergence", "position")

Q3_NOTE = (
    "descriptive, not a test of compatibility: it falls with divergence and entropy, so a gain "
    "that depends on these alone gives a difference too, shown as null"
)
MATCHED_NOTE = "high and low third of compatibility minus its mean over the 50 nearest tokens"


def contrast_table(contexts: Contexts, sample: Sample | str, *, within: str) -> pl.DataFrame:
    """Contrast both gains inside Q3 and in matched pairs."""
    head = contexts.head | {"kl": list(contexts.kls), "n": 0, "n_prompts": 0}
    q3 = head | {"contrast": THIRDS, "note": Q3_NOTE, "reason": ONE_CHECKPOINT}
    matched = head | {"contrast": MATCHED, "within": within, "note": MATCHED_NOTE}
    matched["reason"] = sample if contexts.has_gain else ONE_CHECKPOINT
    if contexts.has_gain:
        q3 |= _thirds_of_q3(contexts)
        if not isinstance(sample, str):
            matched |= _matched(contexts, sample, within)
    if contexts.has_gain and not contexts.checkpoints.out_of_time:
        for columns in (q3, matched):
            columns["reason"] = [_with_regression(why) for why in _each(columns["reason"])]
    return result_table("teachability_contrast", (q3, matched))


def _each(reason: Any) -> list[str]:
    return [str(why) for why in np.broadcast_to(np.asarray(reason), 2)]


def _with_regression(reason: str) -> str:
    return f"{reason}; {REGRESSION}" if reason else REGRESSION


def _thirds_of_q3(contexts: Contexts) -> dict[str, Any]:
    """Average gain over the top minus the bottom third of C in Q3, all cuts made anew each draw."""
    h, d, c = (contexts.column(name) for name in ("entropy", "divergence", "compatibility"))
    code, prompts = contexts.prompts.code, contexts.prompts.count
    counts = bootstrap.cluster_counts(prompts, draws=Q3_DRAWS, seed=contexts.seed)
    counts = np.concatenate([np.ones((1, prompts), counts.dtype), counts])
    # The cuts are values of the columns: in the columns' own type they are compared at once.
    cut_h = quantile_in_draws(h, code, counts, 0.5).astype(h.dtype)
    cut_d = quantile_in_draws(d, code, counts, 0.5).astype(d.dtype)
    near = np.flatnonzero((h <= cut_h.max()) & (d > cut_d.min()))
    near = near[np.lexsort((contexts.order[near], c[near]))]
    h, d, prompt = h[near], d[near], code[near]
    cell = tenths(contexts.column("entropy"))[0] * TENTHS + tenths(contexts.column("divergence"))[0]
    gains = [contexts.gain(kl).astype(np.float64) for kl in contexts.kls]
    n = np.maximum(np.bincount(cell, minlength=TENTHS**2), 1)
    smooth = [(np.bincount(cell, gain, TENTHS**2) / n)[cell[near]] for gain in gains]
    values = np.column_stack([*(gain[near] for gain in gains), *smooth])
    draws = np.empty((len(counts), values.shape[1]))
    for draw, (row, most_h, least_d) in enumerate(zip(counts, cut_h, cut_d, strict=True)):
        weights = row[prompt] * ((h <= most_h) & (d > least_d))
        draws[draw] = thirds_difference(values, weights)
    inside = (h <= cut_h[0]) & (d > cut_d[0])
    present = len(np.unique(prompt[inside]))
    interval = bootstrap.percentile(draws[1:], draws[0], present)
    both = slice(0, 2), slice(2, 4)
    place, total = np.cumsum(inside), int(inside.sum())
    top, bottom = inside & (place * 3 > 2 * total), inside & (place * 3 <= total)
    both_ends = top.any() and bottom.any()
    return {
        "n": total,
        "n_prompts": present,
        "compatibility_gap": c[near][top].mean() - c[near][bottom].mean() if both_ends else np.nan,
        "gain_top": _mean(values[top, :2]),
        "gain_bottom": _mean(values[bottom, :2]),
        "difference": interval.estimate[both[0]],
        "difference_low": interval.low[both[0]],
        "difference_high": interval.high[both[0]],
        "null": interval.estimate[both[1]],
        "null_low": interval.low[both[1]],
        "null_high": interval.high[both[1]],
        "reason": interval.reason[both[0]],
    }


def _mean(values: Floats) -> Floats:
    return values.sum(axis=0) / len(values) if len(values) else np.full(values.shape[1], np.nan)


def _matched(contexts: Contexts, sample: Sample, within: str) -> dict[str, Any]:
    """Contrast pairs alike in entropy, divergence and position that differ in local C."""
    c = contexts.column("compatibility")[sample.rows].astype(np.float64)
    local = sample.local(c)
    order = contexts.order[sample.rows]
    gains: Floats = np.column_stack([contexts.gain(kl)[sample.rows] for kl in contexts.kls])
    gains = gains.astype(np.float64)
    if not np.ptp(local):
        return {"n": len(local), "reason": "constant: compatibility"}
    high, low, pairs = _pairs(sample, local, order, within)
    top, bottom = high[pairs.left], low[pairs.right]
    prompts = Prompts(sample.prompt, seed=contexts.seed)
    columns: dict[str, Any] = {
        "n": len(local),
        "n_prompts": len(np.unique(sample.prompt[np.concatenate([top, bottom])])),
        "n_pairs": len(top),
        "compatibility_gap": float(np.mean(c[top] - c[bottom])) if len(top) else np.nan,
        "gain_top": _mean(gains[top]),
        "gain_bottom": _mean(gains[bottom]),
    }
    size, wanted = (_sums(sample, rows, np.ones((len(local), 1))) for rows in (top, high))
    share = prompts.ratio(size, wanted)
    columns |= {
        name: ends[0] for name, ends in interval_columns("share_matched", share, share=True).items()
    }
    null = []
    for permuted in sample.permutations(NULL_DRAWS, contexts.seed + 1):
        one, other, alike = _pairs(sample, local[permuted], order, within)
        null.append(_mean(gains[one[alike.left]] - gains[other[alike.right]]))
    columns |= {"null": np.mean(null, axis=0)}
    columns |= {"null_low": np.min(null, axis=0), "null_high": np.max(null, axis=0)}
    balance, unlike = _balance(contexts, sample, (high, low), (top, bottom))
    columns |= balance
    if columns["n_pairs"] < FEWEST_PAIRS or columns["n_prompts"] < FEWEST_PROMPTS:
        columns["difference"] = columns["gain_top"] - columns["gain_bottom"]
        columns["reason"] = f"fewer than {FEWEST_PAIRS} pairs or {FEWEST_PROMPTS} prompts"
        return columns
    # Each token counts for its own prompt: a pair has two.
    difference = prompts.difference(
        _sums(sample, top, gains), size, _sums(sample, bottom, gains),
        _sums(sample, bottom, np.ones((len(local), 1))),
    )  # fmt: skip
    columns |= interval_columns("difference", difference)
    # What entropy, divergence and position tell is taken out of the gain, as the mean over the
    # nearest tokens: it is no noise, and its tail is long.
    rest = sample.local(gains)
    sums, sums_low = (_sums(sample, rows, rest) for rows in (top, bottom))
    adjusted = prompts.ratio(sums - sums_low, size)
    columns |= interval_columns("adjusted", adjusted)
    if unlike:
        columns["reason"] = f"unbalanced: {', '.join(unlike)}"
        return columns
    columns["reason"] = difference.reason
    if contexts.checkpoints.out_of_time:
        columns["p"] = sign_flip_p(sums - sums_low, seed=contexts.seed)
    return columns


def _sums(sample: Sample, rows: Integers, values: Floats) -> Floats:
    """Sum values of some tokens over their own prompts. Shape (prompts, k)."""
    owner, prompts = sample.prompt[rows], len(sample.starts)
    return np.column_stack([np.bincount(owner, column[rows], prompts) for column in values.T])


def _balance(
    contexts: Contexts,
    sample: Sample,
    before: tuple[Integers, Integers],
    after: tuple[Integers, Integers],
) -> tuple[dict[str, float], list[str]]:
    """Compare the groups before and after matching; name the coordinates in which pairs differ."""
    columns, unlike = {}, []
    top, bottom = after
    for j, name in enumerate(COORDINATES):
        x = sample.points[:, j]
        gap = float(np.mean(x[top] - x[bottom])) if len(top) else np.nan
        columns[f"{name}_before"] = float(x[before[0]].mean() - x[before[1]].mean())
        columns[f"{name}_after"] = gap
        unlike += [name] if abs(gap) >= MOST_IMBALANCE else []
    d = contexts.column("divergence")[sample.rows]
    far = np.maximum(d[top], d[bottom]) > 2 * np.minimum(d[top], d[bottom])
    columns["twofold"] = float(far.mean()) if len(top) else np.nan
    if columns["twofold"] > MOST_TWOFOLD and "divergence" not in unlike:
        unlike.append("divergence")
    return columns, unlike


def _pairs(
    sample: Sample, local: Floats, order: npt.NDArray[Any], within: str
) -> tuple[Integers, Integers, Pairs]:
    """Match the top third of local C with its bottom third."""
    ranked = np.lexsort((order, local))
    third = len(local) // 3
    low, high = ranked[:third], ranked[len(local) - third :]
    points, caliper = sample.points, [CALIPER] * 3 + [TIE_CALIPER]
    if within == "prompt":
        # Prompts a caliper apart are too far to pair, and inside one the coordinate adds nothing.
        points = np.column_stack([points, sample.prompt * 10.0])
        caliper.append(1.0)
    return high, low, match_nearest(points[high], points[low], caliper)
