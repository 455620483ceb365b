"""Measure what every selector would have found at every budget."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.teachability.contexts import KLS, ONE_CHECKPOINT, Contexts, Floats
from opd_diag.analyses.teachability.scores import RANDOM, selectors
from opd_diag.analyses.teachability.table import as_table, interval_columns
from opd_diag.errors import OptionError
from opd_diag.stats import bootstrap
from opd_diag.stats.selection import choose
from opd_diag.tables.columns.teachability import TEACHABILITY_SELECTORS
from opd_diag.tables.source import Source

BUDGETS = (0.01, 0.03, 0.05, 0.10, 0.20, 0.50)
PER = ("run", "rollout")
NOTHING_GAINED = "all gain is not above 0: no share of it"
NOTHING_CHOSEN = "no token may be chosen"


class Chosen(NamedTuple):
    """Tokens that a selector chooses at rising budgets.

    Attributes:
        level: Index of the smallest budget that chooses each token. Shape (n,). None: no selector.
        tied: Tokens picked by the hash among equal scores, for each budget.
        sums: What the chosen add up to in each prompt; shape (prompts, budgets) each.
        reason: Why there is no selector.
    """

    level: npt.NDArray[np.uint8] | None
    tied: npt.NDArray[np.int64]
    sums: Mapping[str, Floats]
    reason: str


def check_budgets(budgets: Sequence[float], per: str) -> None:
    """Refuse budgets that are no rising shares.

    Raises:
        OptionError: If they are not, or `per` is unknown.
    """
    if per not in PER:
        raise OptionError(f"budget_per: {per!r}; expected one of {', '.join(PER)}")
    rising = all(a < b for a, b in pairwise(budgets))
    if not budgets or not rising or not 0 < budgets[0] <= budgets[-1] <= 1:
        raise OptionError(f"budgets: {list(budgets)}; expected rising shares above 0, at most 1")


def choose_tokens(
    contexts: Contexts, source: Source, budgets: Sequence[float], per: str, *, seed: int
) -> dict[str, Chosen]:
    """Let every selector choose its tokens."""
    groups = contexts.rollout if per == "rollout" else None
    weights = {"n": None, "position": contexts.column("position").astype(np.float64)}
    if contexts.last is not None:
        weights |= {kl: contexts.gain(kl).astype(np.float64) for kl in KLS}
    width = len(budgets) + 1
    prompts = len(contexts.starts)
    found = {}
    for selector in selectors(contexts, source, seed=seed):
        if selector.score is None:
            none = np.zeros(len(budgets), np.int64)
            found[selector.name] = Chosen(None, none, {}, selector.reason)
            continue
        choice = choose(selector.score, budgets, contexts.order, groups)
        key = contexts.prompt * width + choice.level
        sums = {
            name: np.bincount(key, value, prompts * width).reshape(prompts, width)[:, :-1]
            for name, value in weights.items()
        }
        added = {name: np.cumsum(value, axis=1, dtype=np.float64) for name, value in sums.items()}
        found[selector.name] = Chosen(choice.level, choice.tied, added, "")
    return found


def selectors_table(
    contexts: Contexts,
    chosen: Mapping[str, Chosen],
    budgets: Sequence[float],
    per: str,
    *,
    seed: int,
) -> pl.DataFrame:
    """Average the gain of what each selector chooses, beside a random choice of the same size."""
    there = {name: choice for name, choice in chosen.items() if choice.level is not None}
    sums = {
        name: np.concatenate([choice.sums[name] for choice in there.values()], axis=1)
        for name in there[RANDOM].sums
    }
    n = sums["n"].sum(axis=0)
    tied = np.concatenate([choice.tied for choice in there.values()])
    columns: dict[str, Any] = contexts.head | {
        "selector": np.repeat(list(there), len(budgets)),
        "budget": np.tile(budgets, len(there)),
        "budget_per": per,
        "n": n,
        "n_prompts": (sums["n"] > 0).sum(axis=0),
        "actual_budget": n / len(contexts.prompt),
        "tied_share": tied / np.maximum(n, 1),
    }
    columns |= interval_columns("position", bootstrap.ratio(sums["position"], sums["n"], seed=seed))
    none = contexts.head | {
        "selector": np.repeat([name for name in chosen if name not in there], len(budgets)),
        "budget": np.tile(budgets, len(chosen) - len(there)),
        "budget_per": per,
        "n": 0,
        "n_prompts": 0,
        "reason": np.repeat([c.reason for c in chosen.values() if c.level is None], len(budgets)),
    }
    frames = []
    for kl in KLS:
        measured = _gain_columns(contexts, sums, kl, len(budgets), seed)
        frames.append(as_table(columns | measured | {"kl": kl}, TEACHABILITY_SELECTORS))
        frames.append(as_table(none | {"kl": kl}, TEACHABILITY_SELECTORS))
    order = pl.Enum(list(chosen))
    return pl.concat(frames).sort("kl", pl.col("selector").cast(order), maintain_order=True)


def _gain_columns(
    contexts: Contexts,
    sums: Mapping[str, Floats],
    kl: str,
    budgets: int,
    seed: int,
) -> dict[str, Any]:
    if contexts.last is None:
        return {"reason": ONE_CHECKPOINT}
    x, n = sums[kl], sums["n"]
    found = bootstrap.ratio(x, n, seed=seed)
    columns = interval_columns("gain", found)
    # Random comes last: its columns, once for each selector.
    chance = [np.tile(a[:, -budgets:], a.shape[1] // budgets) for a in (x, n)]
    over = interval_columns("over_random", bootstrap.ratio_difference(x, n, *chance, seed=seed))
    for values in over.values():
        values[-budgets:] = np.nan
    reason = np.where(n.sum(axis=0) == 0, NOTHING_CHOSEN, found.reason)
    whole = contexts.prompt_sums(contexts.gain(kl))
    if whole.sum() > 0:
        share = bootstrap.ratio(x, whole[:, None], seed=seed)
        columns |= interval_columns("captured", share)
    else:
        reason = np.where(reason == "", NOTHING_GAINED, reason)
    return columns | over | {"reason": reason}
