"""The headline figures in plain sentences, which describe and do not judge."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import polars as pl

from opd_diag.analyses import wording
from opd_diag.analyses.wording import Row
from opd_diag.tables.columns.agreement_traps import CRUDE, LOW, WITHIN


class Tables(Protocol):
    """What the summary reads."""

    agreement_traps: pl.DataFrame
    trap_summary: pl.DataFrame
    trap_persistence: pl.DataFrame
    trap_outcomes: pl.DataFrame


def summary_lines(result: Tables) -> list[str]:
    """Describe the rule on each checkpoint in a few lines, beside its controls."""
    lines = []
    for (checkpoint,), summary in result.trap_summary.group_by("checkpoint", maintain_order=True):
        mine = pl.col("checkpoint") == checkpoint
        measures = {(row["measure"], row["group"]): row for row in summary.iter_rows(named=True)}
        lines += [
            f"{checkpoint}: {_fired(result.agreement_traps.filter(mine), measures)}",
            *_threshold(measures),
            *_longest_run(result.trap_persistence.filter(mine).to_dicts()),
            *_wrong(result.trap_outcomes.filter(mine).to_dicts()),
        ]
    return [*lines, "Low KL is also what training wants, where the student is right."]


def _fired(rows: pl.DataFrame, measures: Mapping[tuple[str, str], Row]) -> str:
    able = rows["triggered"].drop_nulls()
    reasons = rows["reason"].drop_nulls().value_counts(sort=True)
    left_out = "".join(f", {n:,} {reason}" for reason, n in reasons.iter_rows())
    text = f"the rule fires on {able.sum():,} of {able.len():,} rollouts{left_out}"
    if not able.len():
        return text
    prevalence, saved = measures["prevalence", "all"], measures["tokens_saved", "all"]
    return (
        f"{text} ({wording.estimate(prevalence)}; blocks shuffled: "
        f"{wording.share(prevalence['shuffled'])}); a cut there saves "
        f"{wording.share(saved['value'])} of the tokens (shuffled: "
        f"{wording.share(saved['shuffled'])})"
    )


def _threshold(measures: Mapping[tuple[str, str], Row]) -> list[str]:
    threshold, mean = (measures[name, "all"]["value"] for name in ("threshold", "mean_kl"))
    if threshold is None or not mean:
        return []
    low = ", which is not low" if threshold > LOW * mean else ""
    return [
        f"  threshold {wording.number(threshold)} nat, {100 * threshold / mean:.0f} % of the mean "
        f"KL of {wording.number(mean)} nat{low}"
    ]


def _longest_run(rows: Sequence[Row]) -> list[str]:
    if not rows or rows[0]["longest_run"] is None:
        return []
    beside = ", ".join(
        f"{wording.number(row['shuffled'])} in blocks of {row['block']}"
        for row in sorted(rows, key=lambda row: -row["block"])
    )
    run = wording.estimate(rows[0], "longest_run", "windows")
    return [f"  longest run below it: {run}; shuffled: {beside}"]


def _wrong(rows: Sequence[Row]) -> list[str]:
    by_name = {row["comparison"]: row for row in rows}
    within, crude = by_name[WITHIN], by_name[CRUDE]
    if within["difference"] is None:
        return []
    difference = wording.estimate(within, "difference", "share")
    return [
        f"  wrong where it fires minus others of the prompt: {difference} "
        f"({wording.share(within['wrong_fired'])} against {wording.share(within['wrong_others'])}; "
        f"crude, between prompts too: {wording.share(crude['difference'])})"
    ]
