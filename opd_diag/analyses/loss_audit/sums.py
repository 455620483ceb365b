"""Add up every estimator over the tokens of a prompt, of a rollout and of a bin of the exact KL."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.loss_audit.estimators import Estimator, Rows, evaluate
from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.tokens import TokenTable

Floats = npt.NDArray[np.float64]

# Two bins to a factor of ten, from 1e-4 to 10 nat, one below and one above.
STARTS = np.concatenate([[0.0], 10.0 ** np.arange(-4, 1.5, 0.5)])
BATCH_TOKENS = 500_000

# What is summed over the tokens of a prompt.
TOKENS, VALUE, EXACT, SQUARE, FLIPS, SIGNED, FLIPPED, GRADIENT, NONE, CUT = range(10)
_SUMS = 10


class Sums(NamedTuple):
    """One estimator, summed.

    Attributes:
        prompt: What `TOKENS` to `CUT` name, by prompt. Shape (prompts, 10).
        rollout: Tokens, estimator and exact KL by rollout. Shape (rollouts, 3).
        bins: The same by prompt and bin of the exact KL. Shape (prompts, bins, 3).
    """

    prompt: Floats
    rollout: Floats
    bins: Floats


def add_up(
    estimators: Sequence[Estimator],
    tokens: TokenTable,
    columns: Sequence[pl.Expr],
    prompts: Prompts,
) -> list[Sums]:
    """Sum every estimator; tokens without a value of it, or without an exact KL, are left out.

    Where no token has an exact KL, means and spreads are those of the estimators alone.

    Args:
        estimators: What is summed.
        tokens: The tokens that count.
        columns: What the estimators read.
        prompts: Prompts of the rollouts.
    """
    rollouts = tokens.rollouts.height
    sums = [
        Sums(
            np.zeros((prompts.count, _SUMS)),
            np.zeros((rollouts, 3)),
            np.zeros((prompts.count, STARTS.size, 3)),
        )
        for _ in estimators
    ]
    for batch in tokens.batches(list(columns), most=BATCH_TOKENS):
        rows, row = Rows(batch), batch["row"].to_numpy()
        exact = np.maximum(rows.exact, 0)  # rounding can leave it a little below 0
        without = not np.isfinite(exact).any()  # the teacher is known by log-probs alone
        if without:
            exact = np.zeros(exact.shape)
        exact_sign, size = rows.exact_sign, np.abs(rows.exact_gradient)
        place = np.searchsorted(STARTS, exact, side="right") - 1
        for estimator, into in zip(estimators, sums, strict=True):
            value, sign, cut = evaluate(estimator, rows)
            there = np.isfinite(value) & np.isfinite(exact)
            at, e, x = row[there], value[there], exact[there]
            signed = (exact_sign[there] != 0) & (not without)
            flips = (sign * exact_sign)[there] < 0
            weight = np.where(signed, size[there], 0)
            each = np.ones(e.size)
            summed = (
                *(each, e, x, (e - x) ** 2, flips, signed, flips * weight, weight),
                *(signed & (sign[there] == 0), cut[there]),
            )
            code = prompts.code[at]
            _add(into.prompt, code, summed)
            if without:
                continue
            _add(into.rollout, at, (each, e, x))
            bins = into.bins.reshape(-1, 3)
            _add(bins, code * STARTS.size + place[there], (each, e, x))
    return sums


def _add(into: Floats, place: npt.NDArray[np.integer], columns: Sequence[npt.ArrayLike]) -> None:
    for number, values in enumerate(columns):
        into[:, number] += np.bincount(place, np.asarray(values, np.float64), len(into))
