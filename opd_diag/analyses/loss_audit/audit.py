"""Every estimator beside the exact reverse KL: of all tokens, by size of the KL, and by group."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses import reasons
from opd_diag.analyses.groups import parts_of
from opd_diag.analyses.loss_audit.estimators import Estimator
from opd_diag.analyses.loss_audit.sums import (
    CUT,
    EXACT,
    FLIPPED,
    FLIPS,
    GRADIENT,
    NONE,
    SIGNED,
    SQUARE,
    STARTS,
    TOKENS,
    VALUE,
    Sums,
)
from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.tables import interval_columns, ratio, result_table
from opd_diag.stats.bootstrap import Interval, percentile
from opd_diag.stats.intervals import effective_clusters
from opd_diag.stats.p_values import sign_flip_p
from opd_diag.tables.columns.loss_audit import LOSS_GROUPS, MARGIN
from opd_diag.tables.schema import empty_table

Floats = npt.NDArray[np.float64]

OFF_POLICY = "the tokens were sampled by another model, so that no estimate from them is unbiased"
NO_EXACT = "no exact KL to compare with: spread and mean are those of the estimator"
UNKNOWN_SAMPLER = "who sampled the tokens is not known"


def audit_table(
    checkpoint: str,
    estimators: Sequence[Estimator],
    sums: Sequence[Sums],
    own: Estimator,
    sampled_here: bool | None,
    prompts: Prompts,
    *,
    seed: int,
) -> pl.DataFrame:
    """Build `loss_audit`: compare estimators with the exact KL of the same tokens.

    Args:
        checkpoint: Name of the checkpoint.
        estimators: The estimators.
        sums: Their sums, in the same order.
        own: The loss that the finding asks about.
        sampled_here: Whether the checkpoint sampled the tokens; None: not known.
        prompts: Prompts of the rollouts.
        seed: Seed of the test.
    """
    by = np.stack([one.prompt for one in sums])  # estimators, prompts, sums

    def of(which: int) -> Floats:
        return np.asarray(by[:, :, which].T)

    n, difference = of(TOKENS), of(VALUE) - of(EXACT)
    bias = prompts.ratio(difference, n)
    centre = np.nan_to_num(bias.estimate)
    spread = of(SQUARE) - 2 * centre * difference + centre**2 * n
    columns = {
        "mean": prompts.ratio(of(VALUE), n),
        "exact": prompts.ratio(of(EXACT), n),
        "bias": bias,
        "relative": prompts.ratio(of(VALUE), of(EXACT)),
        "variance": prompts.ratio(spread, n),
        "flips": prompts.rate(of(FLIPS), of(SIGNED)),
        "flipped_gradient": prompts.ratio(of(FLIPPED), of(GRADIENT)),
        "no_gradient": prompts.rate(of(NONE), of(SIGNED)),
        "at_clamp": _where(prompts.rate(of(CUT), n), [one.clamp is not None for one in estimators]),
        "correlation": _correlation([one.rollout for one in sums], prompts),
    }
    exact_known = of(EXACT).sum() > 0
    if not exact_known:
        for name in ("exact", "bias", "relative"):
            columns[name] = _where(columns[name], [False] * len(estimators))
    shares = ("flips", "flipped_gradient", "no_gradient", "at_clamp")
    values: dict[str, object] = {
        "estimator": [one.name for one in estimators],
        "trainer_loss": [one == own for one in estimators],
        "n": n.sum(axis=0),
        "n_prompts": (n > 0).sum(axis=0),
        "p": _p_off(of(VALUE), of(EXACT), seed),  # none where nothing is exact
        "sampled_here": pl.Series([sampled_here] * len(estimators), dtype=pl.Boolean),
        "reason": _reasons(estimators, reasons.first(bias), sampled_here, exact_known),
    }
    for name, interval in columns.items():
        values |= interval_columns(name, interval, share=name in shares)
    return result_table("loss_audit", values, checkpoint=checkpoint)


def _p_off(value: Floats, exact: Floats, seed: int) -> Floats:
    """Test whether the mean lies within 10 % of the exact one, by the end that is nearer to it.

    Signs of what whole prompts lie beyond that end are flipped; p is two-sided.
    """
    total = exact.sum(axis=0)
    above = value.sum(axis=0) > total
    beyond = value - exact * np.where(above, 1 + MARGIN, 1 - MARGIN)
    outside = beyond.sum(axis=0) * np.where(above, 1, -1) > 0
    p = np.where(outside, sign_flip_p(beyond, seed=seed), 1.0)
    return np.asarray(np.where(total > 0, p, np.nan))


def _where(interval: Interval, wanted: Sequence[bool]) -> Interval:
    """Blank what is not wanted."""
    kept = np.asarray(wanted)
    estimate, low, high = (
        np.where(kept, x, np.nan) for x in (interval.estimate, interval.low, interval.high)
    )
    return interval._replace(estimate=estimate, low=low, high=high)


def _reasons(
    estimators: Sequence[Estimator],
    first: npt.NDArray[np.str_],
    sampled_here: bool | None,
    exact_known: bool,
) -> list[str]:
    said = {True: "", False: OFF_POLICY, None: UNKNOWN_SAMPLER}[sampled_here]
    texts = []
    for estimator, reason in zip(estimators, first.tolist(), strict=True):
        parts = (reason, said if estimator.is_sampled else "", "" if exact_known else NO_EXACT)
        texts.append("; ".join(part for part in parts if part))
    return texts


def _correlation(rollouts: Sequence[Floats], prompts: Prompts) -> Interval:
    """Correlate means of rollouts, each counting once, with percentile intervals over prompts."""
    moments, behind = [], []
    for sums in rollouts:
        n, e, x = sums.T
        there = n > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            y = np.where(there, e / n, 0)
            z = np.where(there, x / n, 0)
        # About their own means, so that nothing is lost to cancellation.
        y, z = (np.where(there, v - v[there].mean() if there.any() else 0, 0) for v in (y, z))
        moments.append(prompts.sums(np.column_stack([there, y, z, y * y, z * z, y * z])))
        behind.append(moments[-1][:, 0])
    whole = np.array([_pearson(sums.sum(axis=0)) for sums in moments])
    weights = prompts.draws.astype(np.float64)
    drawn = np.column_stack([_pearson(weights @ sums) for sums in moments])
    counts = np.column_stack(behind)
    return percentile(drawn, whole, (counts > 0).sum(axis=0), effective=effective_clusters(counts))


def _pearson(moments: Floats) -> Floats:
    """Return the correlation from sums of 1, y, z, y², z², y z along the last axis."""
    n, y, z, yy, zz, yz = np.moveaxis(moments, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = (yy - y * y / n) * (zz - z * z / n)
        together = yz - y * z / n
        return np.asarray(np.where(spread > 0, together / np.sqrt(np.maximum(spread, 0)), np.nan))


def bins_table(
    checkpoint: str, estimators: Sequence[Estimator], sums: Sequence[Sums], prompts: Prompts
) -> pl.DataFrame:
    """Build `loss_bins`: every estimator in bins of the exact KL; empty bins are left out."""
    parts = []
    for estimator, one in zip(estimators, sums, strict=True):
        n, e, x = np.moveaxis(one.bins, -1, 0)
        mean = prompts.ratio(e, n)
        values = {
            "estimator": estimator.name,
            "bin": np.arange(STARTS.size),
            "start": STARTS,
            "end": np.append(STARTS[1:], np.nan),
            "n": n.sum(axis=0),
            "n_prompts": (n > 0).sum(axis=0),
            "exact": ratio(x.sum(axis=0), n.sum(axis=0)),
            "reason": mean.reason,
        } | interval_columns("mean", mean)
        parts.append(result_table("loss_bins", values, checkpoint=checkpoint))
    return pl.concat(parts).filter(pl.col("n") > 0)


def groups_table(
    checkpoint: str,
    estimators: Sequence[Estimator],
    sums: Sequence[Sums],
    rollouts: pl.DataFrame,
    prompts: Prompts,
) -> pl.DataFrame:
    """Build `loss_groups`: compare estimators with the exact KL inside each group of rollouts."""
    tables = []
    for parts in parts_of(rollouts):
        members = parts.members()
        for estimator, one in zip(estimators, sums, strict=True):
            n, value, exact = (prompts.sums(members * x[:, None]) for x in one.rollout.T)
            bias = prompts.ratio(value - exact, n)
            values = {
                "estimator": estimator.name,
                "split": parts.split,
                "group": parts.names,
                "n_rollouts": ((one.rollout[:, :1] > 0) & members).sum(axis=0),
                "n": n.sum(axis=0),
                "n_prompts": (n > 0).sum(axis=0),
                "reason": reasons.first(bias),
            }
            for name, interval in (
                ("mean", prompts.ratio(value, n)),
                ("exact", prompts.ratio(exact, n)),
                ("bias", bias),
                ("relative", prompts.ratio(value, exact)),
            ):
                values |= interval_columns(name, interval)
            tables.append(result_table("loss_groups", values, checkpoint=checkpoint))
    if not tables:
        return empty_table(LOSS_GROUPS)
    return pl.concat(tables).filter(pl.col("n") > 0)
