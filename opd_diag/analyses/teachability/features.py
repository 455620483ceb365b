"""Define the features of a token before training, in one place for tables and notebooks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.teachability.options import (
    DIVERGENCES,
    SCALES,
    features_checkpoint,
    require_one_of,
)
from opd_diag.analyses.tokens import require_columns
from opd_diag.stats.selection import ties_by_value
from opd_diag.tables.columns.tokens import K_GRID
from opd_diag.tables.run import Run
from opd_diag.tables.source import Tokens, as_source, choose_rollouts

RAW = ("entropy", "divergence", "compatibility")
SCORES = ("d_learn", "d_incompat", "tip", "soft_or")
FEATURES = (*RAW, *SCORES)
SCALED = tuple(f"{name}_scaled" for name in RAW)

KEYS = ("checkpoint", "rollout", "position", "token_id")
_NEEDED = ("in_loss", "student_entropy", "teacher_mass")


def teachability_features(
    run: Run | str | Path | Tokens,
    rollouts: pl.DataFrame | None = None,
    *,
    checkpoint: str | None = None,
    policy: str | None = None,
    step: int | None = None,
    group: str | None = None,
    divergence: str = "full",
    scale: str = "paper",
    k: int = 16,
    k_grid: Sequence[int] = K_GRID,
) -> pl.LazyFrame:
    """Describe every token by what student and teacher say there before training, lazily.

    H (`entropy`) is the student's entropy, D (`divergence`) forward_kl or union_kl, C
    (`compatibility`) the teacher's mass on the student's top K. Each is scaled to [0, 1] over the
    tokens that are chosen. With H~, D~ and C~ the scaled ones, `d_learn` = D~ C~, `d_incompat` =
    D~ (1 - C~), `tip` = 1 - (1 - H~) (1 - D~), `soft_or` = 1 - (1 - H~) (1 - d_learn). `quadrant`
    counts 1 (high H, high D), 2 (high H, low D), 3 (low H, high D), 4 (both low), cut at the
    medians. A feature that is constant scales to null, and so does all that is made from it.

    Args:
        run: A run, its folder, or a token table.
        rollouts: The rollouts, with a token table only.
        checkpoint: Student before training; None: the first of the run. The last of several is
            refused: its features leak into every gain.
        policy: Only rollouts of this policy.
        step: Only rollouts of this training step.
        group: Only rollouts of this group, such as a domain or an environment.
        divergence: `full` for forward_kl over the whole vocabulary, `union` for union_kl.
        scale: `paper` for the 5th to 95th percentile, clipped; `rank` for the percentile rank,
            under which a product of ranks prefers tokens with little to learn.
        k: K of the teacher's mass, one of the grid.
        k_grid: The K of the array columns of a token table; a run knows its own.

    Returns:
        checkpoint, rollout, position, token_id, the three features raw and scaled, the four scores
        and the quadrant; tokens in the loss whose three features are known, in the order of the
        token table.

    Raises:
        OptionError: If divergence, scale or K is unknown, or `checkpoint` is the last of several.
        TableError: If checkpoint, policy, step or group is unknown, or a column is missing.

    Source: arXiv 2605.26844 (D_learn, D_incompat, soft-OR), 2604.14084 (TIP, quadrants).
    """
    source = as_source(run, rollouts, k_grid=k_grid)
    name = features_checkpoint(source, checkpoint)
    tokens = source.tokens(name)
    require_one_of("divergence", divergence, tuple(DIVERGENCES))
    require_one_of("scale", scale, SCALES)
    require_columns(source, (*KEYS, *_NEEDED, DIVERGENCES[divergence]))
    if any(choice is not None for choice in (policy, step, group)):
        kept = choose_rollouts(source.rollouts, policy, step, group)["rollout"].to_list()
        tokens = tokens.filter(pl.col("rollout").is_in(kept))
    in_loss = tokens.filter("in_loss").with_columns(divergence=DIVERGENCES[divergence])
    described = with_features(in_loss, source.k_grid, scale=scale, k=k)
    return described.select(*KEYS, *RAW, *SCALED, *SCORES, "quadrant")


def with_features(
    tokens: pl.LazyFrame, k_grid: Sequence[int], *, scale: str, k: int
) -> pl.LazyFrame:
    """Add the features to tokens of one checkpoint, and leave out those that lack one.

    Args:
        tokens: Columns student_entropy, teacher_mass and divergence.
        k_grid: The K of teacher_mass.
        scale: See `teachability_features`.
        k: See there.

    Raises:
        OptionError: If K is not in the grid.
    """
    require_one_of("k", k, tuple(k_grid))
    raw = tokens.with_columns(
        pl.col("student_entropy").alias("entropy"),
        pl.col("teacher_mass").arr.get(list(k_grid).index(k)).alias("compatibility"),
    )
    scaled = raw.drop_nulls(RAW).with_columns(
        *(scaling(pl.col(name), scale).alias(f"{name}_scaled") for name in RAW), quadrant()
    )
    return scaled.with_columns(scores(*map(pl.col, SCALED)))


def scaling(z: pl.Expr, scale: str) -> pl.Expr:
    """Scale a feature to [0, 1] over all rows; null where it does not vary."""
    if scale == "rank":
        place = (z.rank("average") - 0.5) / z.count()
        return pl.when(z.max() > z.min()).then(place)
    low, high = (z.cast(pl.Float64).quantile(q, "linear") for q in (0.05, 0.95))
    # Polars divides by one number so, too; the exported rule has to find the same bits.
    return pl.when(high > low).then(((z - low) * (1 / (high - low))).clip(0, 1))


def scores(h: pl.Expr, d: pl.Expr, c: pl.Expr) -> list[pl.Expr]:
    """Combine scaled entropy, divergence and compatibility to the four scores.

    TIP and soft-OR are written as products of what is left: h + d - h d is 1 where h or d is, but
    rounding makes 1 - 2^-53 of it, and then parts tokens that the scale ties.
    """
    learn = d * c
    return [
        learn.alias("d_learn"),
        (d * (1 - c)).alias("d_incompat"),
        (1 - (1 - h) * (1 - d)).alias("tip"),
        (1 - (1 - h) * (1 - learn)).alias("soft_or"),
    ]


def tie_order(
    feature: str, divergence: npt.NDArray[np.floating], order: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Give the order in which tokens of equal values of a feature are chosen, smallest first.

    The clip ties tokens that differ: under the four scores the larger raw divergence comes first.
    Entropy, divergence and compatibility are raw themselves, and chance alone orders their ties.

    Args:
        feature: One of `FEATURES`, or another quantity, whose ties chance orders too.
        divergence: Raw divergence. Shape (n,).
        order: Seeded hash of (rollout, position). Shape (n,).
    """
    return ties_by_value(divergence, order) if feature in SCORES else order


def paper_scores(tokens: pl.DataFrame) -> pl.DataFrame:
    """Give d_learn and d_incompat on the published scale, whatever scale the features have.

    Args:
        tokens: Columns `divergence` and `compatibility`.
    """
    scaled = tokens.lazy().select(scaling(pl.col(name), "paper") for name in RAW[1:])
    return scaled.select(scores(pl.lit(0.0), *map(pl.col, RAW[1:]))[:2]).collect()


def quadrant() -> pl.Expr:
    """Number the quadrants of entropy and divergence, cut at the medians."""
    high_h, high_d = (pl.col(name) > pl.col(name).median() for name in RAW[:2])
    return (
        pl.when(high_h & high_d)
        .then(1)
        .when(high_h)
        .then(2)
        .when(high_d)
        .then(3)
        .otherwise(4)
        .cast(pl.UInt8)
        .alias("quadrant")
    )
