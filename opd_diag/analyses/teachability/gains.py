"""Measure what was learned at fixed contexts, in all and by tenths of every feature."""

from typing import Any

import numpy as np
import polars as pl

from opd_diag.analyses.teachability.bins import blocks
from opd_diag.analyses.teachability.contexts import KLS, ONE_CHECKPOINT, Contexts
from opd_diag.analyses.teachability.groups import Units
from opd_diag.analyses.teachability.table import as_table, interval_columns
from opd_diag.stats.bootstrap import Interval, ratio
from opd_diag.tables.columns.teachability import TEACHABILITY

CONSTANT = "constant"
NO_TOKENS = "no tokens"
WITHIN_NOISE = "within the noise floor"

_LABELS = ("bin", "bin_low", "bin_high", "other_bin", "other_low", "other_high")


def gains_table(contexts: Contexts, units: Units, *, seed: int) -> pl.DataFrame:
    """Average base KL, gain and relative gain over every group and bin, with intervals."""
    rows: dict[str, list[Any]] = {name: [] for name in ("group", "feature", *_LABELS)}
    constant: list[bool] = []
    parts = []
    for block in blocks(contexts, units):
        width = block.sums["n"].shape[1]
        parts.append(block.sums)
        constant += [block.constant] * width
        rows["group"] += [block.group] * width
        rows["feature"] += [block.feature] * width
        for name in _LABELS:
            rows[name] += block.labels.get(name, [None] * width)
    sums = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}

    def averaged(name: str, over: str = "n") -> Interval:
        return ratio(sums[name], sums[over], seed=seed)

    n = sums["n"]
    columns: dict[str, Any] = contexts.head | rows
    columns |= {"n": n.sum(axis=0), "n_prompts": (n > 0).sum(axis=0)}
    columns |= interval_columns("compatibility", averaged("compatibility"), share=True)
    frames = []
    for kl in KLS:
        floor = contexts.noise_floor[kl]
        columns |= {"kl": kl, "noise_floor": floor} | interval_columns("base", averaged(kl))
        columns["n_relative"] = sums[f"{kl} relative n"].sum(axis=0)
        reason = np.full(len(constant), ONE_CHECKPOINT)
        if contexts.last is not None:
            found = averaged(f"{kl} gain")
            relative = averaged(f"{kl} relative", f"{kl} relative n")
            columns |= interval_columns("gain", found) | interval_columns("relative", relative)
            small = (np.abs(found.estimate) <= floor) & (floor > 0)
            reason = np.where(small, WITHIN_NOISE, found.reason)
            reason = np.where(columns["n"] == 0, NO_TOKENS, reason)
        columns["reason"] = np.where(constant, CONSTANT, reason)
        frames.append(as_table(columns, TEACHABILITY))
    return pl.concat([*frames, _missing(contexts)])


def _missing(contexts: Contexts) -> pl.DataFrame:
    """Tell how many tokens were left out; no row where none was."""
    columns = contexts.head | {
        "group": "missing",
        "feature": "all",
        "kl": list(KLS),
        "n": contexts.missing,
        "n_prompts": 0,
        "n_relative": 0,
        "noise_floor": [contexts.noise_floor[kl] for kl in KLS],
        "reason": "a score is null",
    }
    table = as_table(columns, TEACHABILITY)
    return table if contexts.missing else table.clear()
