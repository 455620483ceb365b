"""Ask whether chosen types stay: chosen on one half of the prompts, measured on the other.

Types chosen for a high loss have, in part, been lucky; measured on the same rows they seem to
learn when nothing changes. The naive figure is given beside the honest one to show by how much.
"""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from opd_diag.analyses.rock_tokens.controls import match_controls
from opd_diag.analyses.rock_tokens.selectors import Mask, Totals, by_mean, by_summed_loss
from opd_diag.analyses.rock_tokens.sums import Sums, total
from opd_diag.analyses.rock_tokens.types import columns, trusted
from opd_diag.stats.bootstrap import Interval, ratio, ratio_difference, ratio_of_ratios
from opd_diag.stats.ranks import descending_ranks

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

GROUPS = ("rock", "control", "high_kl", "random")
DELTA = 0.10


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
    """

    n: Floats
    first: Interval
    last: Interval
    relative: Interval
    usable: Mask


def whole_totals(sums: Sums) -> Totals:
    """Add up all prompts."""
    return Totals(*(total(a) for a in (sums.n[0], sums.x[0], sums.square, sums.x[-1])))


def half_totals(sums: Sums, half: int) -> Totals:
    """Add up the prompts of one half."""
    rows = np.flatnonzero(sums.half == half)
    return Totals(*(total(a[rows]) for a in (sums.n[0], sums.x[0], sums.square, sums.x[-1])))


def choose_groups(
    sums: Sums,
    half: int,
    eligible: Mask,
    *,
    top: int,
    min_count: int,
    next_ranks: bool,
    seed: int,
) -> npt.NDArray[np.bool_]:
    """Choose the groups on one half of the prompts.

    Args:
        sums: Sums per prompt and type.
        half: The half that chooses.
        eligible: Types that may be chosen.
        top: Size of each group.
        min_count: Fewest occurrences in the half.
        next_ranks: Whether the controls are the next ranks by R, not matched by frequency.
        seed: Seed of the random group, and of ties between controls.

    Returns:
        Membership, shape (groups, types), in the order of `GROUPS`.
    """
    t = half_totals(sums, half)
    able = eligible & (t.n >= min_count)
    ranks = descending_ranks(np.where(able, by_summed_loss(t, min_count), -np.inf))
    rock = ranks <= top
    high = descending_ranks(np.where(able, by_mean(t, min_count), -np.inf)) <= top
    control = match_controls(
        t.n, ranks, able, sums.token_id, top=top, next_ranks=next_ranks, seed=seed
    )
    random = np.zeros(t.n.size, np.bool_)
    pool = np.flatnonzero(able)
    rng = np.random.default_rng([seed, half])
    random[rng.choice(pool, min(top, pool.size), replace=False)] = True
    matched = np.zeros(t.n.size, np.bool_)
    matched[control.control[control.control >= 0]] = True
    return np.stack([rock, matched, high, random])


def group_changes(
    sums: Sums, chosen: npt.NDArray[np.bool_], *, signed: bool, seed: int
) -> list[Change]:
    """Measure groups at every checkpoint, honestly and naively.

    Args:
        sums: Sums per prompt and type.
        chosen: Membership by the half that chose, shape (2, groups, types).
        signed: Whether the loss can be negative: then no relative change.
        seed: Seed of the bootstrap, which draws prompts inside each half.

    Returns:
        One entry for each checkpoint; its fields hold the groups measured on the other half,
        then the groups measured on the half that chose them.
    """
    by_half = [csr_array(m.T.astype(np.float64)) for m in chosen]
    second = (sums.half == 1)[:, None]

    def of_groups(matrix: Any) -> Floats:
        by_first, by_second = ((matrix @ member).toarray() for member in by_half)
        honest = np.where(second, by_first, by_second)
        return np.hstack([honest, np.where(second, by_second, by_first)])

    n, x = [of_groups(a) for a in sums.n], [of_groups(a) for a in sums.x]
    return [
        Change(
            n=n[i].sum(axis=0),
            level=ratio(x[i], n[i], seed=seed, log=not signed, strata=sums.half),
            change=ratio_difference(x[i], n[i], x[0], n[0], seed=seed, strata=sums.half),
            relative=_relative(n[i], x[i], n[0], x[0], sums, signed=signed, seed=seed),
        )
        for i in range(len(x))
    ]


def type_changes(
    sums: Sums, items: Integers, rock: npt.NDArray[np.bool_], *, signed: bool, seed: int
) -> TypeChange:
    """Measure single types at the first and last checkpoint, where no half chose them.

    A type that a half put among its rocks is measured on the other half, on both if both did so.
    A type that neither chose is measured on all prompts: nothing was chosen by its loss.

    Args:
        sums: Sums per prompt and type.
        items: Types.
        rock: Rocks by the half that chose, shape (2, types).
        signed: Whether the loss can be negative.
        seed: Seed of the bootstrap.
    """
    neither = ~rock.any(axis=0)
    measured = np.stack([rock[1] | neither, rock[0] | neither])[:, items]
    inside = measured[sums.half.astype(np.intp)]

    def of_types(matrix: Any) -> Any:
        part = columns(matrix, items)
        return part * inside if isinstance(part, np.ndarray) else part.multiply(inside).tocsr()

    n0, n, x0, x = (of_types(a[i]) for a in (sums.n, sums.x) for i in (0, -1))
    first, last = (
        ratio(*a, seed=seed, log=not signed, strata=sums.half) for a in ((x0, n0), (x, n))
    )
    return TypeChange(
        n=np.asarray(n0.sum(axis=0), np.float64).ravel(),
        first=first,
        last=last,
        relative=_relative(n, x, n0, x0, sums, signed=signed, seed=seed),
        usable=trusted(csr_array(n0)) & trusted(csr_array(n)),
    )


def label(
    relative: Interval, usable: npt.NDArray[np.bool_], delta: float = DELTA
) -> list[str | None]:
    """Name what an interval of the relative change shows; None where there is none.

    Returns:
        `stagnant`: inside [-delta, delta]; `changed`: excludes 0 and is not inside;
        `undecided`: neither.
    """
    low, high = relative.low, relative.high
    names = np.select(
        [(low >= -delta) & (high <= delta), (low > 0) | (high < 0)],
        ["stagnant", "changed"],
        "undecided",
    )
    there = usable & np.isfinite(low)
    return [str(name) if known else None for name, known in zip(names, there, strict=True)]


def _relative(n: Any, x: Any, n0: Any, x0: Any, sums: Sums, *, signed: bool, seed: int) -> Interval:
    """Compare two levels: mean over first mean, minus 1."""
    if sums.paired:  # n is n0, and cancels
        found = ratio(x, x0, seed=seed, log=True, strata=sums.half)
    else:
        found = ratio_of_ratios(x, n, x0, n0, seed=seed, strata=sums.half)
    known = np.where(signed, np.nan, 1.0)  # a quotient of losses of either sign says nothing
    estimate, low, high = (known * (end - 1) for end in (found.estimate, found.low, found.high))
    return found._replace(estimate=estimate, low=low, high=high)
