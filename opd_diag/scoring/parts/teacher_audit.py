"""The teacher that the trainer saw: its log-probs in the dump against ours, and what is wrong."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import rankdata

from opd_diag.scoring.parts.alignment import (
    EDGES,
    Alignment,
    fits_instead,
    is_aligned,
    quantile,
    rounding,
)
from opd_diag.tables.source import FEWEST_ALIGNED

Floats = NDArray[np.floating[Any]]
Bins = NDArray[np.int64]

TEACHER, AFTER, BEFORE, STUDENT = "teacher", "token after", "token before", "student"
TRAINER_COLUMNS = ("trainer_teacher_logp", "trainer_top_id", "trainer_top_mass")
# A dump is all zeros if this share of it is: a sure token can have a log-prob of 0.
_ZEROS = 0.99
# Rank correlation below which nothing of the teacher is left; a model of another kind has more.
_UNRELATED = 0.3

FAULTS = {
    AFTER: ("shifted by one", "they fit the teacher's at the token after"),
    BEFORE: ("shifted by one", "they fit the teacher's at the token before"),
    STUDENT: ("equals the student", "they are this student's: the teacher was never used"),
}


class Audit(NamedTuple):
    """What was counted of the trainer's log-probs of the teacher. Parts add up.

    Attributes:
        bins: Histogram of |difference| by what they were compared with.
        n: Tokens with a log-prob.
        zeros: Those that are 0.
        rank_sum: Rank correlation with ours, times the tokens that it is of.
        top: Where the dump keeps the teacher's likeliest ids: tokens (`n`), those at which the
            likeliest is ours too (`same`), and the sum of what they hold together (`mass`).
    """

    bins: dict[str, Bins]
    n: int
    zeros: int
    rank_sum: float
    top: Mapping[str, float] | None = None

    def packed(self) -> dict[str, Any]:
        """Write it as JSON values."""
        return {
            "bins": {
                name: [[int(place), int(bins[place])] for place in np.flatnonzero(bins)]
                for name, bins in self.bins.items()
            },
            "n": self.n,
            "zeros": self.zeros,
            "rank_sum": self.rank_sum,
            "top": dict(self.top or {}),
        }


def compared_with(frame: pl.DataFrame, k_grid: Sequence[int], few: Sequence[int]) -> dict[str, Any]:
    """Return what the trainer's log-probs may be, from a token table. Shape (tokens,) each.

    Args:
        frame: The token table.
        k_grid: The K of `teacher_mass`.
        few: The K of `teacher_top_mass`.
    """
    teacher = frame["teacher_logp"]
    known: dict[str, pl.Series] = {TEACHER: teacher, STUDENT: frame["student_logp"]}
    for column, grid, whose in (
        ("teacher_top_mass", few, "the teacher's"),
        ("teacher_mass", k_grid, "the student's"),
    ):
        for place, k in enumerate(grid):
            mass = frame[column].arr.get(place)
            known[f"{whose} top {k}"] = teacher - mass.log()
    return {name: values.to_numpy() for name, values in known.items()}


def count_top(trainer: Mapping[str, NDArray[Any]], ours: NDArray[np.integer]) -> dict[str, float]:
    """Compare the likeliest ids that the trainer saw with ours; nothing where there are none.

    Args:
        trainer: `trainer_top_id` and `trainer_top_mass`, NaN where there is none. Shape (tokens,).
        ours: The teacher's likeliest id. Shape (tokens,).
    """
    ids, mass = trainer["trainer_top_id"], trainer["trainer_top_mass"]
    there = np.isfinite(ids) & np.isfinite(mass) & np.isfinite(ours.astype(np.float64))
    if not there.any():
        return {}
    return {
        "n": int(there.sum()),
        "same": int((ids[there] == ours[there]).sum()),
        "mass": float(mass[there].sum(dtype=np.float64)),
    }


def count_audit(
    trainer: Floats,
    others: Mapping[str, Floats],
    response: NDArray[np.integer],
    top: dict[str, float] | None = None,
) -> Audit | None:
    """Compare the trainer's log-probs with what they may be; None where there are none.

    Args:
        trainer: The trainer's log-probs of the teacher, NaN where there is none. Shape (tokens,).
        others: What they may be, the teacher's own among them.
        response: Which response each token belongs to. Shape (tokens,).
        top: What `count_top` says of the likeliest ids.
    """
    there = np.isfinite(trainer)
    if not there.any() and not top:
        return None
    half_unit = rounding(trainer)
    teacher = others[TEACHER]
    bins = {name: _histogram(trainer - values, half_unit) for name, values in others.items()}
    for name, ours, theirs in (
        (AFTER, slice(None, -1), slice(1, None)),
        (BEFORE, slice(1, None), slice(None, -1)),
    ):
        same = response[ours] == response[theirs]
        bins[name] = _histogram(np.where(same, trainer[ours] - teacher[theirs], np.nan), half_unit)
    both = there & np.isfinite(teacher)
    return Audit(
        bins,
        n=int(there.sum()),
        zeros=int((trainer[there] == 0).sum()),
        rank_sum=float(both.sum() * _rank_correlation(trainer[both], teacher[both])),
        top=top,
    )


def _histogram(difference: Floats, half_unit: float = 0.0) -> Bins:
    compared = np.maximum(np.abs(difference[np.isfinite(difference)]) - half_unit, 0)
    return np.bincount(np.searchsorted(EDGES, compared), minlength=len(EDGES) + 1)


def _rank_correlation(x: Floats, y: Floats) -> float:
    """Return Spearman's correlation, 0 where one of them is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def add_audits(packed: Iterable[Mapping[str, Any] | None]) -> Audit | None:
    """Add up what `Audit.packed` wrote of several parts; None where none has any."""
    whole: Audit | None = None
    for one in packed:
        if not one:
            continue
        if whole is None:
            whole = Audit({}, 0, 0, 0.0)
        for name, places in one["bins"].items():
            bins = whole.bins.setdefault(name, np.zeros(len(EDGES) + 1, np.int64))
            for place, count in places:
                bins[place] += count
        whole = Audit(
            whole.bins,
            whole.n + one["n"],
            whole.zeros + one["zeros"],
            whole.rank_sum + one["rank_sum"],
            _added(whole.top or {}, one.get("top", {})),
        )
    return whole


def _added(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in one.keys() | other.keys()}


def diagnose_audit(
    audit: Audit, tempered: Mapping[float, Bins] | None = None, *, noise: float | None = None
) -> Alignment:
    """Name what the trainer's log-probs of the teacher are.

    The teacher's own at the run's temperature, unless something else fits far better.

    Args:
        audit: What was counted.
        tempered: Differences from the teacher at other temperatures, where they were computed.
        noise: Noise floor of our own log-probs, nat.
    """
    plain = audit.bins[TEACHER]
    n = int(plain.sum())
    if n < FEWEST_ALIGNED:
        detail = f"{n} tokens with a log-prob of the teacher: too few to compare{_of_top(audit)}"
        return Alignment(n, None, None, "too few tokens", detail)
    median, p95 = quantile(plain, 0.5), quantile(plain, 0.95)
    seen = f"median |difference| {median:.2g} nat, 95th percentile {p95:.2g} nat"
    if noise is not None:
        seen += f" (ours move by {noise:.2g} between batches)"
    seen += _of_top(audit)
    if audit.zeros >= _ZEROS * audit.n:
        return Alignment(n, median, p95, "all zero", "all are 0: the teacher was never asked")
    rivals = {name: bins for name, bins in audit.bins.items() if name != TEACHER}
    told = {name: (*FAULTS[name],) for name in rivals if name in FAULTS}
    for name in rivals.keys() - told.keys():
        fits = f"they fit the teacher's renormalised on {name}"
        told[name] = ("renormalised top K", fits)
    for temperature, bins in (tempered or {}).items():
        name = f"temperature {temperature:g}"
        rivals[name], told[name] = bins, ("other temperature", f"they fit {name}")
    fitting = [name for name, bins in rivals.items() if fits_instead(bins, plain)]
    if fitting:
        best = min(fitting, key=lambda name: (quantile(rivals[name], 0.95), _mean(rivals[name])))
        diagnosis, words = told[best]
        return Alignment(n, median, p95, diagnosis, f"{seen}; {words}")
    if is_aligned(plain):
        return Alignment(n, median, p95, "aligned", seen)
    rank = audit.rank_sum / n
    near = "no more than an untrained model has" if abs(rank) < _UNRELATED else "another model"
    return Alignment(
        n, median, p95, "other model", f"{seen}; rank correlation with ours {rank:.2f}: {near}"
    )


def _of_top(audit: Audit) -> str:
    """Say how the likeliest ids that the trainer saw compare with ours."""
    top = audit.top
    if not top:
        return ""
    return (
        f", its likeliest token is ours at {top['same'] / top['n']:.1%} of {int(top['n']):,}, its "
        f"ids hold {top['mass'] / top['n']:.3f} on average"
    )


def _mean(bins: Bins) -> float:
    """Return about the mean of what a histogram holds."""
    return float(bins @ np.append(EDGES, EDGES[-1]) / max(bins.sum(), 1))
