"""Compare the gain of compatible and incompatible tokens: described in Q3, answered in pairs."""

from typing import Any

import numpy as np
import polars as pl

from opd_diag.analyses.reasons import ONE_CHECKPOINT
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.analyses.teachability.contexts import KLS, Contexts, Floats, Integers
from opd_diag.analyses.teachability.sample import Sample
from opd_diag.stats import bootstrap
from opd_diag.stats.matching import Pairs, match_nearest
from opd_diag.stats.quantiles import TENTHS, tenths
from opd_diag.stats.resampled import quantile_in_draws, thirds_difference

CALIPER = 0.2  # SD
TIE_CALIPER = 1e-5  # SD; wider than the tie coordinate, which so never decides what may pair
MOST_IMBALANCE = 0.1  # SD
FEWEST_PAIRS, FEWEST_PROMPTS = 50, 10
Q3_DRAWS = 200
NULL_DRAWS = 20
COORDINATES = ("entropy", "divergence", "position")

Q3_NOTE = (
    "descriptive, not a test of compatibility: it falls with divergence and entropy, so a gain "
    "that depends on these alone gives a difference too, shown as null"
)
MATCHED_NOTE = "high and low third of compatibility minus its mean over the 50 nearest tokens"


def contrast_table(contexts: Contexts, sample: Sample | str, *, within: str) -> pl.DataFrame:
    """Contrast both gains inside Q3 and in matched pairs."""
    q3 = contexts.head | {"kl": list(KLS), "contrast": "Q3 thirds", "note": Q3_NOTE}
    matched = contexts.head | {"kl": list(KLS), "contrast": "matched", "within": within}
    matched["note"] = MATCHED_NOTE
    nothing: dict[str, Any] = {"n": 0, "n_prompts": 0}
    if contexts.last is None:
        q3 |= nothing | {"reason": ONE_CHECKPOINT}
        matched |= nothing | {"reason": ONE_CHECKPOINT}
    else:
        q3 |= _thirds_of_q3(contexts)
        if isinstance(sample, str):
            matched |= nothing | {"reason": sample}
        else:
            matched |= _matched(contexts, sample, within)
    return pl.concat([result_table("teachability_contrast", columns) for columns in (q3, matched)])


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
    gains = [contexts.gain(kl).astype(np.float64) for kl in KLS]
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
    gains = np.column_stack([contexts.gain(kl)[sample.rows] for kl in KLS]).astype(np.float64)
    if not np.ptp(local):
        return {"n": len(local), "n_prompts": 0, "reason": "constant: compatibility"}
    high, low, pairs = _pairs(sample, local, order, within)
    owner = sample.prompt[high[pairs.left]]
    prompts = len(sample.starts)
    size = np.bincount(owner, minlength=prompts).astype(np.float64)
    sums = np.column_stack([
        np.bincount(owner, gain[high[pairs.left]] - gain[low[pairs.right]], prompts)
        for gain in gains.T
    ])  # fmt: skip
    difference = bootstrap.ratio(sums, size[:, None], seed=contexts.seed)
    wanted = np.bincount(sample.prompt[high], minlength=prompts).astype(np.float64)
    share = bootstrap.ratio(size, wanted, seed=contexts.seed)
    null = []
    for permuted in sample.permutations(NULL_DRAWS, contexts.seed + 1):
        top, bottom, alike = _pairs(sample, local[permuted], order, within)
        null.append(_mean(gains[top[alike.left]] - gains[bottom[alike.right]]))
    columns = {
        "n": len(local),
        "n_prompts": int((size > 0).sum()),
        "n_pairs": len(pairs.left),
        **interval_columns("share_matched", share, share=True),
        "compatibility_gap": _mean((c[high[pairs.left]] - c[low[pairs.right]])[:, None])[0],
        "gain_top": _mean(gains[high[pairs.left]]),
        "gain_bottom": _mean(gains[low[pairs.right]]),
        **interval_columns("difference", difference),
        "null": np.mean(null, axis=0),
        "null_low": np.min(null, axis=0),
        "null_high": np.max(null, axis=0),
    }
    imbalance = {}
    for j, name in enumerate(COORDINATES):
        x = sample.points[:, j]
        imbalance[name] = float(_mean((x[high[pairs.left]] - x[low[pairs.right]])[:, None])[0])
        columns |= {f"{name}_before": x[high].mean() - x[low].mean()}
        columns |= {f"{name}_after": imbalance[name]}
    too_few = len(pairs.left) < FEWEST_PAIRS or columns["n_prompts"] < FEWEST_PROMPTS
    if too_few:
        columns["reason"] = f"fewer than {FEWEST_PAIRS} pairs or {FEWEST_PROMPTS} prompts"
        columns |= {"difference_low": np.nan, "difference_high": np.nan}
    else:
        unlike = [name for name, gap in imbalance.items() if abs(gap) >= MOST_IMBALANCE]
        weak = f"unbalanced: {', '.join(unlike)}" if unlike else None
        columns["reason"] = difference.reason if weak is None else weak
    return columns


def _pairs(
    sample: Sample, local: Floats, order: np.ndarray[Any, Any], within: str
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
