"""Answer the questions of low-KL stretches from the result tables."""

from collections.abc import Sequence

import polars as pl

from opd_diag.analyses.answers import Finding, p_above_0
from opd_diag.analyses.wording import Row
from opd_diag.tables.columns.agreement_traps import AT_TRIGGER, LONGER, WITHIN

WRONG_MARGIN = 0.05  # difference of the shares wrong that is too small to matter

STRETCHES = {
    "yes": "KL stays below the threshold for at least a quarter longer than blocks of up to a "
    "window's length, moved at random in their rollout, explain.",
    "no": "The longest stretch below the threshold is no longer than blocks of KL moved at random "
    "make it, up to a quarter.",
    "undecided": "The interval holds both runs a quarter longer than shuffled ones and runs that "
    "are not.",
}
STRETCHES_ADVICE = {
    "yes": "Read such stretches (`opd-diag plot RUN rollout --id ID`) before cutting them: low KL "
    "is what training wants where the student is right.",
    "no": "Do not cut rollouts by this rule: it stops at low windows that chance makes.",
}
WRONG = {
    "yes": "Rollouts on which the rule fires are wrong more often than rollouts of the same prompt "
    "that have run as long without firing.",
    "no": "Within prompts, rollouts on which the rule fires are wrong no more often than others, "
    "up to 5 points.",
    "undecided": "The rollouts of the prompts do not tell whether those on which the rule fires "
    "are wrong more often.",
}
WRONG_ADVICE = {
    "yes": "A cut there drops tokens of wrong answers more than others; see trap_cuts for the "
    "gain that it loses.",
    "no": "Do not take the rule as a sign of a wrong answer.",
}


def findings(trap_persistence: pl.DataFrame, trap_outcomes: pl.DataFrame) -> list[Finding]:
    """Answer for every checkpoint whether stretches are long, and whether cut rollouts are wrong.

    Args:
        trap_persistence: The table of this name.
        trap_outcomes: The table of this name.
    """
    return [
        *(_stretches(rows) for rows in _by_checkpoint(trap_persistence)),
        *(_wrong(rows) for rows in _by_checkpoint(trap_outcomes)),
    ]


def _by_checkpoint(table: pl.DataFrame) -> list[Sequence[Row]]:
    parts = table.partition_by("checkpoint", maintain_order=True)
    return [part.to_dicts() for part in parts]


def _stretches(rows: Sequence[Row]) -> Finding:
    """Hold the run against the shuffles that explain most of it, never those of single tokens."""
    against = [row for row in rows if row["block"] > 1]
    asked = [row for row in against if row["p"] is not None]
    row = max(asked or against, key=lambda row: (row["p"] or 0, row["shuffled"] or 0))
    shuffled = row["shuffled"]
    return Finding(
        question="low-kl-stretches",
        checkpoint=row["checkpoint"],
        unit="windows",
        estimate=row["longest_run"],
        low=row["longest_run_low"],
        high=row["longest_run_high"],
        control=shuffled,
        difference=row["difference"],
        difference_low=row["difference_low"],
        difference_high=row["difference_high"],
        p=row["p"],
        margin=None if shuffled is None else LONGER * shuffled,
        n_prompts=row["n_prompts"],
        reason=row["reason"] if row["p"] is not None else "the rule could fire on no rollout",
        meaning=STRETCHES,
        advice=STRETCHES_ADVICE,
        source="trap_persistence",
        filter=f"block = {row['block']}, keeps_course = {str(row['keeps_course']).lower()}",
    )


def _wrong(rows: Sequence[Row]) -> Finding:
    """Take the comparison within prompts, and the larger p of it and of that among those running.

    Longer rollouts have more chances to fire, so the first alone would take length for the rule. A
    comparison that points the other way has p = 1.
    """
    within, at_trigger = (
        next(row for row in rows if row["comparison"] == name) for name in (WITHIN, AT_TRIGGER)
    )
    both = [(row["p"], row["difference"]) for row in (within, at_trigger)]
    p = None if None in (within["p"], at_trigger["p"]) else max(p_above_0(*row) for row in both)
    return Finding(
        question="cut-rollouts-wrong",
        checkpoint=within["checkpoint"],
        unit="share",
        estimate=within["wrong_fired"],
        low=within["wrong_fired_low"],
        high=within["wrong_fired_high"],
        control=within["wrong_others"],
        difference=within["difference"],
        difference_low=within["difference_low"],
        difference_high=within["difference_high"],
        p=p,
        margin=WRONG_MARGIN,
        n_prompts=within["n_prompts"],
        reason=within["reason"],
        meaning=WRONG,
        advice=WRONG_ADVICE,
        source="trap_outcomes",
        filter=f"comparison = {WITHIN}",
    )
