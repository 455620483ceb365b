"""Measure what every selector would have found at every budget."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.reasons import ONE_CHECKPOINT
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.analyses.teachability.contexts import Contexts, Floats
from opd_diag.analyses.teachability.features import tie_order
from opd_diag.analyses.teachability.gains import CONSTANT
from opd_diag.analyses.teachability.options import KLS, Options
from opd_diag.stats.hashing import hashed_uniform
from opd_diag.stats.p_values import holm, sign_flip_p
from opd_diag.stats.selection import choose
from opd_diag.tables.columns.teachability import DIVERGENCE, RANDOM, REGRESSION
from opd_diag.tables.source import Source, finished_result

FEATURE_SELECTORS = {
    "D_learn": "d_learn",
    DIVERGENCE: "divergence",
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
NOTHING_GAINED = "all gain is not above 0: no share of it"
NOTHING_CHOSEN = "no token may be chosen"


class Chosen(NamedTuple):
    """Tokens that a selector chooses at rising budgets.

    Attributes:
        level: Index of the smallest budget that chooses each token. Shape (n,). None: no selector.
        tied: Tokens picked among equal scores, for each budget.
        sums: What the chosen add up to in each prompt; shape (prompts, budgets) each.
        reason: Why there is no selector.
    """

    level: npt.NDArray[np.uint8] | None
    tied: npt.NDArray[np.int64]
    sums: Mapping[str, Floats]
    reason: str


def choose_tokens(contexts: Contexts, source: Source, options: Options) -> dict[str, Chosen]:
    """Let every selector choose its tokens."""
    budgets = options.budgets
    groups = contexts.rollout if options.budget_per == "rollout" else None
    weights = {"n": None, "position": contexts.column("position").astype(np.float64)}
    if contexts.has_gain:
        weights |= {kl: contexts.gain(kl).astype(np.float64) for kl in KLS}
    divergence = contexts.column("divergence")
    width = len(budgets) + 1
    prompts = contexts.prompts.count
    chosen = {}
    for name, score, reason in _scores(contexts, source):
        if score is None:
            none = np.zeros(len(budgets), np.int64)
            chosen[name] = Chosen(None, none, {}, reason)
            continue
        order = tie_order(FEATURE_SELECTORS.get(name, name), divergence, contexts.order)
        choice = choose(score, budgets, order, groups)
        key = contexts.prompts.code * width + choice.level
        sums = {
            of: np.bincount(key, value, prompts * width).reshape(prompts, width)[:, :-1]
            for of, value in weights.items()
        }
        summed = {of: np.cumsum(value, axis=1, dtype=np.float64) for of, value in sums.items()}
        chosen[name] = Chosen(choice.level, choice.tied, summed, "")
    return chosen


def selectors_table(
    contexts: Contexts, chosen: Mapping[str, Chosen], options: Options
) -> pl.DataFrame:
    """Average the gain of what each selector chooses, against all tokens and against divergence."""
    budgets = options.budgets
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
        "budget_per": options.budget_per,
        "n": n,
        "n_prompts": (sums["n"] > 0).sum(axis=0),
        "actual_budget": n / contexts.n,
        "tied_share": tied / np.maximum(n, 1),
    }
    columns |= interval_columns("position", contexts.prompts.ratio(sums["position"], sums["n"]))
    none = contexts.head | {
        "selector": np.repeat([name for name in chosen if name not in there], len(budgets)),
        "budget": np.tile(budgets, len(chosen) - len(there)),
        "budget_per": options.budget_per,
        "n": 0,
        "n_prompts": 0,
        "reason": np.repeat([c.reason for c in chosen.values() if c.level is None], len(budgets)),
    }
    parts = []
    for kl in contexts.kls:
        measured = _gain_columns(contexts, sums, kl, list(there), len(budgets))
        parts.append(columns | measured | {"kl": kl})
        if len(there) < len(chosen):
            parts.append(none | {"kl": kl})
    table = result_table("teachability_selectors", parts)
    orders = {"kl": pl.Enum(contexts.kls), "selector": pl.Enum(list(chosen))}
    return table.sort(
        *(pl.col(name).cast(order) for name, order in orders.items()), maintain_order=True
    )


def _gain_columns(
    contexts: Contexts, sums: Mapping[str, Floats], kl: str, names: list[str], budgets: int
) -> dict[str, Any]:
    if not contexts.has_gain:
        return {"reason": ONE_CHECKPOINT}
    prompts = contexts.prompts
    x, n = sums[kl], sums["n"]
    gain = prompts.ratio(x, n)
    columns = interval_columns("gain", gain)
    whole = contexts.prompt_sums(contexts.gain(kl))[:, None]
    tokens = prompts.sums(np.ones(contexts.n))[:, None]
    columns |= interval_columns("over_mean", prompts.difference(x, n, whole, tokens))
    reason = np.where(n.sum(axis=0) == 0, NOTHING_CHOSEN, gain.reason)
    if whole.sum() <= 0:
        columns["reason"] = np.where(reason == "", NOTHING_GAINED, reason)
        return columns
    captured = prompts.ratio(x, whole)
    columns |= interval_columns("captured", captured)
    reason = np.where(reason == "", captured.reason, reason)
    if DIVERGENCE in names:
        place = names.index(DIVERGENCE) * budgets
        above = x - np.tile(x[:, place : place + budgets], len(names))
        over = interval_columns("over_divergence", prompts.ratio(above, whole))
        asked = np.repeat([name not in (DIVERGENCE, RANDOM) for name in names], budgets)
        asked &= n.sum(axis=0) > 0
        columns |= {name: np.where(asked, values, np.nan) for name, values in over.items()}
        if contexts.checkpoints.out_of_time:
            p = np.where(asked, sign_flip_p(above, seed=contexts.seed), np.nan)
            adjusted = np.column_stack([holm(of) for of in p.reshape(-1, budgets).T])
            columns |= {"p": p, "p_adjusted": adjusted.ravel()}
    if not contexts.checkpoints.out_of_time:
        reason = np.where(reason == "", REGRESSION, reason)
    return columns | {"reason": reason}


def _scores(contexts: Contexts, source: Source) -> Iterator[tuple[str, Floats | None, str]]:
    """Give name and scores of every selector, `random` last; or why it has none.

    The largest score is chosen first, -inf never. One after the other: each is a number per token.
    """
    first = contexts.checkpoints.features_from
    for name, feature in FEATURE_SELECTORS.items():
        if contexts.constant(feature) or not np.ptp(contexts.column(feature)):
            yield name, None, CONSTANT
        else:
            yield name, contexts.column(feature), ""
    for name, result in RESULTS.items():
        table = finished_result(source, result)
        rows = None if table is None else table.filter(pl.col("checkpoint") == first)
        if rows is None or rows.is_empty():
            command = f"opd-diag analyze {result.replace('_', '-')}"
            why = f"no result {result!r}: run `{command}`"
            if table is not None:
                why = f"{result!r} holds no row of {first!r}, whose features choose the tokens"
            yield name, None, why
            continue
        allowed = _not_rock(contexts, rows) if name == "rock-free" else _kept(contexts, rows, name)
        yield name, np.where(allowed, 0.0, -np.inf), ""
    keys = contexts.column("rollout"), contexts.column("position")
    yield RANDOM, hashed_uniform(*keys, seed=contexts.seed + 1), ""


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
