"""Follow the KL of the same tokens from checkpoint to checkpoint."""

from typing import Any

import numpy as np
import polars as pl

from opd_diag.analyses.groups import parts_of
from opd_diag.analyses.reasons import ONE_CHECKPOINT
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.analyses.teachability.contexts import RELATIVE_FLOOR, Contexts, Floats
from opd_diag.stats.p_values import sign_flip_p

KEPT = ("group", "n", "n_prompts", "mean", "mean_low", "mean_high")  # of the first checkpoint
GROUPS = ("all", "correct", "wrong")
FIRST = "the first checkpoint: nothing to compare with"


def kl_table(contexts: Contexts) -> pl.DataFrame:
    """Average KL under every checkpoint, and its change since the first, paired by token."""
    parts = []
    groups = _groups(contexts)
    for kl in contexts.kls:
        first = contexts.read(kl, contexts.checkpoints.all[0]).astype(np.float64)
        for name in contexts.checkpoints.all:
            values = contexts.read(kl, name).astype(np.float64)
            columns = _columns(contexts, kl, first, values, groups)
            if name == contexts.checkpoints.all[0]:
                alone = len(contexts.checkpoints.all) == 1
                columns = {key: columns[key] for key in KEPT}
                columns["reason"] = ONE_CHECKPOINT if alone else FIRST
            parts.append(columns | {"checkpoint": name, "kl": kl})
    return result_table("teachability_kl", parts)


def _groups(contexts: Contexts) -> dict[str, Any]:
    """Tell which tokens each group holds that is there."""
    correct = contexts.rollouts["correct"].cast(pl.Int8).fill_null(-1).to_numpy()[contexts.rollout]
    masks = dict(zip(GROUPS, (np.ones(contexts.n, bool), correct == 1, correct == 0), strict=True))
    for parts in parts_of(contexts.rollouts):
        code = parts.code[contexts.rollout]
        masks |= {title: code == number for number, title in enumerate(parts.titles)}
    return {name: mask for name, mask in masks.items() if mask.any()}


def _columns(
    contexts: Contexts, kl: str, first: Floats, values: Floats, groups: dict[str, Any]
) -> dict[str, Any]:
    prompts = contexts.prompts
    there = np.isfinite(first) & np.isfinite(values)
    members = np.column_stack([mask & there for mask in groups.values()])
    now, before = np.where(there, values, 0), np.where(there, first, 0)
    n = prompts.sums(members)
    x, x0 = (prompts.sums(members * of[:, None]) for of in (now, before))
    large = there & (first > max(contexts.noise_floor[kl], RELATIVE_FLOOR))
    share = np.divide(now - before, before, out=np.zeros_like(now), where=large)
    some = [share[large & mask] for mask in members.T]
    change = prompts.ratio(x - x0, n)
    mean = prompts.ratio(x, n)
    return {
        "group": list(groups),
        "n": n.sum(axis=0),
        "n_prompts": (n > 0).sum(axis=0),
        **interval_columns("mean", mean),
        **interval_columns("change", change),
        **interval_columns("relative", prompts.ratio(x - x0, x0)),
        "relative_median": [np.median(values) if values.size else np.nan for values in some],
        "p": sign_flip_p(x - x0, seed=contexts.seed),
        "reason": np.where(mean.reason == "", change.reason, mean.reason),
    }
