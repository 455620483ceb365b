"""Say why there is no number, or what weakens one: the texts that stand in `reason` columns."""

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.stats.bootstrap import Interval
from opd_diag.stats.intervals import CARRIED, CONSTANT, FEW, TOO_FEW, UNDEFINED

__all__ = [
    "CARRIED",
    "CONSTANT",
    "FEW",
    "NEEDS_SECOND",
    "NO_OUTCOME",
    "ONE_CHECKPOINT",
    "TOO_FEW",
    "UNDEFINED",
    "UNKNOWN",
    "first",
    "note",
    "notes",
]

NEEDS_SECOND = "needs a second checkpoint"
NO_OUTCOME = "no rollout says whether it is correct"
UNKNOWN = "unknown in this run"
ONE_CHECKPOINT = "one checkpoint: a change needs two on the same tokens"


def note(text: str, where: pl.Expr) -> pl.Expr:
    """Say something of the rows for which a condition holds, for `notes`."""
    return pl.when(where).then(pl.lit(text))


def notes(*parts: pl.Expr) -> pl.Expr:
    """Join what is said of a row with semicolons, as the column `reason`; null where nothing is."""
    joined = pl.concat_str(parts, separator="; ", ignore_nulls=True)
    return pl.when(joined != "").then(joined).alias("reason")


def first(*intervals: Interval) -> npt.NDArray[np.str_]:
    """Give each statistic the first reason that one of its intervals has, "" for none."""
    texts = [np.atleast_1d(interval.reason).astype(np.str_) for interval in intervals]
    return np.select([text != "" for text in texts], texts, "")
