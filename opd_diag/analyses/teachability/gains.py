"""Measure what was learned at fixed contexts, in all and by tenths of every feature."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.reasons import ONE_CHECKPOINT
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.analyses.teachability.contexts import (
    RELATIVE_FLOOR,
    Contexts,
    Floats,
    Integers,
    Units,
)
from opd_diag.analyses.teachability.features import FEATURES
from opd_diag.stats.bootstrap import Interval
from opd_diag.stats.quantiles import TENTHS, tenths
from opd_diag.tables.columns.teachability import PLANE

Q3 = 3
CONSTANT = "constant"
FEWEST_TOKENS = 50  # of a group or cell with an interval
NO_TOKENS = "no tokens"
TOO_FEW_TOKENS = f"fewer than {FEWEST_TOKENS} tokens"
WITHIN_NOISE = "within the noise floor"

_LABELS = ("bin", "bin_low", "bin_high", "other_bin", "other_low", "other_high")


def gains_table(contexts: Contexts, units: Units) -> pl.DataFrame:
    """Average base KL, gain and relative gain over every group and bin, with intervals."""
    labels: dict[str, list[Any]] = {name: [] for name in ("group", "feature", *_LABELS)}
    constant: list[bool] = []
    parts = []
    for block in _blocks(contexts, units):
        width = block.sums["n"].shape[1]
        parts.append(block.sums)
        constant += [block.constant] * width
        labels["group"] += [block.group] * width
        labels["feature"] += [block.feature] * width
        for name in _LABELS:
            labels[name] += block.labels.get(name, [None] * width)
    sums = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}

    n = sums["n"]
    small = n.sum(axis=0) < FEWEST_TOKENS

    def averaged(name: str, over: str = "n") -> Interval:
        """Estimate a ratio; without an interval where few tokens would make it."""
        found = contexts.prompts.ratio(sums[name], sums[over])
        low, high = (np.where(small, np.nan, end) for end in (found.low, found.high))
        return found._replace(low=low, high=high)

    columns: dict[str, Any] = contexts.head | labels
    columns |= {"n": n.sum(axis=0), "n_prompts": (n > 0).sum(axis=0)}
    columns |= interval_columns("compatibility", averaged("compatibility"), share=True)
    parts = []
    for kl in contexts.kls:
        floor = contexts.noise_floor[kl]
        columns |= {"kl": kl, "noise_floor": floor} | interval_columns("base", averaged(kl))
        columns["n_relative"] = sums[f"{kl} relative n"].sum(axis=0)
        reason = np.full(len(constant), ONE_CHECKPOINT)
        if contexts.has_gain:
            gain = averaged(f"{kl} gain")
            columns |= interval_columns("gain", gain)
            columns |= interval_columns("relative", averaged(f"{kl} gain", kl))
            columns["relative_median"] = _medians(contexts, units, kl, labels)
            within = (np.abs(gain.estimate) <= floor) & (floor > 0)
            reason = np.where(within, WITHIN_NOISE, gain.reason)
            reason = np.where(small & (reason == ""), TOO_FEW_TOKENS, reason)
            reason = np.where(columns["n"] == 0, NO_TOKENS, reason)
        parts.append(columns | {"reason": np.where(constant, CONSTANT, reason)})
    if contexts.missing:
        parts.append(_missing(contexts))
    return result_table("teachability", parts)


def _missing(contexts: Contexts) -> dict[str, Any]:
    """Tell how many tokens were left out."""
    return contexts.head | {
        "group": "missing",
        "feature": "all",
        "kl": list(contexts.kls),
        "n": contexts.missing,
        "n_prompts": 0,
        "n_relative": 0,
        "noise_floor": [contexts.noise_floor[kl] for kl in contexts.kls],
        "reason": "a score is null",
    }


class _Block(NamedTuple):
    """The bins of one feature in one group.

    Attributes:
        group: Name of the group.
        feature: Name of the feature, `all`, or the plane of entropy and divergence.
        labels: Columns that describe the bins, one value each; empty for the whole group.
        constant: Whether the feature is constant, so that there are no bins.
        sums: What the tokens of each prompt and bin add up to. Shape (prompts, bins) each.
    """

    group: str
    feature: str
    labels: dict[str, list[Any]]
    constant: bool
    sums: dict[str, Floats]


def _blocks(contexts: Contexts, units: Units) -> Iterator[_Block]:
    """Give the whole of every group, its tenths by every feature, and the plane of all tokens."""
    weights = _weights(contexts)
    in_q3 = contexts.column("quadrant") == Q3
    one_bin = np.zeros(len(in_q3), np.int64)
    cut: dict[str, tuple[Integers, Floats]] = {}
    for feature in ("all", *FEATURES, PLANE):
        bins, labels, width, constant = one_bin, {}, 1, False
        if feature == PLANE:
            constant = "entropy" not in cut or "divergence" not in cut
        elif feature != "all":
            constant = contexts.constant(feature)
        if feature == PLANE and not constant:
            (h, h_edges), (d, d_edges) = cut["entropy"], cut["divergence"]
            bins, width = h * TENTHS + d, TENTHS**2
            labels = _bin_labels("bin", "bin", h_edges, repeat=TENTHS)
            labels |= _bin_labels("other_bin", "other", d_edges, tile=TENTHS)
        elif feature != "all" and not constant:
            bins, edges = tenths(contexts.column(feature))
            width, labels = TENTHS, _bin_labels("bin", "bin", edges)
            cut[feature] = bins, edges
        cells = _cells(units, bins, in_q3, width, weights)
        for group, members in _groups(units, feature):
            sums = {
                name: _over_prompts(cell, units, group, members) for name, cell in cells.items()
            }
            yield _Block(group, feature, labels, constant, sums)


def _bin_labels(
    number: str, border: str, edges: Floats, *, repeat: int = 1, tile: int = 1
) -> dict[str, list[Any]]:
    columns = {number: np.arange(TENTHS), f"{border}_low": edges[:-1], f"{border}_high": edges[1:]}
    return {
        name: np.tile(np.repeat(values, repeat), tile).tolist() for name, values in columns.items()
    }


def _cells(
    units: Units,
    bins: Integers,
    in_q3: npt.NDArray[np.bool_],
    width: int,
    weights: dict[str, npt.NDArray[Any] | None],
) -> dict[str, Floats]:
    """Sum over unit, bin, and inside Q3 or not; shape (units, bins, 2) each."""
    key = (units.unit * width + bins) * 2 + in_q3
    shape = (len(units.prompt), width, 2)
    return {
        name: np.bincount(key, value, int(np.prod(shape))).reshape(shape).astype(np.float64)
        for name, value in weights.items()
    }


def _groups(units: Units, feature: str) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    everyone, *others = units.groups.items()
    return [everyone] if feature == PLANE else [everyone, ("Q3", everyone[1]), *others]


def _over_prompts(cell: Floats, units: Units, group: str, members: npt.NDArray[np.bool_]) -> Floats:
    chosen = cell[members, :, 1] if group == "Q3" else cell[members].sum(axis=2)
    sums = np.zeros((int(units.prompt[-1]) + 1, cell.shape[1]))
    np.add.at(sums, units.prompt[members], chosen)
    return sums


def _weights(contexts: Contexts) -> dict[str, npt.NDArray[Any] | None]:
    """Give what is summed: tokens, compatibility, and KL and gain of both directions."""
    weights: dict[str, npt.NDArray[Any] | None] = {"n": None}
    weights["compatibility"] = contexts.column("compatibility").astype(np.float64)
    for kl in contexts.kls:
        weights[kl] = contexts.column(kl).astype(np.float64)
        weights[f"{kl} relative n"] = _large(contexts, kl).astype(np.float64)
        if contexts.has_gain:
            weights[f"{kl} gain"] = contexts.gain(kl).astype(np.float64)
    return weights


def _large(contexts: Contexts, kl: str) -> npt.NDArray[np.bool_]:
    """Tell which tokens have a KL that a gain can be a share of."""
    floor = max(contexts.noise_floor[kl], RELATIVE_FLOOR)
    return np.asarray(contexts.column(kl) > floor)


def _medians(
    contexts: Contexts, units: Units, kl: str, labels: dict[str, list[Any]]
) -> list[float | None]:
    """Give the median relative gain of the tokens of each whole group; None in its bins."""
    large = _large(contexts, kl)
    relative = contexts.gain(kl)[large] / contexts.column(kl)[large]
    unit, in_q3 = units.unit[large], contexts.column("quadrant")[large] == Q3
    medians: dict[str, float] = {}
    for group, members in _groups(units, "all"):
        kept = in_q3 if group == "Q3" else members[unit]
        medians[group] = float(np.median(relative[kept])) if kept.any() else np.nan
    rows = zip(labels["group"], labels["feature"], strict=True)
    return [medians[group] if feature == "all" else None for group, feature in rows]
