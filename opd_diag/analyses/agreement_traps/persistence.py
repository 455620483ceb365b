"""Longest low-KL run of the rollouts, against the same rollouts with blocks of tokens shuffled."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import polars as pl

from opd_diag.analyses.agreement_traps.checkpoint import Checkpoint
from opd_diag.analyses.agreement_traps.rule import Cuts, Floats
from opd_diag.analyses.agreement_traps.shuffles import shuffled_cuts, steady_course
from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.stats.p_values import exchange_p, sign_flip_p
from opd_diag.tables.columns.agreement_traps import LONGER

BLOCKS = (1, 32)  # beside the block asked for


Nulls: TypeAlias = Mapping[tuple[int, bool], Cuts]


def shuffled_blocks(checkpoint: Checkpoint, main: Cuts) -> Nulls:
    """Apply the rule to several kinds of shuffles of the control's rollouts.

    Args:
        checkpoint: The checkpoint under the rule.
        main: Its cuts where blocks of `options.block` tokens are shuffled.

    Returns:
        Cuts by the tokens of a block, and by whether the steady course of KL stays where it is;
        every field has shape (draws, rollouts).
    """
    options, kl, lengths = checkpoint.options, checkpoint.sample_kl, checkpoint.sample_lengths
    rule = options.rule
    thresholds = checkpoint.sample_thresholds([rule])

    def cuts(block: int, course: Floats | None = None) -> Cuts:
        return shuffled_cuts(
            kl,
            lengths,
            [rule],
            thresholds,
            block=block,
            draws=options.draws,
            seed=options.seed,
            course=course,
            breaks=checkpoint.sample_breaks,
        )[rule]

    nulls = {(block, False): cuts(block) for block in BLOCKS if block != options.block}
    nulls[options.block, False] = main
    nulls[options.window, True] = cuts(options.window, steady_course(kl, lengths))
    return dict(sorted(nulls.items()))


def trap_persistence(checkpoint: Checkpoint, nulls: Nulls) -> pl.DataFrame:
    """Compare the longest run below the threshold with that of several kinds of shuffles.

    A run is longer than one of shuffled blocks where KL remembers more than a block, which any
    autocorrelation does a little; so the test is of a run longer by more than a quarter. The
    widest blocks are as long as a window, and leave a steady rise or fall along the response
    where it is: a fall is another finding than a stretch.

    Args:
        checkpoint: The checkpoint under the rule.
        nulls: The rule on shuffled blocks, from `shuffled_blocks`.

    Returns:
        The table `trap_persistence`.
    """
    options, keys = checkpoint.options, list(nulls)
    prompts = Prompts(checkpoint.prompt[checkpoint.sample], seed=options.seed)
    observed = prompts.sums(checkpoint.cuts.longest_run[checkpoint.sample])
    drawn = {key: prompts.sums(nulls[key].longest_run.T) for key in keys}
    x0 = np.column_stack([drawn[key].mean(axis=1) for key in keys])
    x = np.broadcast_to(observed[:, None], x0.shape)
    m = np.broadcast_to(prompts.sums(np.ones(checkpoint.sample.size))[:, None], x0.shape)
    difference = prompts.difference(x, m, x0, m)
    return result_table(
        "trap_persistence",
        {
            "block": [block for block, _ in keys],
            "keeps_course": [kept for _, kept in keys],
            "n_prompts": difference.clusters,
            **interval_columns("longest_run", prompts.ratio(x, m)),
            **interval_columns("shuffled", prompts.ratio(x0, m)),
            **interval_columns("difference", difference),
            **interval_columns("ratio", prompts.quotient(x, m, x0, m)),
            "p": [_p_longer(observed, drawn[key], options.seed) for key in keys],
            "reason": difference.reason,
        },
        checkpoint=checkpoint.name,
        n=checkpoint.sample.size,
        draws=options.draws,
    )


def _p_longer(observed: Floats, drawn: Floats, seed: int) -> float:
    """Test whether runs are longer than shuffled ones by more than a quarter.

    The larger p of two tests. The first asks whether the observed could be one more shuffle of
    its prompt; it takes rollouts of a prompt as independent, as shuffles are. The second flips
    the sign of what each prompt adds.

    Args:
        observed: Sum of the longest runs of each prompt. Shape (prompts,).
        drawn: The same in every draw. Shape (prompts, draws).
        seed: Seed of both tests.
    """
    if not observed.size:
        return np.nan
    excess = observed - (1 + LONGER) * drawn.mean(axis=1)
    if excess.sum() <= 0:
        return 1.0
    exchanged = exchange_p(observed / (1 + LONGER), drawn, seed=seed)
    return max(exchanged, float(sign_flip_p(excess, seed=seed)))
