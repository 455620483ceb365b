"""Tell types that stay hard in a context that recurs from types that are just common."""

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from opd_diag.analyses.rock_tokens.hardness import find_hard
from opd_diag.analyses.rock_tokens.occurrences import Occurrences
from opd_diag.analyses.rock_tokens.options import Options

Integers: TypeAlias = npt.NDArray[np.int64]
Bits: TypeAlias = npt.NDArray[np.uint64]

WINDOW = 4
FEWEST_SIMILAR = 2
FEWEST_MEMBERS = 5
MOST_MEMBERS = 2000
NULL_DRAWS = 20
NULL_LEVEL = 0.95  # the largest of 20: exceeded by chance in 1 of 21

_OUTSIDE = -1  # stands for the type of a place that lies outside the response
_BLOCK = 512  # occurrences compared with all others at once: what they need stays in the cache
_SLOTS = tuple(d for d in range(-WINDOW, WINDOW + 1) if d)


class Context(NamedTuple):
    """The context stage of one type.

    Attributes:
        members: Occurrences at or above tau under the first and the last checkpoint, |O_PH|.
        kept: Those whose context recurs in other prompts; scaled up where sampled. NaN below 5
            members.
        null_share: Largest share, of 20 draws, that is kept of as many random occurrences of the
            type.
        sampled: Whether 2,000 of the members stand for all.
    """

    members: int
    kept: float
    null_share: float
    sampled: bool


def recurring_contexts(
    occurrences: Occurrences, items: Integers, options: Options
) -> list[Context]:
    """Do the context stage for some types.

    A member is kept if, among the members from other prompts, at least 2 and a share of eta have
    the same token id at 2 or more of the 8 places around it. Common types share contexts by
    chance, so the same share is given for random occurrences of the type.

    Args:
        occurrences: Tokens and losses; with one checkpoint its loss alone decides.
        items: Types.
        options: `tau`: `own`, the 80th percentile of each checkpoint's own loss, or `first`, that
            of the first one for both; `eta`: share of similar members; `seed` of all draws.

    Source: arXiv 2605.09253, which gives no values: w = 4, 2 matches, eta = 0.1 are ours.
    """
    both = find_hard(occurrences, options.tau).hard
    hard = both[0] & both[-1]
    prompt = occurrences.prompt

    contexts = []
    for item, rows in _rows_of_types(occurrences, items):
        # A seed of its own for each type: its figures do not depend on what else is asked.
        rng = np.random.default_rng([options.seed, int(occurrences.token_id[item])])
        contexts.append(_context(occurrences, prompt, rows, hard, options.eta, rng))
    return contexts


def _rows_of_types(occurrences: Occurrences, items: Integers) -> Iterator[tuple[int, Integers]]:
    """List the occurrences of each type, in order."""
    # Narrow numbers are sorted by their digits, which is faster.
    narrow = np.uint16 if items.size < np.iinfo(np.uint16).max else np.uint32
    number = np.full(occurrences.token_id.size, items.size, narrow)
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
    chosen = members if size == members.size else _drawn(rng, members, size)
    sets = [chosen, *(_drawn(rng, rows, size) for _ in range(NULL_DRAWS))]
    share, *null = _kept(occurrences, prompt, np.stack(sets), eta)
    return Context(
        members.size,
        share * members.size,
        float(np.quantile(null, NULL_LEVEL, method="higher")),
        size < members.size,
    )


def _drawn(rng: np.random.Generator, rows: Integers, size: int) -> Integers:
    """Draw some of the rows, in no order."""
    return rows[rng.choice(rows.size, size, replace=False, shuffle=False)]


def _kept(
    occurrences: Occurrences, prompt: npt.NDArray[np.int32], sets: Integers, eta: float
) -> list[float]:
    """Give the share that is kept of each set of occurrences.

    Args:
        occurrences: Tokens and losses.
        prompt: Prompt of each occurrence.
        sets: Occurrences that are compared with each other. Shape (sets, m).
        eta: Share of similar ones from other prompts.
    """
    around = _around(occurrences, sets)
    shares = []
    for i, rows in enumerate(sets):
        _, own, count = np.unique(prompt[rows], return_inverse=True, return_counts=True)
        similar = _similar(around[:, i], own)
        # Counts are whole: a product that is one too, but for rounding, must not ask for one more.
        needed = np.ceil(eta * (rows.size - count[own]) * (1 - 1e-12))
        keep = (similar >= FEWEST_SIMILAR) & (similar >= needed)
        shares.append(float(keep.mean()))
    return shares


def _similar(kinds: npt.NDArray[np.int32], prompt: npt.NDArray[np.intp]) -> Integers:
    """Count for each occurrence those of other prompts whose context is similar.

    Sets of occurrences are rows of bits, so that one operation compares with 64 of them.

    Args:
        kinds: What stands at the 8 places around each occurrence, from `_around`. Shape (8, m).
        prompt: Number of the prompt of each, from 0. Shape (m,).
    """
    same_prompt = _sets(prompt)
    number = _recurring(kinds)
    alike = _sets(number)
    alike[0] = 0
    n_similar = np.empty(prompt.size, np.int64)
    for start in range(0, prompt.size, _BLOCK):
        rows = slice(start, start + _BLOCK)
        twice = once = np.zeros_like(alike[:1])
        for place in number[:, rows]:
            these = alike[place]
            twice, once = twice | once & these, once | these
        similar = twice & ~same_prompt[prompt[rows]]
        n_similar[rows] = np.bitwise_count(similar).sum(axis=1)
    return n_similar


def _recurring(kinds: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
    """Number from 1 what occurs more than once; the rest, and places outside, are 0."""
    values, place, count = np.unique(kinds, return_inverse=True, return_counts=True)
    again = (count > 1) & (values != _OUTSIDE)
    return np.asarray(np.where(again, np.cumsum(again), 0)[place])


def _sets(number: npt.NDArray[np.intp]) -> Bits:
    """Give the members of each number as bits, in rows of whole words.

    Args:
        number: Numbers of each member, shape (m,) or (places, m).

    Returns:
        Shape (numbers, words).
    """
    size = number.shape[-1]
    member = np.zeros((number.max() + 1, -(-size // 64) * 64), np.bool_)
    member[number, np.arange(size)] = True
    return np.packbits(member, axis=1).view(np.uint64)


def _around(occurrences: Occurrences, rows: Integers) -> npt.NDArray[np.int32]:
    """Give the types at the 8 places around some occurrences; places never share a number."""
    kind, rollout, position = occurrences.kind, occurrences.rollout, occurrences.position
    at = occurrences.at[rows]
    kinds = np.empty((len(_SLOTS), *at.shape), np.int32)
    for slot, step in enumerate(_SLOTS):
        there = np.clip(at + step, 0, kind.size - 1)
        inside = (rollout[there] == rollout[at]) & (position[there] == position[at] + step)
        kinds[slot] = np.where(inside, kind[there] * len(_SLOTS) + slot, _OUTSIDE)
    return kinds
