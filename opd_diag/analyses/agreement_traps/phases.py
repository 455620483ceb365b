"""What the tokens before, inside and after a low-KL stretch are like."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from opd_diag.analyses.agreement_traps.checkpoint import Checkpoint
from opd_diag.analyses.agreement_traps.groups import groups
from opd_diag.analyses.agreement_traps.rule import PHASES, Flags, Floats, Integers, Sums, by_phase
from opd_diag.analyses.agreement_traps.shuffles import Shuffled
from opd_diag.analyses.prompts import Prompts, select
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.stats.bootstrap import Interval
from opd_diag.tables.columns.agreement_traps import TRAP_PHASES
from opd_diag.tables.schema import empty_table

UNITS = {
    "reverse_kl": "nat",
    "grad_logits": "nat/logit",
    "grad_logits_other": "nat/logit",
    "gain_reverse_kl": "nat",
    "gain_forward_kl": "nat",
    "advantage_std": "nat",
    "teacher_entropy": "nat",
}  # the others are shares


class _Estimate(NamedTuple):
    """Estimates in (group, phase), and the tokens and rollouts behind them."""

    interval: Interval
    tokens: Floats
    rollouts: Integers


def trap_phases(checkpoint: Checkpoint, shuffled: Shuffled) -> pl.DataFrame:
    """Average every quantity over the tokens of each phase, for each group of rollouts.

    Args:
        checkpoint: The checkpoint under the rule.
        shuffled: The same rule on shuffled tokens, on the rollouts of the control.

    Returns:
        The table `trap_phases`, without rows where the rule could fire nowhere.
    """
    chosen = groups(checkpoint)
    if not chosen:
        return empty_table(TRAP_PHASES)
    fired, seed = checkpoint.cuts.triggered, checkpoint.options.seed
    sums = {
        name: (by_phase(q.sums, fired), by_phase(q.counts, fired))
        for name, q in checkpoint.quantities.items()
    }
    members = [group.members for group in chosen]
    observed = _estimate(sums, members, Prompts(checkpoint.prompt, seed=seed))
    everyone = [np.ones(checkpoint.sample.size, np.bool_)]
    control = Prompts(checkpoint.prompt[checkpoint.sample], seed=seed)
    null = _estimate(shuffled.phases, everyone, control)
    blank = np.full(len(PHASES) * (len(chosen) - 1), np.nan)
    frames = [
        result_table(
            "trap_phases",
            {
                "split": [group.split for group in chosen for _ in PHASES],
                "group": [group.name for group in chosen for _ in PHASES],
                "phase": PHASES * len(chosen),
                "n": estimate.tokens,
                "n_rollouts": estimate.rollouts,
                "n_prompts": estimate.interval.clusters,
                **interval_columns("value", estimate.interval),
                **{
                    key: np.concatenate([values, blank])
                    for key, values in interval_columns("shuffled", null[name].interval).items()
                },
                "reason": estimate.interval.reason,
            },
            checkpoint=checkpoint.name,
            quantity=name,
            unit=UNITS.get(name, "share"),
        )
        for name, estimate in observed.items()
    ]
    return pl.concat(frames)


def _estimate(
    terms: Mapping[str, Sums], masks: list[Flags], prompts: Prompts
) -> dict[str, _Estimate]:
    """Estimate each quantity in (group, phase); advantage gives its standard deviation."""
    member = np.stack(masks, axis=1)

    def in_groups(values: Floats) -> Floats:
        return (member[:, :, None] * values[:, None, :]).reshape(len(values), -1)

    sums: dict[str, Sums] = {}
    behind: dict[str, tuple[Floats, Integers]] = {}
    for name, (x, m) in terms.items():
        wide = in_groups(m)
        sums[name] = prompts.sums(in_groups(x)), prompts.sums(wide)
        behind[name] = wide.sum(axis=0), (wide > 0).sum(axis=0)
    squares, _ = sums.pop("advantage_squared")
    advantage, count = sums.pop("advantage")
    x, m = (np.concatenate([pair[side] for pair in sums.values()], axis=1) for side in (0, 1))
    means = prompts.ratio(x, m)
    width = squares.shape[1]
    estimates = {
        name: _Estimate(select(means, slice(i * width, (i + 1) * width)), *behind[name])
        for i, name in enumerate(sums)
    }
    variance = prompts.ratio(_squared_deviations(advantage, count, squares), count, log=True)
    estimate, low, high = (np.sqrt(end) for end in variance[:3])
    deviation = Interval(estimate, low, high, variance.clusters, variance.reason)
    estimates["advantage_std"] = _Estimate(deviation, *behind["advantage"])
    return estimates


def _squared_deviations(sums: Floats, counts: Floats, squares: Floats) -> Floats:
    """Sum the squared deviations from the mean of all tokens, in each prompt.

    With that mean held fixed their ratio to the counts is the variance, up to what is of second
    order in a bootstrap draw. Shapes (prompts, k).
    """
    total = counts.sum(axis=0)
    centre = sums.sum(axis=0) / np.where(total > 0, total, 1)
    return np.asarray(np.maximum(squares - 2 * centre * sums + centre**2 * counts, 0))
