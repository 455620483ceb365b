"""Build the table of token types."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.rock_tokens.context import FEWEST_MEMBERS, MOST_MEMBERS, recurring_contexts
from opd_diag.analyses.rock_tokens.frames import as_table, interval_columns, reasons, said, spread
from opd_diag.analyses.rock_tokens.gradients import type_gradients
from opd_diag.analyses.rock_tokens.null import lift_p
from opd_diag.analyses.rock_tokens.persistence import label, type_changes
from opd_diag.analyses.rock_tokens.question import Question
from opd_diag.analyses.rock_tokens.sums import total
from opd_diag.analyses.rock_tokens.types import (
    FEWEST_OCCURRENCES,
    FEWEST_PROMPTS,
    funnel,
    trusted,
    type_intervals,
)
from opd_diag.stats.bootstrap import Interval
from opd_diag.stats.intervals import CARRIED, ENOUGH_CLUSTERS
from opd_diag.tables.columns.rock_tokens import ROCK_TOKENS
from opd_diag.tables.gradients import GradientSums

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]

_CARRIED = "carried: "


def type_rows(
    asked: Question,
    rock_by_half: Mask,
    gradients: GradientSums | None,
    vocabulary: pl.DataFrame | None,
    noise: float | None,
) -> pl.DataFrame:
    """Build one row per type that occurs, by falling R.

    Args:
        asked: What is asked.
        rock_by_half: Rocks by the half of the prompts that chose them, among the types of
            `asked.panel`. Shape (2, types).
        gradients: Gradient sums of the first checkpoint, or None.
        vocabulary: What the types spell, or None.
        noise: Noise floor of the loss, nat, or None where it is not known.
    """
    sums, options = asked.sums, asked.options
    detailed = np.flatnonzero(asked.ranks <= options.detail)
    values = _totals(asked) | _intervals(asked, detailed) | _contexts(asked, detailed)
    values |= _controls(asked) | _changes(asked, detailed, rock_by_half)
    if gradients is not None:
        values |= type_gradients(gradients, sums.token_id)._asdict()
    carried = {name: values.pop(name) for name in list(values) if name.startswith(_CARRIED)}
    table = as_table(
        values | {"token_id": sums.token_id}, ROCK_TOKENS, "rock_tokens", **asked.common
    ).with_columns(pl.Series(name, where == 1) for name, where in carried.items())
    if vocabulary is not None:
        texts = vocabulary.select("token_id", "text")
        table = table.drop("text").join(texts, on="token_id", how="left")
    return (
        table.filter(pl.col("n") > 0)
        .with_columns(_reason(asked, gradients is not None, noise, list(carried)))
        .select(column.name for column in ROCK_TOKENS)
        .sort("R", "token_id", descending=[True, False])
    )


def _totals(asked: Question) -> dict[str, Any]:
    """Give what needs no bootstrap: counts, shares, lift, its null and the funnel."""
    sums, signed = asked.sums, asked.options.signed
    n, x, g = (total(a) for a in (sums.n[0], sums.x[0], sums.gradient))
    nothing = np.full(n.size, np.nan)
    low, high = funnel(sums, signed=signed)
    p, adjusted = lift_p(sums, asked.occurrences, asked.options.seed)
    mean = _ratio(x, n)
    return {
        "n": n,
        "n_prompts": np.bincount(sums.n[0].tocoo().col, minlength=n.size),
        "position_share": n / n.sum(),
        "mean_loss": np.nan_to_num(mean),
        "mean_loss_p10": low,
        "mean_loss_p90": high,
        "R": x,
        "rank": np.where(asked.eligible, asked.ranks, np.nan),
        "is_rock": asked.is_rock,
        "loss_share": nothing if signed else _ratio(x, np.full(n.size, x.sum())),
        "lift": nothing if signed else _ratio(mean, np.full(n.size, x.sum() / n.sum())),
        "lift_p": p,
        "lift_p_adjusted": adjusted,
        "grad_share": _ratio(g, np.full(n.size, g.sum())),
    }


def _intervals(asked: Question, detailed: Integers) -> dict[str, Floats]:
    usable = detailed[trusted(asked.sums.n[0])[detailed]]
    if not usable.size:
        return {}
    found = type_intervals(
        asked.sums, usable, asked.eligible, signed=asked.options.signed, seed=asked.options.seed
    )
    wanted = {"R": found.R, "rank": found.rank, "grad_share": found.grad_share}
    if not asked.options.signed:
        wanted |= {"loss_share": found.loss_share, "lift": found.lift}
    size = asked.sums.token_id.size
    return {
        name: spread(values, size, usable)
        for what, interval in wanted.items()
        for name, values in _ends(what, interval).items()
        if name != what
    }


def _ends(what: str, interval: Interval) -> dict[str, Any]:
    """Name an estimate and its ends, and where these are withheld as a few prompts carry it."""
    return interval_columns(what, interval) | {f"{_CARRIED}{what}": interval.reason == CARRIED}


def _contexts(asked: Question, detailed: Integers) -> dict[str, Floats]:
    """Give the context stage; a second run has no loss of its own for the first one's tokens."""
    if asked.pairing == "unpaired":
        return {}
    options, size = asked.options, asked.sums.token_id.size
    found = recurring_contexts(
        asked.occurrences, detailed, tau=options.tau, eta=options.eta, seed=options.seed
    )
    n, R = total(asked.sums.n[0]), total(asked.sums.x[0])
    members = spread([c.members for c in found], size, detailed)
    kept = spread([c.kept for c in found], size, detailed)
    return {
        "n_persistent": members,
        "recurring_share": _ratio(kept, members),
        "recurring_share_null": spread([c.null_share for c in found], size, detailed),
        "CCR": _ratio(kept, n),
        "R_ctx": R * _ratio(kept, n),
    }


def _controls(asked: Question) -> dict[str, Floats]:
    found, size = asked.controls, asked.sums.token_id.size
    control = np.where(found.control >= 0, asked.sums.token_id[found.control], np.nan)
    return {
        "control_token_id": spread(control, size, found.rock),
        "match_distance": spread(found.distance, size, found.rock),
    }


def _changes(asked: Question, detailed: Integers, rock_by_half: Mask) -> dict[str, Any]:
    """Give the change from first to last of the detailed types and of all that a half chose."""
    if asked.pairing == "one checkpoint":
        return {}
    panel, token_id = asked.panel, asked.sums.token_id
    wanted = np.isin(panel.token_id, token_id[detailed]) | rock_by_half.any(axis=0)
    items = np.flatnonzero(wanted)
    found = type_changes(
        panel, items, rock_by_half, signed=asked.options.signed, seed=asked.options.seed
    )
    rows = np.searchsorted(token_id, panel.token_id[items])
    one_half = rock_by_half[:, items].sum(axis=0) == 1
    values: dict[str, Any] = {"n_measured": spread(found.n, token_id.size, rows)}
    named = {"mean_first": found.first, "mean_last": found.last, "relative_change": found.relative}
    for what, interval in named.items():
        for name, numbers in _ends(what, _only(interval, found.usable)).items():
            values[name] = spread(numbers, token_id.size, rows)
    texts = {
        "measured_on": np.where(one_half, "other half", "both halves").tolist(),
        "label": label(found.relative, found.usable),
    }
    for name, words in texts.items():
        whole: list[str | None] = [None] * token_id.size
        for row, word in zip(rows.tolist(), words, strict=True):
            whole[row] = word
        values[name] = pl.Series(whole, dtype=pl.String)
    return values


def _only(interval: Interval, usable: Mask) -> Interval:
    """Withhold the ends of an interval where there are too few occurrences for one."""
    low, high = (np.where(usable, end, np.nan) for end in (interval.low, interval.high))
    return interval._replace(low=low, high=high, reason=np.where(usable, interval.reason, ""))


def _withheld(flags: list[str]) -> pl.Expr:
    """Name the columns whose interval is withheld as a few prompts carry it; null for none."""
    names = (pl.when(flag).then(pl.lit(flag.removeprefix(_CARRIED))) for flag in flags)
    listed = pl.concat_str(pl.lit(None), *names, separator=", ", ignore_nulls=True)
    some = pl.any_horizontal(pl.lit(False), *flags)
    return pl.when(some).then(pl.lit(f"{CARRIED}: no interval of ") + listed)


def _ratio(over: Floats, under: Floats) -> Floats:
    return np.asarray(np.divide(over, under, out=np.full(over.size, np.nan), where=under != 0))


def _reason(
    asked: Question, has_gradients: bool, noise: float | None, carried: list[str]
) -> pl.Expr:
    """Say of every row what is missing or weak; `carried` are flags of ends that are withheld."""
    options = asked.options
    n, prompts, members = (pl.col(c) for c in ("n", "n_prompts", "n_persistent"))
    ranked = pl.col("rank").is_not_null()
    detailed = ranked & (pl.col("rank") <= options.detail)
    everywhere = pl.lit(True)
    notes = [
        said(f"fewer than {options.min_count} occurrences: not ranked", n < options.min_count),
        said(
            f"among the {options.exclude_top_frequent} most frequent types: left out",
            ~ranked & (n >= options.min_count),
        ),
        said(f"not among the top {options.detail} by R: no intervals", ranked & ~detailed),
        said("too few occurrences for intervals", detailed & (n < FEWEST_OCCURRENCES)),
        said(
            "too few prompts",
            detailed & (n >= FEWEST_OCCURRENCES) & (prompts < FEWEST_PROMPTS),
        ),
        said("few prompts", detailed & prompts.is_between(FEWEST_PROMPTS, ENOUGH_CLUSTERS - 1)),
        _withheld(carried),
        said("too few persistent occurrences", members < FEWEST_MEMBERS),
        said(f"context on a sample of {MOST_MEMBERS:,}", members > MOST_MEMBERS),
        said(
            "no type as frequent is left as control",
            pl.col("is_rock") & pl.col("control_token_id").is_null(),
        ),
    ]
    if options.signed:
        notes.append(said("the loss can be negative: no share of it, no lift", everywhere))
    if noise is not None:
        notes.append(said("mean loss below the noise floor", pl.col("mean_loss") < noise))
    if asked.pairing == "one checkpoint":
        notes.append(said("one checkpoint: persistent under it alone, no change", everywhere))
    if asked.pairing == "unpaired":
        notes.append(said("unpaired: no context stage", everywhere))
    if has_gradients:
        notes.append(
            said("too few occurrences in a half for gradients", pl.col("norm2_cross").is_null())
        )
        notes.append(
            said(
                "halves do not share a direction: no contribution share",
                pl.col("norm2_cross").is_not_null() & pl.col("contribution_share").is_null(),
            )
        )
    else:
        notes.append(said("no gradient sums of these rollouts", everywhere))
    return reasons(*notes)
