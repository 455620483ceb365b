"""Describe in a few lines what `rock_tokens` measured."""

from typing import Protocol

import polars as pl

from opd_diag.analyses.wording import Row, count, estimate, in_full, number, share

NAMED = 8
LONGEST = 24


class Tables(Protocol):
    """The tables that are described."""

    @property
    def rock_tokens(self) -> pl.DataFrame:
        """Every type with its lift."""

    @property
    def rock_outputs(self) -> pl.DataFrame:
        """The rollouts, with what was left out."""

    @property
    def rock_groups(self) -> pl.DataFrame:
        """How the groups changed."""

    @property
    def rock_selectors(self) -> pl.DataFrame:
        """What each way to rank chooses."""

    @property
    def rock_cutoff(self) -> pl.DataFrame:
        """How long a list is stable."""


def summary_lines(tables: Tables) -> list[str]:
    """Describe the list, its first types, and how the groups changed."""
    types = tables.rock_tokens
    first = types.row(0, named=True)
    prompts = tables.rock_outputs["prompt_id"].n_unique()
    under = {"joint": "the smaller loss of first and last"}.get(
        first["rank_by"], f"loss under {first['checkpoint']}"
    )
    tokens = int(types["n"].sum())
    return [
        f"{count(tokens)} tokens of {count(prompts)} prompts, {count(types.height)} types, "
        f"ranked by summed {first['loss']}: {under} ({first['pairing']})",
        *_left_out(tables),
        *_list_lines(tables),
        *_first_types(types),
        *_group_lines(tables.rock_groups),
    ]


def _left_out(tables: Tables) -> list[str]:
    """Name the tokens and types that were left out."""
    lines = []
    if dropped := int(tables.rock_outputs["n_dropped"].sum()):
        lines.append(f"  {count(dropped)} tokens left out: no finite loss under some checkpoint")
    excluded = tables.rock_tokens.filter(pl.col("reason").str.contains("left out"))
    if excluded.height:
        names = ", ".join(map(text, excluded.sort("n", descending=True).to_dicts()))
        lines.append(f"  left out as the most frequent: {names}")
    return lines


def _list_lines(tables: Tables) -> list[str]:
    """Describe the list on the prompts that did not choose it, beside that of frequency."""
    size = tables.rock_selectors["K"][0]
    rows = tables.rock_cutoff.filter(K=size).iter_rows(named=True)
    by_selector = {row["selector"]: row for row in rows}
    ours, frequent = by_selector["R"], by_selector["frequency"]
    lines = []
    if ours["cross_lift"] is None:
        tokens = share(ours["position_share"])
        reason = in_full(ours["reason"])
        lines.append(f"  list of {size}: {tokens} of the tokens ({reason})")
    else:
        for name, row in ((f"list of {size}", ours), (f"{size} most frequent", frequent)):
            loss = estimate(row, "cross_coverage", "share")
            lines.append(
                f"  {name}, on the half that did not choose: {loss} of the loss, lift "
                f"{estimate(row, 'cross_lift', '')}"
            )
    suggested = {name: row["suggested_K"] for name, row in by_selector.items()}
    if any(suggested.values()):
        sizes = ", ".join(f"{count(k)} types by {name}" for name, k in suggested.items() if k)
        lines.append(f"  largest list on which halves agree: {sizes}")
    return lines


def _first_types(types: pl.DataFrame) -> list[str]:
    """Name the first types with their share of the loss and their lift."""
    shown = types.filter(pl.col("rank").is_not_null()).sort("rank").head(NAMED)
    parts = [
        f"{text(row)} {share(row['loss_share'])} ({number(row['lift'])})"
        if row["lift"] is not None
        else f"{text(row)} {number(row['R'])} nat"
        for row in shown.iter_rows(named=True)
    ]
    what = "share of the loss (lift)" if shown["lift"].is_not_null().any() else "summed loss"
    return [f"  first types, {what}: {', '.join(parts)}"] if parts else []


def _group_lines(groups: pl.DataFrame) -> list[str]:
    """Give the change of rocks, of types as frequent and of the rest, on other prompts."""
    start, end = groups["checkpoint"][0], groups["checkpoint"][-1]
    last = groups.filter(
        pl.col("change").is_not_null()
        & (pl.col("checkpoint") == end)
        & (pl.col("measured_on") == "other half")
    )
    if last.is_empty():
        return []
    names = {"rock": "rocks", "control": "as frequent", "rest": "all others"}
    changes = {row["group"]: _change(row) for row in last.iter_rows(named=True)}
    parts = [f"{words} {changes[name]}" for name, words in names.items() if name in changes]
    chosen = last["chosen_under"][0]
    return [
        f"  change from {start} to {end}, chosen under {chosen} on the other half: "
        f"{'; '.join(parts)}"
    ]


def text(row: Row) -> str:
    """Write a token type as its text in quotation marks, or its id."""
    if row["text"] is None:
        return f"#{row['token_id']}"
    shown = repr(row["text"])
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 4]}...'"


def _change(row: Row) -> str:
    """Write a relative change, or that in nat where the loss has no relative one."""
    if row["relative_change"] is None:
        return estimate(row, "change", "nat")
    return estimate(row, "relative_change", "share")
