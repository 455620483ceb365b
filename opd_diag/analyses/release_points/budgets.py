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
from opd_diag.analyses.tables import interval_columns, ratio, result_table
from opd_diag.stats.bootstrap import Interval
from opd_diag.stats.ragged import run_starts

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

PREFIXES = (256, 512, 1024, 2048, 4096, 8192)
PERCENTS = (10, 25, 50)
NEIGHBOURS = 32  # rollouts nearest in length, whose release fractions are dealt
FEWEST_DEALT = 8
GRID = np.linspace(0, 1, 65)  # places of the mean profile


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
        own: Share of each quantity of a released rollout before its release point, NaN for the
            others. Shape (rollouts, quantities).
        dealt: The same before the release points of other rollouts of like length, averaged, and
            moved along the mean share by position to the fraction of tokens that its own keeps.
    """

    windows: Sequence[Window]
    quantities: Sequence[Quantity]
    tokens: Floats
    sums: Floats
    all_tokens: Floats
    all_sums: Floats
    prompts: Prompts
    own: Floats
    dealt: Floats


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


def dealt_cuts(
    n_tokens: Integers, kept: Integers, prompts: Prompts
) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Deal every released rollout the release fractions of others that are as long as it is.

    Rollouts that stop where the teacher's margin is low may be long or short ones; dealt at random,
    their length alone would tell own cuts from others.

    Args:
        n_tokens: Tokens in the loss of each rollout.
        kept: Tokens before its release point, all where there is none.
        prompts: Prompt of each rollout: no fraction comes from the same one.

    Returns:
        Tokens kept under each of the fractions, and whether there is one. Shape (rollouts, 32).
    """
    reach = np.arange(1, NEIGHBOURS // 2 + 1)
    released = np.flatnonzero(kept < n_tokens)
    order = released[np.argsort(n_tokens[released], kind="stable")]
    cuts = np.zeros((len(n_tokens), NEIGHBOURS), np.int64)
    there = np.zeros(cuts.shape, np.bool_)
    if order.size:
        place = np.arange(order.size)[:, None] + np.concatenate([-reach[::-1], reach])
        other = order[np.clip(place, 0, order.size - 1)]
        fraction = kept[other] / n_tokens[other]
        cuts[order] = _part(n_tokens[order][:, None], fraction)
        inside = (place >= 0) & (place < order.size)
        there[order] = inside & (prompts.code[other] != prompts.code[order][:, None])
    return cuts, there


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
    cuts, there = dealt_cuts(n_tokens, listed[0].stop, prompts)
    dealt = np.zeros((len(n_tokens), len(quantities)))
    enough = there.sum(axis=1) >= FEWEST_DEALT
    profile = np.zeros((len(GRID), len(quantities)))
    counted = np.zeros(len(quantities))
    for batch in batches:
        rows = batch["row"].to_numpy().astype(np.int64)
        first = run_starts(rows)
        row = rows[first]
        for j, quantity in enumerate(quantities):
            values = batch[quantity.column].fill_null(0).to_numpy().astype(np.float64)
            below = np.concatenate([[0.0], np.cumsum(values)])
            for i, window in enumerate(ranges):
                sums[row, i, j] = below[first + window.stop[row]] - below[first + window.start[row]]
            to_cuts = below[first[:, None] + cuts[row]] - below[first][:, None]
            dealt[row, j] = ratio((to_cuts * there[row]).sum(axis=1), there[row].sum(axis=1))
            some = enough[row] & (sums[row, -1, j] > 0)
            to_grid = np.rint(GRID * n_tokens[row[some], None]).astype(np.int64)
            below_grid = below[first[some, None] + to_grid] - below[first[some], None]
            profile[:, j] += (below_grid / sums[row[some], -1, j][:, None]).sum(axis=0)
            counted[j] += some.sum()
    by_prompt = np.stack([prompts.sums(sums[..., j]) for j in range(len(quantities))], axis=-1)
    tokens = prompts.sums(np.column_stack([w.stop - w.start for w in ranges]))
    whole = np.where(enough[:, None] & (sums[:, -1] > 0), sums[:, -1], 0)
    moved = np.column_stack(
        [
            _along(column, n_tokens, listed[0].stop, cuts, there)
            for column in ratio(profile, counted).T
        ]
    )
    return WindowSums(
        listed,
        quantities,
        tokens[:, :-1],
        by_prompt[:, :-1],
        tokens[:, -1:],
        by_prompt[:, -1:],
        prompts,
        ratio(sums[:, 0], whole),
        ratio(dealt, whole) + moved,
    )


def _along(
    profile: Floats,
    n_tokens: Integers,
    kept: Integers,
    cuts: Integers,
    there: npt.NDArray[np.bool_],
) -> Floats:
    """Say how much more of a mean profile an own cut keeps than the cuts of others, on average.

    Taken off, cuts that stand early or late in all rollouts are no spread between rollouts.
    """
    size = np.maximum(n_tokens, 1)
    own = np.interp(kept / size, GRID, profile)
    others = np.interp(cuts / size[:, None], GRID, profile)
    return own - ratio((others * there).sum(axis=1), there.sum(axis=1))


def budgets_table(checkpoint: str, sums_of_windows: WindowSums) -> pl.DataFrame:
    """Compare shares of tokens and of quantities that the windows keep."""
    prompts, size = sums_of_windows.prompts, len(sums_of_windows.windows)
    token_share = prompts.ratio(sums_of_windows.tokens, sums_of_windows.all_tokens)
    frames = []
    for j, quantity in enumerate(sums_of_windows.quantities):
        kept, whole = sums_of_windows.sums[..., j], sums_of_windows.all_sums[..., j]
        share = prompts.ratio(kept, whole)
        lift = prompts.quotient(kept, sums_of_windows.tokens, whole, sums_of_windows.all_tokens)
        values = {
            "window": [window.name for window in sums_of_windows.windows],
            "quantity": quantity.name,
            "k": pl.Series([quantity.k] * size, dtype=pl.UInt32),
            "n": len(prompts.code),
            "n_prompts": prompts.count,
            "n_tokens": sums_of_windows.tokens.sum(axis=0),
            **interval_columns("token_share", token_share, share=True),
            **interval_columns("share", share, share=True),
            **interval_columns("lift", lift),
            "reason": lift.reason,
        }
        frames.append(result_table("release_budgets", values, checkpoint=checkpoint))
    return pl.concat(frames)


def own_minus_shuffled(sums_of_windows: WindowSums) -> Interval:
    """Compare what a token kept carries under a rollout's own release point and a shuffled one.

    The margin placed the cut, so its difference is above 0 even in noise; those of the KL and the
    gradient norm are not chosen.

    Returns:
        One difference for each quantity, in its unit per token kept.
    """
    names = [window.name for window in sums_of_windows.windows]
    sides = []
    for place in (names.index("release"), names.index("shuffled release")):
        sides += [sums_of_windows.sums[:, place], sums_of_windows.tokens[:, place, None]]
    return sums_of_windows.prompts.difference(*sides)


def _part(n: Integers, fraction: float | Floats) -> Integers:
    """Take a fraction of each length, at least one token where there is one."""
    rounded = np.rint(n * fraction).astype(np.int64)
    return np.asarray(np.clip(rounded, np.minimum(n, 1), n))
