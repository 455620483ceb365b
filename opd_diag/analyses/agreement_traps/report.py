"""The headline figures in plain sentences."""

from collections.abc import Mapping
from typing import Any, Protocol

import polars as pl

OUTCOMES = (
    ("correct", "on which it fires are correct"),
    ("repeats", "on which it fires repeat themselves"),
)


class Tables(Protocol):
    """What the summary reads."""

    agreement_traps: pl.DataFrame
    trap_phases: pl.DataFrame
    trap_summary: pl.DataFrame
    trap_cuts: pl.DataFrame


def summary_lines(result: Tables) -> list[str]:
    """Say in a few lines for each checkpoint what was found, and how far it can be trusted."""
    lines = []
    for (checkpoint,), summary in result.trap_summary.group_by("checkpoint", maintain_order=True):
        mine = pl.col("checkpoint") == checkpoint
        measures = {(row["measure"], row["group"]): row for row in summary.iter_rows(named=True)}
        lines += [
            f"{checkpoint}:",
            *_fired(result.agreement_traps.filter(mine), measures),
            *_persistence(measures),
            *_outcomes(measures),
            *_inside(result.trap_phases.filter(mine)),
            *_kept(result.trap_cuts.filter(mine)),
        ]
    return [
        *lines,
        "Low KL alone is no fault: where the student is right it is what training wants.",
    ]


def _fired(rows: pl.DataFrame, measures: Mapping[tuple[str, str], Any]) -> list[str]:
    able = rows["triggered"].drop_nulls()
    reasons = rows["reason"].drop_nulls().value_counts(sort=True)
    left_out = "".join(f", {count} {reason}" for reason, count in reasons.iter_rows())
    prevalence, saved = measures["prevalence", "all"], measures["tokens_saved", "all"]
    head = f"  the rule fires on {able.sum()} of {able.len()} rollouts{left_out}"
    if not able.len():
        return [head]
    return [
        f"{head}: {_share(prevalence, 'value')} ({prevalence['note']}); shuffled KL: "
        f"{_share(prevalence, 'shuffled')}",
        f"  a cut saves {_share(saved, 'value')} of the tokens; shuffled KL: "
        f"{_share(saved, 'shuffled')}",
    ]


def _persistence(measures: Mapping[tuple[str, str], Any]) -> list[str]:
    stay, run = measures["windows_below_after", "all"], measures["longest_run", "all"]
    lines = []
    if stay["value"] is not None:
        lines.append(
            f"  after it fired {_share(stay, 'value')} of the windows stay below; "
            f"observed / shuffled {_number(stay, 'ratio')}"
        )
    if run["value"] is not None:
        lines.append(
            f"  longest run below: {_number(run, 'value')} windows; "
            f"observed / shuffled {_number(run, 'ratio')}"
        )
    return lines


def _outcomes(measures: Mapping[tuple[str, str], Any]) -> list[str]:
    lines = []
    for name, words in OUTCOMES:
        fired, rest = measures[name, "triggered"], measures[name, "untriggered"]
        if fired["value"] is None:
            continue
        beside = "" if rest["value"] is None else f", {_share(rest, 'value')} of the others"
        count = round(fired["value"] * fired["n"])
        share = f"({_share(fired, 'value')}{beside})"
        lines.append(f"  {count} of {fired['n']} rollouts {words} {share}")
    return lines


def _inside(phases: pl.DataFrame) -> list[str]:
    everyone = phases.filter(pl.col("split") == "all", pl.col("phase") == "agreement")
    found = {row["quantity"]: row for row in everyone.iter_rows(named=True)}
    entropy, top = found.get("teacher_entropy"), found.get("teacher_top_prob")
    if entropy is None or top is None or entropy["value"] is None:
        return []
    return [
        f"  in the stretch the teacher's entropy is {_number(entropy, 'value')} nat (shuffled "
        f"{_number(entropy, 'shuffled')}), its top probability {_number(top, 'value')}"
    ]


def _kept(cuts: pl.DataFrame) -> list[str]:
    signals = pl.col("signal").is_in(["gain", "grad_logits_other", "correct"])
    fair = cuts.filter("is_setting", signals, pl.col("rule") == "shuffled KL")
    return [
        f"  {row['signal']} per token kept minus that of shuffled cuts: "
        f"{_number(row, 'difference')} {row['unit']}"
        for row in fair.iter_rows(named=True)
        if row["difference"] is not None
    ]


def _share(row: Mapping[str, Any], name: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return "unknown"
    return f"{value:.0%}" + ("" if low is None else f" [{low:.0%}, {high:.0%}]")


def _number(row: Mapping[str, Any], name: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return "unknown"
    return f"{value:.3g}" + ("" if low is None else f" [{low:.3g}, {high:.3g}]")
