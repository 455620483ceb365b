"""Find where KL stays low for long, and ask what a cut there would save and lose."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from opd_diag.analyses.agreement_traps.checkpoint import COLUMNS, COLUMNS_OF_TWO, read_checkpoint
from opd_diag.analyses.agreement_traps.cuts import cut_rules, tokens_before_release, trap_cuts
from opd_diag.analyses.agreement_traps.map import trap_map
from opd_diag.analyses.agreement_traps.options import Options, parse_threshold
from opd_diag.analyses.agreement_traps.outcomes import trap_outcomes
from opd_diag.analyses.agreement_traps.persistence import shuffled_blocks, trap_persistence
from opd_diag.analyses.agreement_traps.phases import trap_phases
from opd_diag.analyses.agreement_traps.report import summary_lines
from opd_diag.analyses.agreement_traps.rollouts import per_rollout
from opd_diag.analyses.agreement_traps.rule import find_cuts
from opd_diag.analyses.agreement_traps.sensitivity import trap_sensitivity
from opd_diag.analyses.agreement_traps.shuffles import shuffled_rules
from opd_diag.analyses.agreement_traps.summary import trap_summary
from opd_diag.analyses.agreement_traps.trace import trap_trace
from opd_diag.analyses.agreement_traps.vocabulary import trap_vocabulary
from opd_diag.analyses.tokens import require_columns
from opd_diag.errors import TableError
from opd_diag.tables.arguments import public_analysis
from opd_diag.tables.columns.tokens import K_GRID
from opd_diag.tables.run import Run
from opd_diag.tables.source import (
    Source,
    Tokens,
    as_source,
    choose_checkpoints,
    choose_rollouts,
    vocabulary,
)

__all__ = ["AgreementTraps", "agreement_traps", "summary_lines"]


class AgreementTraps(NamedTuple):
    """The tables of `agreement_traps`.

    Attributes:
        agreement_traps: One row per rollout: whether the rule fired, where, what it saves.
        trap_phases: Quantities before, inside and after the stretch, by group of rollouts.
        trap_summary: Prevalence, onset, what is saved and lost, against shuffled KL.
        trap_persistence: The longest run below the threshold, against shuffled blocks.
        trap_outcomes: How often rollouts on which the rule fires are wrong, within prompts.
        trap_cuts: What the cut keeps, against other ways to keep as many tokens.
        trap_sensitivity: Prevalence, persistence and kept signal over a grid of settings.
        trap_map: KL of the rollouts in bins, sorted by onset.
        trap_trace: One rollout token by token.
        trap_vocabulary: Which token types stand in low-KL stretches more often than outside.
    """

    agreement_traps: pl.DataFrame
    trap_phases: pl.DataFrame
    trap_summary: pl.DataFrame
    trap_persistence: pl.DataFrame
    trap_outcomes: pl.DataFrame
    trap_cuts: pl.DataFrame
    trap_sensitivity: pl.DataFrame
    trap_map: pl.DataFrame
    trap_trace: pl.DataFrame
    trap_vocabulary: pl.DataFrame


@public_analysis
def agreement_traps(
    run: Run | str | Path | Tokens,
    rollouts: pl.DataFrame | None = None,
    *,
    checkpoint: str | Sequence[str] | None = None,
    policy: str | None = None,
    step: int | None = None,
    group: str | None = None,
    mode: str = "run",
    window: int = 64,
    eta: float = 0.3,
    consecutive: int = 4,
    grace: int | None = None,
    threshold: float | str | None = None,
    buffer: int = 4096,
    warmup_rollouts: int = 512,
    warmup_steps: int = 50,
    update: str = "step",
    repeat_ngram: int = 32,
    control_rollouts: int = 2000,
    draws: int = 20,
    block: int = 16,
    trace: int | None = None,
    k_grid: Sequence[int] = K_GRID,
    seed: int = 0,
) -> AgreementTraps:
    """Find persistent low KL in every rollout, what a cut there saves, and what it would lose.

    The rule fires where the mean reverse_kl of the last `window` tokens is below a threshold at
    `consecutive` tokens in a row; it cuts at the first token of the first of these windows. The
    threshold is a quantile of the least window means of other rollouts, so how often the rule
    fires is a setting. Low KL is no fault: the student may be right there. So every figure stands
    beside the same rule on KL shuffled inside each rollout, and splits by outcome and repetition.

    Args:
        run: A run, its folder, or a token table.
        rollouts: The rollouts, with a token table only.
        checkpoint: Checkpoints wanted; None: all.
        policy: Only rollouts of this policy.
        step: Only rollouts of this training step.
        group: Only rollouts of this group, such as a domain or an environment.
        mode: `run`: the threshold of a rollout comes from all rollouts of other prompts;
            `replay`: from the rollouts before it in step order, as in training.
        window: Tokens in a window.
        eta: Share of the minima above the threshold.
        consecutive: Windows in a row below the threshold that fire the rule.
        grace: Windows that end before so many tokens are passed over; None: none is.
        threshold: A number in nat, or a checkpoint whose thresholds are taken: the way to compare
            checkpoints; None: each checkpoint's own.
        buffer: `replay`: minima that the buffer holds.
        warmup_rollouts: `replay`: minima that come before the rule is active.
        warmup_steps: `replay`: steps after the first one before the rule is active.
        update: `replay`: a rollout sees the minima of earlier steps (`step`) or of all rollouts
            before it (`rollout`), the way for a dump of a single step.
        repeat_ngram: Tokens of an n-gram that count as a repetition; `score` looks up to 32.
        control_rollouts: Most rollouts that are shuffled and compared; whole prompts are drawn.
        draws: Shuffles, and draws of every random cut.
        block: Tokens that a shuffle keeps together.
        trace: Rollout of `trap_trace`; None: the one with the longest stretch.
        k_grid: The K of the array columns of a token table; a run knows its own.
        seed: Seed of the bootstrap, the shuffles and the draws.

    Returns:
        Ten tables. Rollouts on which the rule could not fire stand in the first with a reason,
        and count nowhere else.

    Raises:
        OptionError: If a number is out of range, or `threshold` neither number nor checkpoint.
        TableError: If a checkpoint, policy, step, group or trace is unknown, or the tables do not
            fit.

    Source: arXiv 2606.09471; numbers left open there, and all controls, are ours.
    """
    source = as_source(run, rollouts, k_grid=k_grid)
    two = COLUMNS_OF_TWO if len(source.checkpoints) > 1 else ()
    require_columns(source, [*COLUMNS, *two])
    options = Options(
        mode=mode,
        window=window,
        eta=eta,
        consecutive=consecutive,
        grace=grace,
        threshold=parse_threshold(threshold, source.checkpoints),
        buffer=buffer,
        warmup_rollouts=warmup_rollouts,
        warmup_steps=warmup_steps,
        update=update,
        repeat_ngram=repeat_ngram,
        control_rollouts=control_rollouts,
        draws=draws,
        block=block,
        trace=trace,
        seed=seed,
    )
    chosen = choose_rollouts(source.rollouts, policy, step, group)
    if trace is not None and trace not in chosen["rollout"]:
        raise TableError(f"trace: no rollout {trace}; expected one of the rollouts chosen")
    names = choose_checkpoints(source, checkpoint)
    parts = [_tables_of(source, name, chosen, options) for name in names]
    return AgreementTraps(**{name: pl.concat([part[name] for part in parts]) for name in parts[0]})


def _tables_of(
    source: Source, name: str, rollouts: pl.DataFrame, options: Options
) -> Mapping[str, pl.DataFrame]:
    """Make the tables of one checkpoint."""
    checkpoint = read_checkpoint(source, name, rollouts, options)
    rules = cut_rules(checkpoint)
    kl, lengths = checkpoint.sample_kl, checkpoint.sample_lengths
    thresholds = checkpoint.sample_thresholds(rules)
    breaks = checkpoint.sample_breaks
    observed = find_cuts(kl, lengths, rules, thresholds, breaks)
    shuffled = shuffled_rules(
        {name: quantity.sample for name, quantity in checkpoint.quantities.items()},
        lengths,
        thresholds,
        {rule: int(cuts.kept.sum()) for rule, cuts in observed.items()},
        block=options.block,
        draws=options.draws,
        seed=options.seed,
        breaks=breaks,
    )
    main = shuffled[options.rule]
    nulls = shuffled_blocks(checkpoint, main.cuts)
    released = tokens_before_release(source, checkpoint)
    return {
        "agreement_traps": per_rollout(checkpoint),
        "trap_phases": trap_phases(checkpoint, main),
        "trap_summary": trap_summary(checkpoint, main),
        "trap_persistence": trap_persistence(checkpoint, nulls),
        "trap_outcomes": trap_outcomes(checkpoint),
        "trap_cuts": trap_cuts(checkpoint, observed, shuffled, released),
        "trap_sensitivity": trap_sensitivity(checkpoint),
        "trap_map": trap_map(checkpoint),
        "trap_trace": trap_trace(checkpoint),
        "trap_vocabulary": trap_vocabulary(checkpoint, nulls, vocabulary(source)),
    }
