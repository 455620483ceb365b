"""Tell types that stay hard in a context that recurs from types that are just common."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from opd_diag.analyses.rock_tokens.occurrences import Occurrences

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

QUANTILE = 0.8
WINDOW = 4
FEWEST_MATCHES = 2
FEWEST_SIMILAR = 2
ETA = 0.1
FEWEST_MEMBERS = 5
MOST_MEMBERS = 2000
NULL_DRAWS = 20
NULL_LEVEL = 0.95
POOL = 2  # random occurrences compared, as multiples of the members: each null draw is a half

_BLOCK = 64  # rows compared at once: what they need stays in the cache
_SLOTS = tuple(d for d in range(-WINDOW, WINDOW + 1) if d)


class Context(NamedTuple):
    """The context stage of one type.

    Attributes:
        members: Occurrences at or above tau under the first and the last checkpoint, |O_PH|.
        kept: Those whose context recurs in other prompts; scaled up where sampled. NaN below 5
            members.
        null_share: 95th percentile over 20 draws of the share that is kept of as many random
            occurrences of the type.
        sampled: Whether 2,000 of the members stand for all.
    """

    members: int
    kept: float
    null_share: float
    sampled: bool


def recurring_contexts(
    occurrences: Occurrences, items: Integers, *, tau: str, eta: float, seed: int
) -> list[Context]:
    """Do the context stage for some types.

    A member is kept if, among the members from other prompts, at least 2 and a share of eta have
    the same token id at 2 or more of the 8 places around it. Common types share contexts by
    chance, so the same share is given for random occurrences of the type.

    Args:
        occurrences: Tokens and losses; with one checkpoint its loss alone decides.
        items: Types.
        tau: `own`: the 80th percentile of each checkpoint's own loss; `first`: the first one's
            for both.
        eta: Share of similar members.
        seed: Seed of samples and draws.

    Source: arXiv 2605.09253, which gives no values: w = 4, 2 matches, eta = 0.1 are ours.
    """
    loss = occurrences.loss[[0, -1]]
    taus = np.quantile(loss, QUANTILE, axis=1)
    hard = (loss[0] >= taus[0]) & (loss[1] >= (taus[0] if tau == "first" else taus[1]))
    prompt = occurrences.rollout_prompt[occurrences.rollout[occurrences.at]]

    found = []
    for item, rows in _rows_of_types(occurrences, items):
        # A seed of its own for each type: its figures do not depend on what else is asked.
        rng = np.random.default_rng([seed, int(occurrences.token_id[item])])
        found.append(_context(occurrences, prompt, rows, hard, eta, rng))
    return found


def _rows_of_types(occurrences: Occurrences, items: Integers) -> Iterator[tuple[int, Integers]]:
    """List the occurrences of each type, in order."""
    number = np.full(occurrences.token_id.size, items.size, np.uint16)
    number[items] = np.arange(items.size)
    code = number[occurrences.kind[occurrences.at]]
    order = np.argsort(code, kind="stable")
    ends = np.cumsum(np.bincount(code, minlength=items.size + 1))
    return zip(items.tolist(), np.split(order, ends[:-1])[: items.size], strict=True)


def _context(
    occurrences: Occurrences,
    prompt: npt.NDArray[np.int32],
    rows: Integers,
    hard: npt.NDArray[np.bool_],
    eta: float,
    rng: np.random.Generator,
) -> Context:
    members = rows[hard[rows]]
    size = min(members.size, MOST_MEMBERS)
    if size < FEWEST_MEMBERS:
        return Context(members.size, np.nan, np.nan, False)
    chosen = members if size == members.size else np.sort(rng.choice(members, size, replace=False))
    share = _kept(occurrences, prompt, chosen, np.ones((size, 1), np.float32), eta)[0]
    pool = rows
    if rows.size > max(POOL * size, 400):
        pool = np.sort(rng.choice(rows, max(POOL * size, 400), replace=False))
    draws = np.zeros((pool.size, NULL_DRAWS), np.float32)
    for draw in draws.T:
        draw[rng.choice(pool.size, size, replace=False)] = 1
    null = _kept(occurrences, prompt, pool, draws, eta)
    return Context(
        members.size,
        float(share) * members.size,
        float(np.quantile(null, NULL_LEVEL)),
        size < members.size,
    )


def _kept(
    occurrences: Occurrences,
    prompt: npt.NDArray[np.int32],
    rows: Integers,
    draws: npt.NDArray[np.float32],
    eta: float,
) -> Floats:
    """Give the share that is kept of each set of occurrences.

    Args:
        occurrences: Tokens and losses.
        prompt: Prompt of each occurrence.
        rows: Occurrences that are compared. Shape (m,).
        draws: 1 where an occurrence is in the set. Shape (m, sets).
        eta: Share of similar ones from other prompts.
    """
    left, right = _around(occurrences, rows)
    own = prompt[rows]
    _, number = np.unique(own, return_inverse=True)
    by_prompt = np.zeros((number.max() + 1, draws.shape[1]), np.float32)
    np.add.at(by_prompt, number, draws)
    others = draws.sum(axis=0) - by_prompt[number]
    alike = np.empty((rows.size, rows.size), np.bool_)
    for start in range(0, rows.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        matches = np.zeros((left[0, part].size, rows.size), np.uint8)
        for one, other in zip(left, right, strict=True):
            matches += one[part, None] == other
        alike[part] = (matches >= FEWEST_MATCHES) & (own[part, None] != own)
    # One product for all sets: many small ones would keep threads waiting for each other.
    similar = alike.astype(np.float32) @ draws
    keep = (similar >= FEWEST_SIMILAR) & (similar >= eta * others) & (draws > 0)
    return np.asarray(keep.sum(axis=0) / draws.sum(axis=0))


def _around(occurrences: Occurrences, rows: Integers) -> Sequence[npt.NDArray[np.unsignedinteger]]:
    """Give the types at the 8 places around some occurrences, twice: (8, m) each.

    The two differ where a place lies outside the response, so that such a place never matches.
    """
    kind, rollout, position = occurrences.kind, occurrences.rollout, occurrences.position
    dtype = np.uint16 if occurrences.token_id.size < 65_000 else np.uint32
    outside = np.iinfo(dtype).max
    at = occurrences.at[rows]
    left = np.empty((len(_SLOTS), rows.size), dtype)
    right = np.empty_like(left)
    for slot, step in enumerate(_SLOTS):
        there = np.clip(at + step, 0, kind.size - 1)
        inside = (rollout[there] == rollout[at]) & (position[there] == position[at] + step)
        left[slot] = np.where(inside, kind[there], outside)
        right[slot] = np.where(inside, kind[there], outside - 1)
    return left, right
