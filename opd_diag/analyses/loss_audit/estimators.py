"""What trainers put in the place of the reverse KL of a token, and the gradient that it sends.

p student, q teacher, x the token that stands there, a = log p - log q, all at the run's
temperature; P and Q are the masses of both on a set of tokens, A the part of the KL that it holds.

The gradient is that in the logit of x, of which only the sign counts. k1 is taken as the reward of
a policy gradient, whose gradient there is a(x) (1 - p(x)); everything else is differentiated.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.errors import OptionError
from opd_diag.tables.columns.tokens import SINCE_VERSION_3, truncated_grid

Floats = npt.NDArray[np.float64]

SAMPLED = ("k1", "k2", "k3")
SETS = ("student_top", "teacher_top")
FORMS = ("plain", "renormalised", "bucket")
# Mass of both models on the likeliest tokens of one, and the part of the KL that these hold.
COLUMNS = {
    "student_top": ("student_mass", "teacher_mass", "reverse_kl_top"),
    "teacher_top": ("student_mass_teacher_top", "teacher_top_mass", "reverse_kl_teacher_top"),
}
TOKEN_COLUMNS = ("student_logp", "teacher_logp", "student_rank", "teacher_rank", "reverse_kl")

# Masses are stored in float32. The teacher's tail is taken to be larger by their rounding, so that
# a KL with the tail as a bucket is never too large.
ROUNDING = 2.0**-23
# The sign of an exact gradient is taken where the log-ratio differs from the KL by more, in nat.
SMALLEST_GRADIENT = 1e-6

_SAMPLED_NAME = re.compile(r"(k[123])(?:_clamp_([0-9.]+))?")
_TOP_NAME = re.compile(r"(student_top|teacher_top)_([0-9]+)(?:_(renormalised|bucket))?")


class Estimator(NamedTuple):
    """One estimator of the reverse KL.

    Attributes:
        kind: `k1`, `k2`, `k3`, `student_top` or `teacher_top`.
        clamp: What its values are cut at, nat; None: they are not.
        k: K of a top set.
        form: Of a top set: `plain`, `renormalised` or `bucket`.
    """

    kind: str
    clamp: float | None = None
    k: int | None = None
    form: str = "plain"

    @property
    def name(self) -> str:
        """Its name in tables and options."""
        if self.k is None:
            return self.kind if self.clamp is None else f"{self.kind}_clamp_{self.clamp:g}"
        return f"{self.kind}_{self.k}" + ("" if self.form == "plain" else f"_{self.form}")

    @property
    def is_sampled(self) -> bool:
        """Whether it reads the token that stands there alone."""
        return self.k is None


class Values(NamedTuple):
    """An estimator on some tokens. Shape (tokens,) each.

    Attributes:
        value: Its values, nat; NaN where there is none.
        sign: Sign of its gradient in the logit of the token; 0: no gradient.
        at_clamp: Whether the value was cut.
    """

    value: Floats
    sign: Floats
    at_clamp: npt.NDArray[np.bool_]


def named_estimator(name: str, k_grid: Sequence[int]) -> Estimator:
    """Return the estimator of a name.

    Args:
        name: As in the tables, such as `k3_clamp_10` or `student_top_16_bucket`.
        k_grid: The K that there are.

    Raises:
        OptionError: If there is none of that name.
    """
    if match := _SAMPLED_NAME.fullmatch(name):
        kind, clamp = match.groups()
        try:
            return Estimator(kind, None if clamp is None else _above_0(float(clamp)))
        except ValueError:
            pass
    elif (match := _TOP_NAME.fullmatch(name)) and int(match[2]) in k_grid:
        return Estimator(match[1], k=int(match[2]), form=match[3] or "plain")
    raise OptionError(
        f"loss: {name!r}; expected k1, k2 or k3, with _clamp_C or without, or student_top_K or "
        "teacher_top_K, with _renormalised, _bucket or neither, K of "
        f"{', '.join(map(str, k_grid))}"
    )


def _above_0(clamp: float) -> float:
    if not clamp > 0:
        raise ValueError
    return clamp


def list_estimators(
    clamps: Sequence[float], ks: Sequence[int], own: Estimator
) -> tuple[Estimator, ...]:
    """List the estimators that are compared, `own` among them.

    Args:
        clamps: Where k1, k2 and k3 are cut.
        ks: The K of both top sets.
        own: The loss that the finding asks about.
    """
    sampled = [Estimator(kind, clamp) for kind in SAMPLED for clamp in (None, *clamps)]
    tops = [Estimator(kind, k=k, form=form) for kind in SETS for k in ks for form in FORMS]
    return tuple(dict.fromkeys((*sampled, *tops, own)))


def needed_columns(
    estimators: Sequence[Estimator], k_grid: Sequence[int]
) -> dict[str, list[pl.Expr]]:
    """Return what is read of the token table: under "" for all, under a kind for a top set."""
    wanted = {"": [pl.col(name) for name in TOKEN_COLUMNS]}
    few = truncated_grid(k_grid)
    for kind, columns in COLUMNS.items():
        ks = sorted({one.k for one in estimators if one.kind == kind and one.k is not None})
        wanted[kind] = []
        for column in columns:
            grid = few if column in SINCE_VERSION_3 else k_grid
            wanted[kind] += [
                pl.col(column).arr.get(grid.index(k)).alias(f"{column}_{k}") for k in ks
            ]
    return wanted


class Rows:
    """Columns of some tokens, as float64."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame
        self.log_ratio = self["student_logp"] - self["teacher_logp"]
        self.exact = self["reverse_kl"]
        p = np.exp(self["student_logp"])
        self.exact_gradient = p * (self.log_ratio - self.exact)

    def __getitem__(self, name: str) -> Floats:
        """Read a column; null is NaN."""
        return self._frame[name].cast(pl.Float64).to_numpy()

    @property
    def exact_sign(self) -> Floats:
        """Sign of the gradient of the exact KL in the logit of the token."""
        difference = self.log_ratio - self.exact
        return np.where(np.abs(difference) > SMALLEST_GRADIENT, np.sign(difference), 0.0)


def evaluate(estimator: Estimator, rows: Rows) -> Values:
    """Compute an estimator on some tokens."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if estimator.is_sampled:
            return _sampled(estimator, rows.log_ratio)
        return _top(estimator, rows)


def _sampled(estimator: Estimator, a: Floats) -> Values:
    """Compute k1 = a, k2 = a² / 2 or k3 = exp(-a) - 1 + a."""
    value = {"k1": a, "k2": a * a / 2, "k3": np.expm1(-a) + a}[estimator.kind]
    sign, cut = np.sign(a), np.zeros(a.shape, np.bool_)
    if estimator.clamp is not None:
        cut = np.abs(value) > estimator.clamp
        value = np.clip(value, -estimator.clamp, estimator.clamp)
        if estimator.kind != "k1":  # what is differentiated has no slope where it is cut
            sign = np.where(cut, 0.0, sign)
    return Values(value, sign, cut)


def _top(estimator: Estimator, rows: Rows) -> Values:
    """Compute what is made of the likeliest tokens of one model."""
    student, teacher, part = (rows[f"{column}_{estimator.k}"] for column in COLUMNS[estimator.kind])
    rank = rows["student_rank" if estimator.kind == "student_top" else "teacher_rank"]
    inside, a = rank <= (estimator.k or 0), rows.log_ratio
    none = np.zeros(a.shape, np.bool_)
    if estimator.form == "plain":
        slope = np.where(inside, a + 1, 0.0) - part - student
        return Values(part, np.sign(slope), none)
    if estimator.form == "renormalised":
        value = part / student + np.log(teacher / student)
        return Values(value, np.where(inside, np.sign(a - part / student), 0.0), none)
    tail, other = (np.maximum(1 - mass, 0.0) for mass in (student, teacher))
    ratio = np.log(np.maximum(tail, ROUNDING) / (other + ROUNDING))
    value = part + tail * ratio
    return Values(value, np.sign(np.where(inside, a, ratio) - value), none)
