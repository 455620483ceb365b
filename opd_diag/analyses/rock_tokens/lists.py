"""Build the tables of lists: groups, cutoff, selectors."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import polars.selectors as cs

from opd_diag.analyses.rock_tokens.cutoff import (
    K_LIST,
    SPREAD,
    agreement,
    other_half,
    same_rows,
    split_totals,
    suggested_k,
)
from opd_diag.analyses.rock_tokens.frames import as_table, interval_columns
from opd_diag.analyses.rock_tokens.persistence import GROUPS, group_changes, label
from opd_diag.analyses.rock_tokens.question import Question
from opd_diag.analyses.rock_tokens.selectors import SELECTORS
from opd_diag.stats.intervals import FEWEST_CLUSTERS, TOO_FEW
from opd_diag.stats.ranks import Agreement
from opd_diag.tables.columns.rock_tokens import ROCK_CUTOFF, ROCK_GROUPS, ROCK_SELECTORS

Mask: TypeAlias = npt.NDArray[np.bool_]

NO_STABLE_LIST = "no stable list: too few prompts"
TOO_FEW_TYPES = "fewer types than twice K: J_c says little"
SIGNED = "the loss can be negative: no coverage, no lift"
NOT_PAIRED = "needs two checkpoints on the same tokens"
CUTOFF_SELECTORS = ("R", "frequency")
LEVEL = 0.05


def group_table(asked: Question, chosen: Mask, rows: pl.DataFrame) -> pl.DataFrame:
    """Build one row per checkpoint, group, and side of the prompts that measures it.

    Args:
        asked: What is asked.
        chosen: Members by the half that chose, shape (2, groups, types of `asked.panel`).
        rows: The table of types, whose labels are counted.
    """
    options, groups = asked.options, len(GROUPS)
    changes = group_changes(asked.panel, chosen, signed=options.signed, seed=options.seed)
    frames = []
    for place, (name, found) in enumerate(zip(asked.panel.names, changes, strict=True)):
        values: dict[str, Any] = {
            "group": [*GROUPS, *GROUPS],
            "measured_on": ["other half"] * groups + ["same half"] * groups,
            "n": found.n,
            **interval_columns("level", found.level),
            "reason": pl.Series(found.level.reason.tolist()).replace("", None),
        }
        if place:
            values |= interval_columns("change", found.change)
            values |= interval_columns("relative_change", found.relative)
            values["label"] = label(found.relative, np.ones(2 * groups, np.bool_))
        if place == len(changes) - 1 > 0:
            values |= _label_counts(rows, 2 * groups)
        common = asked.common | {"checkpoint": name}
        frames.append(as_table(values, ROCK_GROUPS, "rock_groups", **common))
    return pl.concat(frames)


def _label_counts(rows: pl.DataFrame, size: int) -> dict[str, Any]:
    """Count the labels of single rocks, for the row of rocks on the other half."""
    labels = rows.filter(pl.col("label").is_not_null() & pl.col("is_rock"))["label"]
    counts = {
        "n_labelled": labels.len(),
        **{f"n_{kind}": (labels == kind).sum() for kind in ("stagnant", "changed", "undecided")},
        "n_by_chance": LEVEL * labels.len(),
    }
    return {
        name: pl.Series([count] + [None] * (size - 1), strict=False)
        for name, count in counts.items()
    }


def list_tables(asked: Question) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Build the table of cutoffs (R and frequency, many K) and that of selectors (all, one K)."""
    options, types = asked.options, int(asked.eligible.sum())
    ks = sorted({options.top, *(k for k in K_LIST if k <= types)})
    lists = [(name, k) for name in CUTOFF_SELECTORS for k in ks]
    lists += [(name, options.top) for name in SELECTORS]
    naive, honest = (
        measure(asked.sums, lists, asked.eligible, options.min_count, seed=options.seed)
        for measure in (same_rows, other_half)
    )
    shares = {
        "position_share": naive.positions,
        "coverage": naive.coverage,
        "cross_coverage": honest.coverage,
        "lift": naive.lift,
        "cross_lift": honest.lift,
        "grad_share": naive.gradient,
    }
    if options.signed:
        shares = {name: shares[name] for name in ("position_share", "grad_share")}
    named = [interval_columns(name, found) for name, found in shares.items()]
    measured = {name: values for one in named for name, values in one.items()}
    splits = split_totals(asked.sums, seed=options.seed)
    found = {
        name: agreement(name, splits, ks, asked.eligible, options.min_count, seed=options.seed)
        for name in SELECTORS
    }
    cutoffs = [_stability(asked, name, ks, found[name], suggests=True) for name in CUTOFF_SELECTORS]
    top = slice(ks.index(options.top), ks.index(options.top) + 1)
    selectors = [
        _stability(asked, name, ks[top], Agreement(*(a[:, top] for a in one)), suggests=False)
        for name, one in found.items()
    ]
    count = len(ks) * len(CUTOFF_SELECTORS)
    cutoff = pl.concat(cutoffs).hstack(pl.DataFrame(measured)[:count])
    selector = pl.concat(selectors).drop("suggested_K").hstack(pl.DataFrame(measured)[count:])
    if asked.pairing != "paired":
        selector = _without_joint(selector)
    return (
        as_table(cutoff.to_dict(), ROCK_CUTOFF, "rock_cutoff", **asked.common),
        as_table(selector.to_dict(), ROCK_SELECTORS, "rock_selectors", **asked.common),
    )


def _stability(
    asked: Question,
    selector: str,
    ks: Sequence[int],
    found: Agreement,
    *,
    suggests: bool,
) -> pl.DataFrame:
    """Describe how well the lists of one selector agree between halves, one row per K."""
    options, types = asked.options, int(asked.eligible.sum())
    enough = len(asked.sums.prompt_id) >= FEWEST_CLUSTERS
    k = suggested_k(ks, found.corrected, types) if enough else None
    reasons = [
        [
            TOO_FEW if not enough else NO_STABLE_LIST if suggests and k is None else None,
            TOO_FEW_TYPES if 2 * size > types else None,
            SIGNED if options.signed else None,
        ]
        for size in ks
    ]
    return pl.DataFrame(
        {
            "selector": [selector] * len(ks),
            "K": ks,
            "n": [types] * len(ks),
            **_agreement_columns(found, enough),
            "suggested_K": pl.Series([k] * len(ks), dtype=pl.UInt32),
            "reason": ["; ".join(filter(None, parts)) or None for parts in reasons],
        },
        schema_overrides={"reason": pl.String},
    )


def _without_joint(selectors: pl.DataFrame) -> pl.DataFrame:
    """Withhold the joint selector where there are no two losses of the same tokens."""
    joint = pl.col("selector") == "joint"
    return selectors.with_columns(
        pl.when(~joint).then(cs.float()),
        reason=pl.when(joint).then(pl.lit(NOT_PAIRED)).otherwise("reason"),
    )


def _agreement_columns(found: Agreement, enough: bool) -> dict[str, Any]:
    """Give mean and spread over splits of both indices, nothing from too few prompts."""
    values: dict[str, Any] = {}
    for name, splits in (("J", found.jaccard), ("J_c", found.corrected)):
        shown = splits if enough else np.full(splits.shape, np.nan)
        low, high = np.quantile(shown, SPREAD, axis=0)
        values |= {name: shown.mean(axis=0), f"{name}_p05": low, f"{name}_p95": high}
    return values
