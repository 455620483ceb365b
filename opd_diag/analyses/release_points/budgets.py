"""Compare what the tokens before the release point carry with other windows of the same budget."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.release_points.groups import (
    as_table,
    cluster_codes,
    cluster_sums,
    interval_columns,
)
from opd_diag.analyses.release_points.quantities import Quantity
from opd_diag.stats.bootstrap import ratio, ratio_difference, ratio_of_ratios
from opd_diag.tables.columns.release_points import RELEASE_BUDGETS, RELEASE_SUMMARY

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

PREFIXES = (256, 512, 1024, 2048, 4096, 8192)
PERCENTS = (10, 25, 50)


class Window(NamedTuple):
    """Which tokens of each rollout are kept, by index among those in the loss.

    Attributes:
        name: Its name in the table.
        start: First token kept. Shape (rollouts,).
        stop: The one after the last.
    """

    name: str
    start: Integers
    stop: Integers


def windows(n_tokens: Integers, kept: Integers, rng: np.random.Generator) -> list[Window]:
    """List the release windows and their controls.

    `shuffled release` gives the released fractions to other released rollouts. `first`, `last`
    and `random` keep one share of every rollout, that which `release` keeps of the run: equal
    budgets, but no eye for the rollout.

    Args:
        n_tokens: Tokens in the loss of each rollout.
        kept: Tokens before its release point, all where there is none.
        rng: Where the shuffle and the random places come from.
    """
    nothing = np.zeros_like(n_tokens)
    released = np.flatnonzero(kept < n_tokens)
    shuffled = kept.copy()
    fraction = (kept[released] / n_tokens[released])[rng.permutation(len(released))]
    shuffled[released] = _part(n_tokens[released], fraction)
    budget = _part(n_tokens, kept.sum() / max(n_tokens.sum(), 1))
    place = np.floor(rng.random(len(n_tokens)) * (n_tokens - budget + 1)).astype(np.int64)
    return [
        Window("release", nothing, kept),
        Window("shuffled release", nothing, shuffled),
        Window("first", nothing, budget),
        Window("last", n_tokens - budget, n_tokens),
        Window("random", place, place + budget),
        *(Window(f"first {p} tokens", nothing, np.minimum(p, n_tokens)) for p in PREFIXES),
        *(Window(f"first {p} %", nothing, _part(n_tokens, p / 100)) for p in PERCENTS),
    ]


def window_sums(
    batches: Iterable[pl.DataFrame], columns: Sequence[str], listed: Sequence[Window]
) -> Floats:
    """Sum columns over the windows of each rollout; a value that is missing adds nothing.

    Returns:
        Shape (rollouts, windows, columns).
    """
    sums = np.zeros((len(listed[0].stop), len(listed), len(columns)))
    for batch in batches:
        rows = batch["row"].to_numpy().astype(np.int64)
        first = np.flatnonzero(batch["index"].to_numpy() == 0)
        row = rows[first]
        for j, column in enumerate(columns):
            values = batch[column].fill_null(0).to_numpy().astype(np.float64)
            below = np.concatenate([[0.0], np.cumsum(values)])
            for i, window in enumerate(listed):
                sums[row, i, j] = below[first + window.stop[row]] - below[first + window.start[row]]
    return sums


def budget_table(
    sums: Floats,
    listed: Sequence[Window],
    n_tokens: Integers,
    quantities: Sequence[Quantity],
    prompt_id: pl.Series,
    *,
    seed: int,
) -> pl.DataFrame:
    """Compare shares of tokens and of quantities that the windows keep.

    Args:
        sums: From `window_sums`, over the windows and, last, over the whole rollout.
        listed: The windows.
        n_tokens: Tokens in the loss of each rollout.
        quantities: What each column of the sums is.
        prompt_id: Prompt of each rollout.
        seed: Seed of the bootstrap.

    Returns:
        `RELEASE_BUDGETS` without the checkpoint.
    """
    codes = cluster_codes(prompt_id)
    tokens, _ = cluster_sums(
        codes, np.column_stack([w.stop - w.start for w in listed]).astype(np.float64)
    )
    all_tokens, _ = cluster_sums(codes, n_tokens[:, None].astype(np.float64))
    token_share = ratio(tokens, all_tokens, seed=seed)
    frames = []
    for j, quantity in enumerate(quantities):
        kept, _ = cluster_sums(codes, sums[:, :-1, j])
        whole, _ = cluster_sums(codes, sums[:, -1:, j])
        share = ratio(kept, whole, seed=seed)
        lift = ratio_of_ratios(kept, tokens, whole, all_tokens, seed=seed)
        frames.append(
            as_table(
                {
                    "window": [window.name for window in listed],
                    "quantity": [quantity.name] * len(listed),
                    "k": pl.Series([quantity.k] * len(listed), dtype=pl.UInt32),
                    "n": [len(codes)] * len(listed),
                    "n_prompts": [len(tokens)] * len(listed),
                    "n_tokens": tokens.sum(axis=0),
                    **interval_columns("token_share", token_share, share=True),
                    **interval_columns("share", share, share=True),
                    **interval_columns("lift", lift),
                    "reason": lift.reason,
                },
                RELEASE_BUDGETS[1:],
            )
        )
    return pl.concat(frames)


def contrast_table(
    sums: Floats,
    listed: Sequence[Window],
    quantities: Sequence[Quantity],
    prompt_id: pl.Series,
    *,
    seed: int,
) -> pl.DataFrame:
    """Compare what a token kept carries under a rollout's own release point and a shuffled one.

    Arguments as for `budget_table`. The margin placed the cut, so its contrast is above 0 even in
    noise; those of the KL and the gradient norm are not chosen.

    Returns:
        Rows of `RELEASE_SUMMARY` without the checkpoint.
    """
    codes = cluster_codes(prompt_id)
    names = [window.name for window in listed]
    sides = []
    for name in ("release", "shuffled release"):
        place = names.index(name)
        kept = listed[place].stop - listed[place].start
        sides.append(cluster_sums(codes, sums[:, place])[0])
        sides.append(cluster_sums(codes, kept[:, None].astype(np.float64))[0])
    found = ratio_difference(*sides, seed=seed)
    return as_table(
        {
            "split": ["all"] * len(quantities),
            "group": ["all"] * len(quantities),
            "statistic": [f"{q.name}_release_minus_shuffled" for q in quantities],
            "k": pl.Series([q.k for q in quantities], dtype=pl.UInt32),
            "unit": [f"{q.unit} per token kept" for q in quantities],
            "n": [len(codes)] * len(quantities),
            "n_prompts": found.clusters,
            **interval_columns("value", found),
            "paper": pl.Series([None] * len(quantities), dtype=pl.Float64),
            "reason": found.reason,
        },
        RELEASE_SUMMARY[1:],
    )


def _part(n: Integers, fraction: float | Floats) -> Integers:
    """Take a fraction of each length, at least one token where there is one."""
    rounded = np.rint(n * fraction).astype(np.int64)
    return np.asarray(np.clip(rounded, np.minimum(n, 1), n))
