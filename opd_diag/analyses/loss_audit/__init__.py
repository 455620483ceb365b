"""Ask whether a trainer's loss is what it says: what usual estimators make of the same tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from opd_diag.analyses.loss_audit.audit import audit_table, bins_table, groups_table
from opd_diag.analyses.loss_audit.options import Options
from opd_diag.analyses.loss_audit.report import summary_lines
from opd_diag.analyses.loss_audit.sums import add_up
from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.tokens import read_tokens
from opd_diag.tables.arguments import public_analysis
from opd_diag.tables.run import Run
from opd_diag.tables.source import (
    Tokens,
    as_source,
    choose_checkpoints,
    choose_rollouts,
    sampled_by,
)

__all__ = ["LossAudit", "loss_audit", "summary_lines"]


class LossAudit(NamedTuple):
    """The tables of `loss_audit`.

    Attributes:
        loss_audit: Every estimator beside the exact reverse KL: bias, variance, flipped gradients.
        loss_bins: What every estimator makes of tokens of small and of large KL.
        loss_groups: Every estimator beside the exact KL inside each group of rollouts; empty where
            the dump names none.
    """

    loss_audit: pl.DataFrame
    loss_bins: pl.DataFrame
    loss_groups: pl.DataFrame


@public_analysis
def loss_audit(
    run: Run | str | Path | Tokens,
    rollouts: pl.DataFrame | None = None,
    *,
    checkpoint: str | Sequence[str] | None = None,
    policy: str | None = None,
    step: int | None = None,
    group: str | None = None,
    loss: str = "k1",
    clamp: Sequence[float] = (1.0, 10.0),
    top_k: Sequence[int] | None = None,
    k_grid: Sequence[int] | None = None,
    seed: int = 0,
) -> LossAudit:
    """Set estimators of the reverse KL beside the exact one, on the tokens in the loss.

    Compared are k1, k2 and k3 of the token that stands there, cut and not, and what is made of the
    K likeliest tokens of the student or of the teacher. The first are estimates only under the
    model that sampled the tokens.

    Args:
        run: A run, its folder, or a token table.
        rollouts: The rollouts, with a token table only.
        checkpoint: Checkpoints wanted; None: all.
        policy: Only rollouts of this policy.
        step: Only rollouts of this training step.
        group: Only rollouts of this group, such as a domain or an environment.
        loss: The loss that the trainer used, as the column `estimator` names it, such as `k1`,
            `k3_clamp_10` or `student_top_16_bucket`: the finding asks about it.
        clamp: Where k1, k2 and k3 are cut, nat.
        top_k: K of the sets of likeliest tokens; None: all that the run has, 4, 16 and 64 where
            they are in its K grid.
        k_grid: The K of the array columns of a token table; a run knows its own.
        seed: Seed of the bootstrap and of the test.

    Returns:
        Three tables, one row for each checkpoint and estimator, for each bin of the exact KL, and
        for each group.

    Raises:
        OptionError: If a loss, a clamp or a K is unknown.
        TableError: If a checkpoint, policy, step or group is unknown, or the tables do not fit.
    """
    source = as_source(run, rollouts, k_grid=k_grid)
    options = Options.of(source.k_grid, loss=loss, clamp=clamp, top_k=top_k, seed=seed)
    chosen = choose_rollouts(source.rollouts, policy, step, group)
    prompts = Prompts(chosen["prompt_id"], seed=seed)
    tables = []
    for name in choose_checkpoints(source, checkpoint):
        tokens = read_tokens(source, chosen, name, columns=("in_loss",))
        columns = options.columns(source.tokens(name).collect_schema().names())
        sums = add_up(options.estimators, tokens.where(tokens.column("in_loss")), columns, prompts)
        audit = audit_table(
            name, options.estimators, sums, options.own, sampled_by(source, name, chosen),
            prompts,
            seed=seed,
        )  # fmt: skip
        bins = bins_table(name, options.estimators, sums, prompts)
        groups = groups_table(name, options.estimators, sums, chosen, prompts)
        tables.append(LossAudit(audit, bins, groups))
    return LossAudit(*(pl.concat(parts) for parts in zip(*tables, strict=True)))
