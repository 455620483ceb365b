"""Compare what selectors choose: how much they share, and what lies on it."""

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.analyses.teachability.contexts import Contexts, Floats
from opd_diag.analyses.teachability.selectors import Chosen

_CELLS = 4_000_000  # prompts x patterns in one block: 32 MB an array


def overlap_table(
    contexts: Contexts,
    chosen: Mapping[str, Chosen],
    budgets: Sequence[float],
) -> pl.DataFrame:
    """Give Jaccard and shared signal of every two selectors, each with itself included."""
    levels = {name: c.level for name, c in chosen.items() if c.level is not None}
    pairs = list(combinations_with_replacement(range(len(levels)), 2))
    names = list(levels)
    weights = {"kl": contexts.column("forward_kl"), "gradient": contexts.column("grad_logits")}
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    blocks = [
        _pair_sums(contexts, list(levels.values()), pairs, weights, level)
        for level in range(len(budgets))
    ]
    sums = {name: np.concatenate([b[name] for b in blocks], axis=1) for name in blocks[0]}
    both, either = sums["both"].sum(axis=0), sums["either"].sum(axis=0)
    jaccard = contexts.prompts.ratio(sums["both"], sums["either"])
    own = {(pair, b): both[b * len(pairs) + i] for b in range(len(budgets)) for i, pair in
           enumerate(pairs)}  # fmt: skip
    sizes = np.array(
        [[own[(i, i), b], own[(j, j), b]] for b in range(len(budgets)) for i, j in pairs]
    )
    expected = sizes.prod(axis=1) / contexts.n
    same = np.array([i == j for _ in budgets for i, j in pairs])
    chance = expected / np.maximum(sizes.sum(axis=1) - expected, 1)
    columns = contexts.head | {
        "budget": np.repeat(budgets, len(pairs)),
        "selector": [names[i] for i, _ in pairs] * len(budgets),
        "other": [names[j] for _, j in pairs] * len(budgets),
        "n": either,
        "n_both": both,
        "n_prompts": (sums["either"] > 0).sum(axis=0),
        **interval_columns("jaccard", jaccard, share=True),
        "jaccard_chance": np.where(same, np.nan, chance),
        "reason": np.where(same, "itself", jaccard.reason),
    }
    for name, values in weights.items():
        total = contexts.prompt_sums(values)[:, None]
        share = contexts.prompts.ratio(sums[name], total)
        columns |= interval_columns(f"{name}_share", share, share=True)
    return result_table("teachability_overlap", columns)


def _pair_sums(
    contexts: Contexts,
    levels: Sequence[npt.NDArray[np.uint8]],
    pairs: Sequence[tuple[int, int]],
    weights: Mapping[str, Floats],
    level: int,
) -> dict[str, Floats]:
    """Sum over prompts what each pair shares at one budget; shape (prompts, pairs) each.

    Which selectors choose a token is a pattern of bits. There are few patterns, so tokens are
    summed by pattern, and patterns by pair.
    """
    pattern = np.zeros(contexts.n, np.uint16)
    for bit, choice in enumerate(levels):
        pattern |= (choice <= level).astype(np.uint16) << np.uint16(bit)
    seen = np.flatnonzero(np.bincount(pattern, minlength=1 << len(levels)))
    place = np.zeros(1 << len(levels), np.int64)
    place[seen] = np.arange(len(seen))
    member = (seen[:, None] >> np.arange(len(levels))) & 1 == 1
    shared = np.column_stack([member[:, i] & member[:, j] for i, j in pairs]).astype(np.float64)
    united = np.column_stack([member[:, i] | member[:, j] for i, j in pairs]).astype(np.float64)
    prompts = contexts.prompts.count
    sums = {name: np.empty((prompts, len(pairs))) for name in ("both", "either", *weights)}
    ends = np.append(contexts.starts[1:], len(pattern))
    step = max(1, _CELLS // len(seen))
    for first in range(0, prompts, step):
        last = min(first + step, prompts)
        rows = slice(int(contexts.starts[first]), int(ends[last - 1]))
        key = (contexts.prompts.code[rows] - first) * len(seen) + place[pattern[rows]]
        size = (last - first) * len(seen)
        n = np.bincount(key, minlength=size).reshape(-1, len(seen)).astype(np.float64)
        sums["both"][first:last], sums["either"][first:last] = n @ shared, n @ united
        for name, values in weights.items():
            cells = np.bincount(key, values[rows], size).reshape(-1, len(seen))
            sums[name][first:last] = cells @ shared
    return sums
