"""The table `release_budgets`: what the tokens before the release point carry.

They are compared with those of other windows, some of which keep as many tokens.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.release_points.positions import Quantity
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.stats.bootstrap import Interval
from opd_diag.stats.ragged import run_starts

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


class WindowSums(NamedTuple):
    """What windows hold, by prompt.

    Attributes:
        windows: The windows.
        quantities: What is summed.
        tokens: Tokens in each window. Shape (prompts, windows).
        sums: Sums over its tokens. Shape (prompts, windows, quantities).
        all_tokens: Tokens in the loss. Shape (prompts, 1).
        all_sums: Sums over them. Shape (prompts, 1, quantities).
        prompts: The prompts.
    """

    windows: Sequence[Window]
    quantities: Sequence[Quantity]
    tokens: Floats
    sums: Floats
    all_tokens: Floats
    all_sums: Floats
    prompts: Prompts


def carried(k: int) -> list[Quantity]:
    """List what windows are compared by."""
    return [
        Quantity("reverse_kl", "reverse_kl", None, "nat"),
        Quantity("grad_logits", "grad_logits", None, "nat/logit"),
        Quantity("margin", "margin", k, "nat"),
    ]


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
    batches: Iterable[pl.DataFrame],
    quantities: Sequence[Quantity],
    listed: Sequence[Window],
    n_tokens: Integers,
    prompts: Prompts,
) -> WindowSums:
    """Sum quantities over windows; a value that is missing adds nothing.

    Args:
        batches: Tokens with `row` and the columns of the quantities.
        quantities: What is summed.
        listed: The windows.
        n_tokens: Tokens in the loss of each rollout.
        prompts: Prompt of each rollout.
    """
    everything = Window("all", np.zeros_like(n_tokens), n_tokens)
    ranges = [*listed, everything]
    sums = np.zeros((len(n_tokens), len(ranges), len(quantities)))
    for batch in batches:
        rows = batch["row"].to_numpy().astype(np.int64)
        first = run_starts(rows)
        row = rows[first]
        for j, quantity in enumerate(quantities):
            values = batch[quantity.column].fill_null(0).to_numpy().astype(np.float64)
            below = np.concatenate([[0.0], np.cumsum(values)])
            for i, window in enumerate(ranges):
                sums[row, i, j] = below[first + window.stop[row]] - below[first + window.start[row]]
    by_prompt = np.stack([prompts.sums(sums[..., j]) for j in range(len(quantities))], axis=-1)
    tokens = prompts.sums(np.column_stack([w.stop - w.start for w in ranges]))
    return WindowSums(
        listed,
        quantities,
        tokens[:, :-1],
        by_prompt[:, :-1],
        tokens[:, -1:],
        by_prompt[:, -1:],
        prompts,
    )


def budgets_table(checkpoint: str, found: WindowSums) -> pl.DataFrame:
    """Compare shares of tokens and of quantities that the windows keep."""
    prompts, size = found.prompts, len(found.windows)
    token_share = prompts.ratio(found.tokens, found.all_tokens)
    frames = []
    for j, quantity in enumerate(found.quantities):
        kept, whole = found.sums[..., j], found.all_sums[..., j]
        share = prompts.ratio(kept, whole)
        lift = prompts.quotient(kept, found.tokens, whole, found.all_tokens)
        values = {
            "window": [window.name for window in found.windows],
            "quantity": quantity.name,
            "k": pl.Series([quantity.k] * size, dtype=pl.UInt32),
            "n": len(prompts.code),
            "n_prompts": prompts.count,
            "n_tokens": found.tokens.sum(axis=0),
            **interval_columns("token_share", token_share, share=True),
            **interval_columns("share", share, share=True),
            **interval_columns("lift", lift),
            "reason": lift.reason,
        }
        frames.append(result_table("release_budgets", values, checkpoint=checkpoint))
    return pl.concat(frames)


def own_minus_shuffled(found: WindowSums) -> Interval:
    """Compare what a token kept carries under a rollout's own release point and a shuffled one.

    The margin placed the cut, so its difference is above 0 even in noise; those of the KL and the
    gradient norm are not chosen.

    Returns:
        One difference for each quantity, in its unit per token kept.
    """
    names = [window.name for window in found.windows]
    sides = []
    for place in (names.index("release"), names.index("shuffled release")):
        sides += [found.sums[:, place], found.tokens[:, place, None]]
    return found.prompts.difference(*sides)


def _part(n: Integers, fraction: float | Floats) -> Integers:
    """Take a fraction of each length, at least one token where there is one."""
    rounded = np.rint(n * fraction).astype(np.int64)
    return np.asarray(np.clip(rounded, np.minimum(n, 1), n))
