"""Compare types and groups between checkpoints, where nothing was chosen by what is compared.

Types chosen for a high loss have, in part, been lucky; measured on the same rows they seem to
learn when nothing changes. So they are chosen on one half of the prompts and measured on the
other; the figure of the half that chose is given beside it, to show by how much it misleads.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.sparse import csr_array

from opd_diag.analyses.rock_tokens.occurrences import columns, total, trusted
from opd_diag.analyses.rock_tokens.ranking import (
    Mask,
    Ranking,
    half_totals,
    match_controls,
)
from opd_diag.stats.bootstrap import Interval
from opd_diag.stats.p_values import sign_flip_p
from opd_diag.stats.ranks import descending_ranks
from opd_diag.tables.columns.rock_tokens import DELTA

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

LEVEL = 0.05


class Change(NamedTuple):
    """Levels of some groups or types at one checkpoint, and their change since the first.

    Attributes:
        n: Occurrences measured. Shape (k,).
        level: Mean loss, nat.
        change: Level minus that of the first checkpoint, nat.
        relative: Level over that of the first checkpoint, minus 1.
    """

    n: Floats
    level: Interval
    change: Interval
    relative: Interval


class TypeChange(NamedTuple):
    """Levels of some types at the first and last checkpoint, and their change.

    Attributes:
        n: Occurrences measured under the first checkpoint. Shape (k,).
        first: Mean loss under it, nat.
        last: Mean loss under the last, nat.
        relative: Last over first, minus 1.
        usable: Whether there are enough occurrences for an interval.
        difference: Summed loss under the last checkpoint minus that under the first, in each
            prompt, nat; None where they did not read the same tokens. Shape (prompts, k).
    """

    n: Floats
    first: Interval
    last: Interval
    relative: Interval
    usable: Mask
    difference: Floats | None


class Groups(NamedTuple):
    """Groups of types, chosen on each half of the prompts.

    Attributes:
        members: Membership by the half that chose, among the types of the panel, in the order of
            `GROUPS`. Shape (2, groups, types).
        chosen_under: Names of the checkpoints whose loss chose.
    """

    members: Mask
    chosen_under: tuple[str, ...]


def choose_groups(ranking: Ranking) -> Groups:
    """Choose the groups on each half of the prompts.

    What a type's loss shares by chance under the checkpoints that are compared must not choose it:
    with three checkpoints or more the middle one chooses, with two both alike, by the geometric
    mean of their losses.
    """
    panel, count = ranking.panel, len(ranking.panel.names)
    several = [count // 2] if count > 2 else list(range(count))
    places = several if panel.paired else [0]
    members = np.stack([_groups_of_half(ranking, half, places) for half in (0, 1)])
    return Groups(members, tuple(panel.names[place] for place in places))


def _groups_of_half(ranking: Ranking, half: int, places: Sequence[int]) -> Mask:
    options = ranking.options
    n, R, able = _half_sums(ranking, half, places)
    ranks = descending_ranks(np.where(able, R, -np.inf))
    rock = ranks <= options.top
    mean = descending_ranks(np.where(able, R / np.maximum(n, 1), -np.inf))
    controls = match_controls(n, ranks, able, ranking.panel.token_id, options)
    control, random = np.zeros((2, n.size), np.bool_)
    control[controls.control[controls.control >= 0]] = True
    pool = np.flatnonzero(able)
    rng = np.random.default_rng([options.seed, half])
    random[rng.choice(pool, min(options.top, pool.size), replace=False)] = True
    return np.stack([rock, control, mean <= options.top, random, ~rock])


def _half_sums(ranking: Ranking, half: int, places: Sequence[int]) -> tuple[Floats, Floats, Mask]:
    """Give occurrences, loss under some checkpoints, and what may be chosen, on one half."""
    rows = np.flatnonzero(ranking.panel.half == half)
    n = total(ranking.panel.n[0][rows])
    each = np.stack([total(ranking.panel.x[place][rows]) for place in places])
    one = len(places) == 1 or ranking.options.signed
    R = each.mean(axis=0) if one else each.prod(axis=0) ** (1 / len(places))
    return n, R, ranking.panel_eligible & (n >= ranking.options.min_count)


def rocks_under(ranking: Ranking, place: int) -> Mask:
    """Tell which types each half would list by R under one checkpoint. Shape (2, types)."""
    rocks = []
    for half in (0, 1):
        _, R, able = _half_sums(ranking, half, [place])
        rocks.append(descending_ranks(np.where(able, R, -np.inf)) <= ranking.options.top)
    return np.stack(rocks)


def rocks_by_half(ranking: Ranking) -> Mask:
    """Tell which types each half would list by what ranks. Shape (2, types of the panel)."""
    rocks = []
    for half in (0, 1):
        _, _, able = _half_sums(ranking, half, [0])
        R = half_totals(ranking.panel, ranking.panel_rank_by, half).R
        rocks.append(descending_ranks(np.where(able, R, -np.inf)) <= ranking.options.top)
    return np.stack(rocks)


def on_other_half(ranking: Ranking, by_half: Mask) -> Mask:
    """Tell which occurrences are of a type that the other half of the prompts chose.

    Args:
        ranking: The ranked types.
        by_half: Types by the half that chose them. Shape (2, types).

    Returns:
        Shape (n,).
    """
    occurrences = ranking.occurrences
    chose = 1 - occurrences.half[occurrences.prompt].astype(np.int64)
    return np.asarray(by_half[chose, occurrences.kind[occurrences.at]])


def group_changes(ranking: Ranking, members: Mask) -> list[Change]:
    """Measure groups at every checkpoint, on the half that did not choose them and on the other.

    Args:
        ranking: The ranked types. The bootstrap draws prompts inside each half.
        members: Membership by the half that chose, shape (2, groups, types).

    Returns:
        One entry for each checkpoint; its fields hold the groups measured on the other half,
        then the groups measured on the half that chose them.
    """
    sums = ranking.panel
    by_half = [csr_array(m.T.astype(np.float64)) for m in members]
    second = (sums.half == 1)[:, None]

    def of_groups(matrix: Any) -> Floats:
        by_first, by_second = ((matrix @ member).toarray() for member in by_half)
        other_half = np.where(second, by_first, by_second)
        return np.hstack([other_half, np.where(second, by_second, by_first)])

    n, x = [of_groups(a) for a in sums.n], [of_groups(a) for a in sums.x]
    prompts = sums.prompts(ranking.options.seed, by_half=True)
    return [
        Change(
            n=n[i].sum(axis=0),
            level=prompts.ratio(x[i], n[i], log=not ranking.options.signed),
            change=prompts.difference(x[i], n[i], x[0], n[0]),
            relative=_relative(ranking, n[i], x[i], n[0], x[0]),
        )
        for i in range(len(x))
    ]


def type_changes(ranking: Ranking, items: Integers, rock: Mask) -> TypeChange:
    """Measure single types at the first and last checkpoint, where no half chose them.

    A type that a half put among its rocks is measured on the other half, on both if both did so.
    A type that neither chose is measured on all prompts: nothing was chosen by its loss.

    Args:
        ranking: The ranked types.
        items: Some types of its panel.
        rock: Rocks by the half that chose, shape (2, types).
    """
    sums, log = ranking.panel, not ranking.options.signed
    neither = ~rock.any(axis=0)
    measured = np.stack([rock[1] | neither, rock[0] | neither])[:, items]
    inside = measured[sums.half.astype(np.intp)]

    def of_types(matrix: Any) -> Any:
        part = columns(matrix, items)
        return part * inside if isinstance(part, np.ndarray) else part.multiply(inside).tocsr()

    n0, n, x0, x = (of_types(a[i]) for a in (sums.n, sums.x) for i in (0, -1))
    prompts = sums.prompts(ranking.options.seed, by_half=True)
    return TypeChange(
        n=np.asarray(n0.sum(axis=0), np.float64).ravel(),
        first=prompts.ratio(x0, n0, log=log),
        last=prompts.ratio(x, n, log=log),
        relative=_relative(ranking, n, x, n0, x0),
        usable=trusted(csr_array(n0)) & trusted(csr_array(n)),
        difference=_dense(x - x0) if sums.paired else None,
    )


def changed_p(change: TypeChange, wanted: Mask, seed: int) -> tuple[Floats, Floats]:
    """Test whether the loss of single types changed, by swapping the checkpoints inside prompts.

    If the two checkpoints are alike, a prompt's difference is as often positive as negative.

    Args:
        change: The types.
        wanted: Those that are tested, if they are usable. Shape (k,).
        seed: Seed of the draws.

    Returns:
        Two-sided p, and p adjusted over the tested types (Benjamini-Hochberg); NaN for the others.
    """
    p, adjusted = np.full((2, wanted.size), np.nan)
    tested = np.flatnonzero(wanted & change.usable)
    if change.difference is not None and tested.size:
        p[tested] = sign_flip_p(change.difference[:, tested], seed=seed)
        adjusted[tested] = stats.false_discovery_control(p[tested])
    return p, adjusted


def label(change: TypeChange, adjusted: Floats) -> list[str | None]:
    """Name what is shown of each type; None where it has no interval.

    Args:
        change: The types.
        adjusted: p of `changed_p`, NaN for a type that is not tested.

    Returns:
        `stagnant`: the interval of the relative change lies inside [-delta, delta]; `changed`: it
        does not, and p is at most 5 %; `undecided`: neither.
    """
    low, high = change.relative.low, change.relative.high
    names = np.select(
        [(low >= -DELTA) & (high <= DELTA), np.nan_to_num(adjusted, nan=1) <= LEVEL],
        ["stagnant", "changed"],
        "undecided",
    )
    there = change.usable & np.isfinite(low)
    return [str(name) if known else None for name, known in zip(names, there, strict=True)]


def _dense(matrix: Any) -> Floats:
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix)


def _relative(ranking: Ranking, n: Any, x: Any, n0: Any, x0: Any) -> Interval:
    """Compare two levels: mean over first mean, minus 1."""
    prompts = ranking.panel.prompts(ranking.options.seed, by_half=True)
    if ranking.panel.paired:  # n is n0, and cancels
        quotient = prompts.ratio(x, x0, log=True)
    else:
        quotient = prompts.quotient(x, n, x0, n0)
    # A quotient of losses of either sign says nothing.
    known = np.where(ranking.options.signed, np.nan, 1.0)
    ends = (known * (end - 1) for end in (quotient.estimate, quotient.low, quotient.high))
    estimate, low, high = ends
    return quotient._replace(estimate=estimate, low=low, high=high)
