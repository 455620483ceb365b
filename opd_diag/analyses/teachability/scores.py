"""Give every selector's scores: which tokens it would train on first."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.teachability.contexts import Contexts, Floats
from opd_diag.analyses.teachability.gains import CONSTANT
from opd_diag.stats.hashing import hashed_uniform
from opd_diag.tables.source import Source, finished_result

RANDOM = "random"
FEATURE_SELECTORS = {
    "D_learn": "d_learn",
    "D": "divergence",
    "D_incompat": "d_incompat",
    "TIP": "tip",
    "soft-OR": "soft_or",
    "H": "entropy",
    "C": "compatibility",
}
RESULTS = {
    "rock-free": "rock_tokens",
    "before-release": "release_points",
    "outside-trap": "agreement_traps",
}


class Selector(NamedTuple):
    """What orders the tokens, or why it cannot.

    Attributes:
        name: Name of the selector.
        score: Larger is chosen first, -inf never. Shape (n,). None: there is none.
        reason: Why there is none.
    """

    name: str
    score: Floats | None
    reason: str


def selectors(contexts: Contexts, source: Source, *, seed: int) -> Iterator[Selector]:
    """Give all selectors, `random` last, one after the other: each holds a number per token."""
    for name, feature in FEATURE_SELECTORS.items():
        if contexts.constant(feature) or not np.ptp(contexts.column(feature)):
            yield Selector(name, None, CONSTANT)
        else:
            yield Selector(name, contexts.column(feature), "")
    for name, result in RESULTS.items():
        table = finished_result(source, result)
        rows = None if table is None else table.filter(pl.col("checkpoint") == contexts.first)
        if rows is None or rows.is_empty():
            command = result.replace("_", "-")
            yield Selector(
                name,
                None,
                f"no result {result!r} of {contexts.first!r}: run `opd-diag analyze {command}`",
            )
            continue
        allowed = _not_rock(contexts, rows) if name == "rock-free" else _kept(contexts, rows, name)
        yield Selector(name, np.where(allowed, 0.0, -np.inf), "")
    keys = contexts.column("rollout"), contexts.column("position")
    yield Selector(RANDOM, hashed_uniform(*keys, seed=seed + 1), "")


def _not_rock(contexts: Contexts, rocks: pl.DataFrame) -> npt.NDArray[np.bool_]:
    token_id = contexts.column("token_id")
    ids = rocks.filter("is_rock")["token_id"].to_numpy()
    is_rock = np.zeros(1 + max(int(token_id.max()), int(ids.max(initial=0))), np.bool_)
    is_rock[ids] = True
    return np.asarray(~is_rock[token_id])


def _kept(contexts: Contexts, table: pl.DataFrame, name: str) -> npt.NDArray[np.bool_]:
    """Allow the tokens before a rollout's cut; all where it has none, none where it is unknown."""
    cut, applies = {
        "before-release": ("release_token", "accepted"),
        "outside-trap": ("cut_token", "triggered"),
    }[name]
    end = pl.when(pl.col(applies).fill_null(False)).then(pl.col(cut)).otherwise(np.inf)
    ends = contexts.rollouts.select("rollout").join(
        table.select("rollout", end=end.cast(pl.Float64)),
        on="rollout",
        how="left",
        maintain_order="left",
    )
    limit = ends["end"].fill_null(0.0).to_numpy()
    return np.asarray(contexts.column("position") < limit[contexts.rollout])
