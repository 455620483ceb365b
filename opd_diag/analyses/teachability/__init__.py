"""Find which disagreement was learned at fixed contexts, and which selector would have found it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from opd_diag.analyses.teachability.contexts import read_contexts, units_of
from opd_diag.analyses.teachability.contrast import contrast_table
from opd_diag.analyses.teachability.features import teachability_features
from opd_diag.analyses.teachability.findings import findings
from opd_diag.analyses.teachability.gains import gains_table
from opd_diag.analyses.teachability.kl import kl_table
from opd_diag.analyses.teachability.models import models_table
from opd_diag.analyses.teachability.options import BUDGETS, Options, choose_pair
from opd_diag.analyses.teachability.overlap import overlap_table
from opd_diag.analyses.teachability.report import summary_lines
from opd_diag.analyses.teachability.sample import sample_tokens
from opd_diag.analyses.teachability.selectors import choose_tokens, selectors_table
from opd_diag.analyses.teachability.support import support_table
from opd_diag.tables.arguments import public_analysis
from opd_diag.tables.columns.tokens import K_GRID
from opd_diag.tables.run import Run
from opd_diag.tables.source import Tokens, as_source, choose_rollouts

__all__ = ["Teachability", "findings", "summary_lines", "teachability", "teachability_features"]


class Teachability(NamedTuple):
    """The tables of `teachability`.

    Attributes:
        teachability: Gain by groups of tokens and tenths of every feature.
        teachability_kl: KL of the same tokens under every checkpoint.
        teachability_models: Nested least squares of the gain.
        teachability_contrast: Gain of compatible against incompatible tokens.
        teachability_selectors: What every selector finds at every budget.
        teachability_overlap: What every two selectors share.
        teachability_support: Definitions of compatibility compared.
    """

    teachability: pl.DataFrame
    teachability_kl: pl.DataFrame
    teachability_models: pl.DataFrame
    teachability_contrast: pl.DataFrame
    teachability_selectors: pl.DataFrame
    teachability_overlap: pl.DataFrame
    teachability_support: pl.DataFrame


@public_analysis
def teachability(
    run: Run | str | Path | Tokens,
    rollouts: pl.DataFrame | None = None,
    *,
    checkpoint: str | Sequence[str] | None = None,
    policy: str | None = None,
    step: int | None = None,
    group: str | None = None,
    features_from: str | None = None,
    gain_from: str | None = None,
    kl: str = "auto",
    divergence: str = "full",
    scale: str = "paper",
    k: int = 16,
    within: str = "run",
    budgets: Sequence[float] = BUDGETS,
    budget_per: str = "run",
    trained_steps: Sequence[int] | None = None,
    noise_floor: float | None = None,
    k_grid: Sequence[int] = K_GRID,
    seed: int = 0,
) -> Teachability:
    """Measure which disagreement was learned at fixed contexts, and what would have told so.

    The gain of a token is its KL under `gain_from` minus its KL under the last checkpoint, at the
    same context. Its features come from `features_from` alone: see `teachability_features`. With
    three checkpoints that is an earlier student. With two it is the one that the gain starts from,
    whose noise is then taken for gain: regression to the mean is not excluded, and nothing is
    tested. Whether compatibility matters, given entropy and divergence, is answered by the contrast
    `matched`. The thirds of Q3 and the model `full` are shown as published; both find compatibility
    where the gain depends on divergence alone.

    Args:
        run: A run, its folder, or a token table.
        rollouts: The rollouts, with a token table only.
        checkpoint: Student after training, or the ones before and after it; None: the last of the
            run. With one checkpoint there is no gain, and `reason` says so.
        policy: Only rollouts of this policy.
        step: Only rollouts of this training step.
        group: Only rollouts of this group, such as a domain or an environment.
        features_from: Student that the features come from; None: the one before `gain_from`, or
            `gain_from` itself where it is the first.
        gain_from: Student whose KL the gain starts from; None: of two in `checkpoint` the first,
            else the one after `features_from`, or the first where it is the last but one.
        kl: Direction of KL that leads text and figures: `forward_kl`, `reverse_kl`, or `auto` for
            the one that fell by the larger share; say the one that was trained.
        divergence: `full` for forward_kl, `union` for union_kl.
        scale: `paper` for the clipped scale, `rank` for percentile ranks.
        k: K of the teacher's mass, one of the grid.
        within: Whether matched pairs are sought in the whole `run` or inside a `prompt`.
        budgets: Shares of the tokens that selectors may choose, rising.
        budget_per: Whether a budget is a share of the `run` or of each `rollout`.
        trained_steps: Training steps of the two checkpoints: rollouts from the first to before
            the second were trained on. None: read from rollouts whose policy bears a
            checkpoint's name; where that fails, contexts are not kept apart.
        noise_floor: Difference of KL in nat that scoring cannot tell from 0; None: the run's.
        k_grid: The K of the array columns of a token table; a run knows its own.
        seed: Seed of every draw and of every tie.

    Returns:
        Seven tables.

    Raises:
        OptionError: If a choice or a number is out of range, or features are asked of a later
            student than the gain starts from.
        TableError: If a checkpoint, policy, step or group is unknown, or the checkpoints hold other
            tokens.

    Source: arXiv 2605.26844, equation 1 and sections on teachability; 2604.14084 (quadrants);
        `matched`, `local`, every null and features out of time are opd-diag's.
    """
    options = Options(
        divergence=divergence,
        scale=scale,
        k=k,
        within=within,
        budgets=budgets,
        budget_per=budget_per,
        trained_steps=trained_steps,
        noise_floor=noise_floor,
        kl=kl,
        seed=seed,
    )
    source = as_source(run, rollouts, k_grid=k_grid)
    checkpoints = choose_pair(source, checkpoint, features_from, gain_from)
    chosen_rollouts = choose_rollouts(source.rollouts, policy, step, group)
    contexts = read_contexts(source, checkpoints, chosen_rollouts, options)
    sample = sample_tokens(contexts)
    chosen = choose_tokens(contexts, source, options)
    return Teachability(
        gains_table(contexts, units_of(contexts, trained_steps)),
        kl_table(contexts),
        models_table(contexts, sample),
        contrast_table(contexts, sample, within=within),
        selectors_table(contexts, chosen, options),
        overlap_table(contexts, chosen, budgets),
        support_table(contexts, sample),
    )
