"""Write the headline figures for a person, each beside what makes it less than it seems."""

from collections.abc import Mapping
from typing import Any, Protocol

import polars as pl

SHOWN = 20
SIGNIFICANT = 0.05

Row = Mapping[str, Any]


class Tables(Protocol):
    """The tables of `rock_tokens` that are summarised."""

    @property
    def rock_tokens(self) -> pl.DataFrame:
        """One row per type."""

    @property
    def rock_groups(self) -> pl.DataFrame:
        """One row per checkpoint, group and side."""

    @property
    def rock_cutoff(self) -> pl.DataFrame:
        """One row per selector and K."""

    @property
    def rock_selectors(self) -> pl.DataFrame:
        """One row per selector."""

    @property
    def rock_outputs(self) -> pl.DataFrame:
        """One row per rollout."""


def summary_lines(result: Tables) -> list[str]:
    """Summarise a result of `rock_tokens` in lines of text."""
    rows = result.rock_tokens
    first = rows.row(0, named=True)
    return [
        f"{rows['n'].sum():,} tokens of {result.rock_outputs['prompt_id'].n_unique():,} prompts, "
        f"{rows.height:,} token types, ranked by summed {first['loss']} under "
        f"{first['checkpoint']!r} ({first['pairing']}).",
        *_left_out(result),
        *_list_lines(result),
        *_top_lines(rows),
        *_evidence_lines(rows),
        *_group_lines(result.rock_groups),
        *_output_lines(result.rock_outputs),
    ]


def _left_out(result: Tables) -> list[str]:
    """Name the tokens and types that were left out."""
    lines = []
    dropped = result.rock_outputs["n_dropped"].sum()
    if dropped:
        lines.append(f"{dropped:,} tokens left out: no finite loss under some checkpoint.")
    excluded = result.rock_tokens.filter(pl.col("reason").str.contains("left out"))
    if excluded.height:
        names = ", ".join(_text(row) for row in excluded.sort("n", descending=True).to_dicts())
        lines.append(f"Left out as the most frequent: {names}.")
    return lines


def _list_lines(result: Tables) -> list[str]:
    """Say what the list holds, on the rows that chose it and on others, and if it is stable."""
    size = result.rock_selectors["K"][0]
    cutoff = {
        row["selector"]: row for row in result.rock_cutoff.filter(K=size).iter_rows(named=True)
    }
    ours, frequency = cutoff["R"], cutoff["frequency"]
    tokens = _percent(ours["position_share"])
    if ours["coverage"] is None:
        lines = [f"The list of {size} holds {tokens} of tokens. {ours['reason']}."]
    else:
        lines = [
            f"The list of {size} holds {tokens} of tokens and {_percent(ours['coverage'])} of KL "
            f"(lift {_interval(ours, 'lift')}); a lift of 1 is frequency alone.",
            f"Chosen on one half of the prompts, on the other it holds "
            f"{_interval(ours, 'cross_coverage', _percent)} of KL "
            f"(lift {_interval(ours, 'cross_lift')}); the {size} most frequent types hold "
            f"{_percent(frequency['cross_coverage'])} (lift {_interval(frequency, 'cross_lift')}).",
        ]
    lines.append(
        f"It holds {_interval(ours, 'grad_share', _percent)} of the summed logit-gradient norm."
    )
    for name, row in cutoff.items():
        found = row["suggested_K"]
        stable = f"{found} types" if found else row["reason"]
        lines.append(f"Largest stable list by {name}: {stable}.")
    return lines


def _top_lines(rows: pl.DataFrame) -> list[str]:
    """Set the first types in columns."""
    header = ("rank", "text", "n", "tokens", "KL", "lift", "95 % interval", "change", "label")
    shown = rows.filter(pl.col("rank").is_not_null()).sort("rank").head(SHOWN)
    cells = [header]
    cells += [
        (
            str(row["rank"]),
            _text(row),
            f"{row['n']:,}",
            _percent(row["position_share"]),
            _percent(row["loss_share"]),
            _number(row["lift"]),
            f"{_number(row['lift_low'])} to {_number(row['lift_high'])}",
            _percent(row["relative_change"]),
            row["label"] or "-",
        )
        for row in shown.iter_rows(named=True)
    ]
    widths = [max(len(line[place]) for line in cells) for place in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if name in ("text", "label") else cell.rjust(width)
            for name, cell, width in zip(header, line, widths, strict=True)
        ).rstrip()
        for line in cells
    ]


def _evidence_lines(rows: pl.DataFrame) -> list[str]:
    """Count the types whose lift and whose context are more than chance."""
    tested = rows.filter(pl.col("lift_p_adjusted").is_not_null())
    found = tested.filter(pl.col("lift_p_adjusted") < SIGNIFICANT)
    rocks = found.filter("is_rock")
    lines = [
        f"{found.height:,} of {tested.height:,} types differ from lift 1 (adjusted p < 0.05), "
        f"{rocks.height} of them in the list, {rocks.filter(pl.col('lift') > 1).height} above 1."
    ]
    context = rows.filter(pl.col("is_rock") & pl.col("recurring_share").is_not_null())
    if context.height:
        above = context.filter(pl.col("recurring_share") > pl.col("recurring_share_null")).height
        lines.append(
            "The context of persistent occurrences recurs more than that of random ones in "
            f"{above} of {context.height} rocks; by chance in {context.height / 21:.1f} or fewer."
        )
    return lines


def _group_lines(groups: pl.DataFrame) -> list[str]:
    """Compare the change of the groups on prompts that did not choose them, and the naive one."""
    start, end = groups["checkpoint"][0], groups["checkpoint"][-1]
    last = groups.filter(pl.col("change").is_not_null() & (pl.col("checkpoint") == end))
    if last.is_empty():
        return ["One checkpoint, or too few prompts: no change to report."]
    lines = [f"Change of the mean from {start!r} to {end!r} ({last['pairing'][0]}):"]
    for name in last["group"].unique(maintain_order=True):
        sides = {row["measured_on"]: row for row in last.filter(group=name).to_dicts()}
        if len(sides) == 2:
            honest, naive = sides["other half"], sides["same half"]
            lines.append(
                f"  {name}: {_change(honest)} ({honest['label'] or 'no label'}) on prompts that "
                f"did not choose; {_change(naive)} on those that did."
            )
    return lines + [
        f"Of {count['n_labelled']} rocks with a label of their own {count['n_stagnant']} are "
        f"stagnant, {count['n_changed']} changed, {count['n_undecided']} undecided; if none "
        f"changed, {count['n_by_chance']:.1f} would be called changed."
        for count in last.filter(pl.col("n_labelled").is_not_null()).to_dicts()
    ]


def _output_lines(outputs: pl.DataFrame) -> list[str]:
    """Say how common rocks are in a rollout, and how many hard tokens are none."""
    share, others = outputs.select(
        pl.col("rock_share").median(), pl.col("n_events_not_rock").sum() / pl.col("n_events").sum()
    ).row(0)
    return [
        f"Rocks are {_percent(share)} of the tokens of the median rollout; {_percent(others)} of "
        "the tokens in the top 5 % of loss are no rock."
    ]


def _change(row: Row) -> str:
    """Write a relative change, or that in nat where the loss has no relative one."""
    if row["relative_change"] is None:
        return f"{_interval(row, 'change', '{:.3g}'.format)} nat"
    return _interval(row, "relative_change", _percent)


def _text(row: Row) -> str:
    return f"#{row['token_id']}" if row["text"] is None else repr(row["text"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _interval(row: Row, name: str, form: Any = _number) -> str:
    """Write an estimate with its interval."""
    if row[f"{name}_low"] is None:
        return f"{form(row[name])} [no interval]"
    return f"{form(row[name])} [{form(row[f'{name}_low'])}, {form(row[f'{name}_high'])}]"
