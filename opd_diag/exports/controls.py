"""Control arms: as many tokens dropped, in the same shape, chosen by chance."""

from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from opd_diag.exports.weights import Integers, Mask, TokenWeights
from opd_diag.stats.ragged import index_in_sequence, run_lengths, run_starts, starts_of

Floats: TypeAlias = npt.NDArray[np.float64]

PLACEMENTS = 16  # random placements of a rollout's runs, of which the best matched is taken


def control_weights(weights: TokenWeights, *, seed: int) -> TokenWeights:
    """Make one control arm.

    A rule that keeps prefixes gives its cut fractions to other rollouts that are cut, trimmed so
    that the arm keeps exactly as many tokens in all. A rule that picks tokens has its runs of
    picked tokens moved inside each rollout, to the place of 16 random ones whose token types are
    nearest in frequency: each rollout keeps exactly as many. Weights that are neither 0 nor 1
    throughout (`--soft`) are permuted among tokens of like frequency inside each rollout.

    Args:
        weights: The arm of the rule.
        seed: Seed of the draw.
    """
    rng = np.random.default_rng(seed)
    inside = np.flatnonzero(weights.in_loss)
    rollout = np.repeat(np.arange(weights.lengths.size), weights.lengths)[inside]
    lengths = np.bincount(rollout, minlength=weights.lengths.size)
    value = weights.weight[inside]
    if weights.shape == "prefix":
        moved = _other_prefixes(value, lengths, rng)
    else:
        classes = _frequency_classes(weights, inside)
        if np.unique(value).size > 2:
            moved = _permuted(value, rollout, classes, rng)
        else:
            moved = _moved_runs(value, lengths, classes, rng)
    weight = np.zeros_like(weights.weight)
    weight[inside] = moved
    return replace(weights, weight=weight, calibrated=None)


def _other_prefixes(
    value: npt.NDArray[np.float32], lengths: Integers, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Deal the fractions that are kept to other rollouts, at equal tokens in all."""
    starts = starts_of(lengths)
    some = lengths > 0
    kept = np.zeros(lengths.size, np.int64)
    kept[some] = np.add.reduceat(value > 0, starts[some], dtype=np.int64)
    cut = np.flatnonzero(kept < lengths)
    dealt = kept.copy()
    fraction = (kept[cut] / np.maximum(lengths[cut], 1))[rng.permutation(cut.size)]
    dealt[cut] = equal_total(fraction * lengths[cut], lengths[cut], int(kept[cut].sum()), rng)
    weighted = np.ones(lengths.size)
    weighted[some] = np.maximum.reduceat(value, starts[some])
    # Where the rule keeps the mass of a rollout's loss, so does the control.
    rescaled = (weighted > 1).any()
    scale = np.where(rescaled & (dealt > 0), lengths / np.maximum(dealt, 1), 1.0)
    before = index_in_sequence(lengths) < np.repeat(dealt, lengths)
    return np.asarray(before * np.repeat(scale, lengths), np.float32)


def equal_total(wanted: Floats, most: Integers, total: int, rng: np.random.Generator) -> Integers:
    """Round numbers to integers from 0 to `most` that add up to a total.

    Args:
        wanted: Numbers from 0 to `most`. Shape (n,).
        most: Largest integers. Shape (n,).
        total: What they add up to, at most the sum of `most`.
        rng: Where the order of what is added or taken comes from.
    """
    size = np.clip(np.floor(wanted + rng.random(wanted.size)), 0, most).astype(np.int64)
    while (missing := total - int(size.sum())) != 0:
        able = np.flatnonzero(size < most if missing > 0 else size > 0)
        share = (most if missing > 0 else size)[able].astype(np.float64)
        draws = rng.multinomial(abs(missing), share / share.sum())
        room = (most - size)[able] if missing > 0 else size[able]
        size[able] += np.sign(missing) * np.minimum(draws, room)
    return size


def _moved_runs(
    value: npt.NDArray[np.float32],
    lengths: Integers,
    classes: npt.NDArray[np.int8],
    rng: np.random.Generator,
) -> npt.NDArray[np.float32]:
    """Move the runs of the rarer value of each rollout to other places of it."""
    moved = value.copy()
    values, counts = np.unique(value, return_counts=True)
    if values.size < 2:
        return moved
    mark = values[np.argmin(counts)]
    rest = values[np.argmax(counts)] if counts[0] != counts[1] else values[1 - np.argmin(counts)]
    for start, length in zip(starts_of(lengths).tolist(), lengths.tolist(), strict=True):
        place = slice(start, start + length)
        marked = value[place] == mark
        if marked.any() and not marked.all():
            moved[place] = np.where(_placement(marked, classes[place], rng), mark, rest)
    return moved


def _placement(marked: Mask, classes: npt.NDArray[np.int8], rng: np.random.Generator) -> Mask:
    """Place runs of the same lengths at random, nearest in frequency classes of 16 tries."""
    starts = run_starts(marked)
    sizes = run_lengths(starts, marked.size)[marked[starts]]
    free = marked.size - int(sizes.sum())
    wanted = np.bincount(classes[marked], minlength=classes.max() + 1)
    best, distance = marked, np.inf
    for _ in range(PLACEMENTS):
        order = rng.permutation(sizes)
        # Runs stand in gaps between the free tokens; no gap holds two where there is room.
        gaps = np.sort(rng.choice(free + 1, order.size, replace=order.size > free + 1))
        begin = gaps + starts_of(order)
        tried = np.zeros(marked.size, np.bool_)
        tried[np.repeat(begin, order) + index_in_sequence(order)] = True
        away = np.abs(np.bincount(classes[tried], minlength=wanted.size) - wanted).sum()
        if away < distance:
            best, distance = tried, away
    return best


def _permuted(
    value: npt.NDArray[np.float32],
    rollout: Integers,
    classes: npt.NDArray[np.int8],
    rng: np.random.Generator,
) -> npt.NDArray[np.float32]:
    """Permute weights among tokens of one rollout and frequency class."""
    fixed = np.lexsort((np.arange(value.size), classes, rollout))
    drawn = np.lexsort((rng.random(value.size), classes, rollout))
    moved = np.empty_like(value)
    moved[fixed] = value[drawn]
    return moved


def _frequency_classes(weights: TokenWeights, inside: Integers) -> npt.NDArray[np.int8]:
    """Class each token by the count of its type in the loss: powers of two."""
    token_id = weights.tokens.column("token_id")[inside]
    counts = np.bincount(token_id)
    return np.asarray(np.log2(counts[token_id])).astype(np.int8)
