"""How far the findings hang on the four numbers of the rule."""

from collections.abc import Mapping
from itertools import product

import numpy as np
import polars as pl

from opd_diag.analyses.agreement_traps.checkpoint import Checkpoint, RunningSums
from opd_diag.analyses.agreement_traps.rule import (
    Cuts,
    Floats,
    Numbers,
    Rule,
    find_cuts,
    longest_spans,
)
from opd_diag.analyses.agreement_traps.shuffles import shuffled_cuts
from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.tables import interval_columns, result_table

WINDOWS = (32, 64, 128)
ETAS = (0.1, 0.3, 0.5)
CONSECUTIVE = (1, 4, 16)
GRACES = (0, 2)  # in windows

MOST_DRAWS = 5  # the grid is large, and its control is a mean over rollouts too


def trap_sensitivity(checkpoint: Checkpoint) -> pl.DataFrame:
    """Repeat the rule over a grid of its numbers, on the rollouts of the control.

    Args:
        checkpoint: The checkpoint under the rule.

    Returns:
        The table `trap_sensitivity`.
    """
    rules, options = _grid(checkpoint), checkpoint.options
    kl, lengths = checkpoint.sample_kl, checkpoint.sample_lengths
    thresholds = checkpoint.sample_thresholds(rules)
    breaks = checkpoint.sample_breaks
    observed = find_cuts(kl, lengths, rules, thresholds, breaks)
    draws = min(options.draws, MOST_DRAWS)
    shuffled = shuffled_cuts(
        kl,
        lengths,
        rules,
        thresholds,
        block=options.block,
        draws=draws,
        seed=options.seed,
        breaks=breaks,
    )
    signal = "gain_forward_kl" if "gain_forward_kl" in checkpoint.quantities else "grad_logits"
    values = checkpoint.quantities[signal].sample
    terms = _terms(checkpoint, rules, thresholds, observed, shuffled, values)
    prompts = Prompts(checkpoint.prompt[checkpoint.sample], seed=options.seed)
    sums = {name: tuple(prompts.sums(side) for side in pair) for name, pair in terms.items()}
    quotient = prompts.quotient(*sums["longest_run"], *sums["shuffled"])
    total = prompts.ratio(*(side[:, :1] for side in sums["signal"]))
    kept = prompts.quotient(*sums["signal_kept"], *sums["signal"])
    if not total.low[0] > 0:  # relative to nothing
        kept = kept._replace(**{end: np.full(len(rules), np.nan) for end in kept._fields[:3]})
    prevalence = prompts.ratio(*sums["prevalence"])
    return result_table(
        "trap_sensitivity",
        {
            "window": [rule.window for rule in rules],
            "eta": [None if isinstance(options.threshold, float) else r.eta for r in rules],
            "consecutive": [rule.consecutive for rule in rules],
            "grace": [rule.grace for rule in rules],
            "is_setting": [rule == options.rule for rule in rules],
            "n": (terms["prevalence"][1] > 0).sum(axis=0),
            "n_prompts": prevalence.clusters,
            **interval_columns("prevalence", prevalence),
            **interval_columns("tokens_kept", prompts.ratio(*sums["tokens_kept"])),
            **interval_columns("longest_run", prompts.ratio(*sums["longest_run"])),
            **interval_columns("shuffled", prompts.ratio(*sums["shuffled"])),
            **interval_columns("ratio", quotient),
            **interval_columns("signal_kept", kept),
            "reason": quotient.reason,
        },
        checkpoint=checkpoint.name,
        signal=signal,
    )


def _grid(checkpoint: Checkpoint) -> list[Rule]:
    rule, fixed = checkpoint.options.rule, isinstance(checkpoint.options.threshold, float)
    windows = sorted({*WINDOWS, rule.window})
    etas = [rule.eta] if fixed else sorted({*ETAS, rule.eta})
    consecutive = sorted({*CONSECUTIVE, rule.consecutive})
    rules = {
        Rule(window, eta, grace, run)
        for window, eta, run in product(windows, etas, consecutive)
        for grace in {max(g * window, window) for g in GRACES} | {max(rule.grace, window)}
    }
    return sorted(rules)


def _terms(
    checkpoint: Checkpoint,
    rules: list[Rule],
    thresholds: Mapping[tuple[int, float], Floats],
    observed: Mapping[Rule, Cuts],
    shuffled: Mapping[Rule, Cuts],
    signal: Numbers,
) -> dict[str, tuple[Floats, Floats]]:
    """Write numerators and denominators; every array has shape (rollouts, rules).

    A rollout too short for a rule's window, or without a threshold as too few others have one, has
    no part in it.
    """
    lengths = checkpoint.sample_lengths
    longest = longest_spans(lengths, checkpoint.sample_breaks)
    able = np.stack(
        [
            (longest >= rule.window) & np.isfinite(thresholds[rule.window, rule.eta])
            for rule in rules
        ],
        axis=1,
    ).astype(float)
    running = RunningSums(signal, lengths)
    start = np.zeros_like(lengths)

    def stack(field: str) -> Floats:
        return np.asarray(
            able * np.stack([getattr(observed[rule], field) for rule in rules], axis=1)
        )

    def mean(field: str) -> Floats:
        cuts = [getattr(shuffled[rule], field).mean(axis=0) for rule in rules]
        return np.asarray(able * np.stack(cuts, axis=1))

    kept = [running.between(start, observed[rule].kept) for rule in rules]
    whole = running.between(start, lengths)
    return {
        "prevalence": (stack("triggered"), able),
        "tokens_kept": (stack("kept"), able * lengths[:, None]),
        "longest_run": (stack("longest_run"), able),
        "shuffled": (mean("longest_run"), able),
        "signal_kept": tuple(able * np.stack(side, axis=1) for side in zip(*kept, strict=True)),
        "signal": tuple(able * side[:, None] for side in whole),
    }
