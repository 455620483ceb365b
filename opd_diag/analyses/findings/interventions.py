"""Answer the questions of interventions from their result tables."""

import polars as pl

from opd_diag.analyses.answers import Finding
from opd_diag.tables.columns.interventions import AT_CUT, RECOVERABLE, ROCK, TEACHER

MARGIN = 0.02  # difference of accuracies that is too small to matter
FLOOR = f"the control is right in fewer than {MARGIN:.0%} of the responses: nothing can be lost"

NEEDED = {
    "yes": "Without the rock tokens the student is right less often than without types as "
    "frequent: it needs them.",
    "no": "Without the rock tokens the student is right at least as often as without types as "
    "frequent, up to 2 points.",
    "undecided": "What rock tokens are worth to the student, beyond types as frequent, is not "
    "decided.",
}
NEEDED_ADVICE = {
    "yes": "Do not take these tokens for useless; the arms of single types (--each) tell which of "
    "them matter.",
    "no": "Do not protect these tokens more than others as frequent. What the ban costs at all is "
    "its difference from no ban in knock_out.",
}
LOST = {
    "yes": "From the cut even the teacher reaches the right answer less often than from the same "
    "depth of other rollouts of the problem: what stands before it leads astray.",
    "no": "From the cut the teacher reaches the right answer at least as often as from the same "
    "depth of other rollouts of the problem, up to 2 points.",
    "undecided": "Whether the cut stands where rollouts are lost is not decided.",
}
LOST_ADVICE = {
    "yes": "Cutting there drops what cannot be mended; let training start from earlier prefixes.",
    "no": "Do not cut there because a rollout is lost: it is not.",
}


def _at_floor(control: float | None) -> bool:
    """Tell whether an accuracy is so low that nothing can take the margin from it."""
    return control is not None and control < MARGIN


def knock_out(knock_out: pl.DataFrame) -> list[Finding]:
    """Answer whether banning rocks costs more accuracy than banning types as frequent.

    Args:
        knock_out: The table of this name.
    """
    findings = []
    for row in knock_out.filter(kind=ROCK).iter_rows(named=True):
        accuracy = row["accuracy"]
        apart = row["control_difference"]
        control = None if apart is None else accuracy - apart
        findings.append(
            Finding(
                question="rocks-needed",
                checkpoint=row["checkpoint"],
                unit="share",
                estimate=accuracy,
                low=row["accuracy_low"],
                high=row["accuracy_high"],
                control=control,
                difference=apart,
                difference_low=row["control_difference_low"],
                difference_high=row["control_difference_high"],
                p=None if _at_floor(control) else row["control_p"],
                direction=-1,
                margin=MARGIN,
                n_prompts=row["n_problems"],
                reason=FLOOR if _at_floor(control) else row["reason"],
                meaning=NEEDED,
                advice=NEEDED_ADVICE,
                source="knock_out",
                filter=f"kind = {ROCK}",
            )
        )
    return findings


def continuation(continuation: pl.DataFrame) -> list[Finding]:
    """Answer whether the teacher's continuations succeed less from the cut than elsewhere.

    Args:
        continuation: The table of this name.
    """
    asked = continuation.filter(measure=RECOVERABLE, model=TEACHER, start=AT_CUT)
    return [
        Finding(
            question="cut-is-lost",
            checkpoint=row["checkpoint"],
            unit="share",
            estimate=row["value"],
            low=row["value_low"],
            high=row["value_high"],
            control=row["control"],
            difference=row["difference"],
            difference_low=row["difference_low"],
            difference_high=row["difference_high"],
            p=None if _at_floor(row["control"]) else row["p"],
            direction=-1,
            margin=MARGIN,
            n_prompts=row["n_problems"],
            reason=FLOOR if _at_floor(row["control"]) else row["reason"],
            meaning=LOST,
            advice=LOST_ADVICE,
            source="continuation",
            filter=f"measure = {RECOVERABLE}, model = {TEACHER}",
        )
        for row in asked.iter_rows(named=True)
    ]
