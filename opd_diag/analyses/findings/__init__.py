"""Answer every question that a run's results allow, with one error rate for all of them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import polars as pl
from scipy.special import ndtri

from opd_diag.analyses.agreement_traps.findings import findings as agreement_traps
from opd_diag.analyses.answers import LEVEL, Finding
from opd_diag.analyses.findings import interventions
from opd_diag.analyses.findings.report import summary_lines
from opd_diag.analyses.loss_audit.findings import findings as loss_audit
from opd_diag.analyses.questions import QUESTIONS
from opd_diag.analyses.release_points.findings import findings as release_points
from opd_diag.analyses.rock_tokens.findings import findings as rock_tokens
from opd_diag.analyses.tables import result_table
from opd_diag.analyses.teachability.findings import findings as teachability
from opd_diag.errors import TableError, first_line
from opd_diag.stats.p_values import holm
from opd_diag.tables.run import Run, open_run
from opd_diag.tables.teacher_sources import source_line

__all__ = ["ANSWERED_BY", "Asked", "answer", "findings", "needed_tables", "summary_lines"]

Asked: TypeAlias = Callable[..., list[Finding]]

POWER = 0.8  # with which `smallest` would have been shown

ANSWERED_BY: Mapping[str, Asked] = {
    "release_points": release_points,
    "rock_tokens": rock_tokens,
    "agreement_traps": agreement_traps,
    "teachability": teachability,
    "loss_audit": loss_audit,
}
"""Who answers the questions of each analysis, from the result tables that its parameters name."""

INTERVENED: Mapping[str, Asked] = {
    "knock_out": interventions.knock_out,
    "continuation": interventions.continuation,
}
"""Who answers those of interventions, which are asked only where one was made."""


def findings(run: Run | str | Path, *, folder: str | Path | None = None) -> pl.DataFrame:
    """Answer the questions about a run, each by one test, from its result tables.

    The p of all rows are adjusted together, so that in a run in which nothing is there some
    `yes` stands with a probability of about 5 %. A question whose result tables are missing or
    stale is not asked, and its reason names the command that makes them. Questions of
    interventions are rows only where one was made.

    Args:
        run: A run, or its folder.
        folder: Folder of the result tables; None: the run's own.

    Returns:
        One row for each question and checkpoint, in the order of the questions.

    Raises:
        ManifestError: If the folder holds no run.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    results = None if folder is None else Path(folder)
    asked: list[Finding] = []
    there = opened.results(results)
    made = {name: ask for name, ask in INTERVENED.items() if name in there}
    for analysis, ask in (*ANSWERED_BY.items(), *made.items()):
        try:
            tables = {name: opened.result(name, results) for name in needed_tables(ask)}
        except TableError as error:
            asked += _not_asked(analysis, opened.checkpoints[-1], first_line(error))
        else:
            subsets = [opened.subset_of(name, results) for name in tables]
            only = next((subset for subset in subsets if subset), None)
            asked += [_with_reasons(one, only, one.reason) for one in ask(**tables)]
    return answer([_with_source(one, opened.teacher_source) for one in asked], opened.checkpoints)


def _with_reasons(one: Finding, *reasons: str | None) -> Finding:
    """Give a finding these reasons, as far as there are any."""
    return replace(one, reason="; ".join(text for text in reasons if text) or None)


def _with_source(one: Finding, source: str) -> Finding:
    """Say beside a question that is not asked what the source of the teacher leaves open."""
    left = source_line(source, QUESTIONS[one.question].analysis)
    if left is None or one.p is not None:
        return one
    return _with_reasons(one, one.reason, left)


def needed_tables(ask: Asked) -> list[str]:
    """Return the names of the result tables that answer the questions of an analysis."""
    return list(inspect.signature(ask).parameters)


def answer(asked: Sequence[Finding], checkpoints: Sequence[str]) -> pl.DataFrame:
    """Answer questions together: adjust their p, and set each against its margin.

    Args:
        asked: The questions with their numbers.
        checkpoints: Names of the checkpoints, in order.

    Returns:
        The table `findings`.
    """
    questions = list(QUESTIONS)
    order = sorted(
        asked, key=lambda one: (questions.index(one.question), checkpoints.index(one.checkpoint))
    )
    order = [one if one.difference is not None else replace(one, p=None) for one in order]
    p = [np.nan if one.p is None else one.p for one in order]
    tests = int(np.isfinite(p).sum())
    rows = [
        _row(one, None if np.isnan(adjusted) else float(adjusted), tests)
        for one, adjusted in zip(order, holm(p), strict=True)
    ]
    columns = {name: [row[name] for row in rows] for name in _row(_EMPTY, None, 1)}
    return result_table("findings", columns)


def _row(one: Finding, p_adjusted: float | None, tests: int) -> dict[str, object]:
    given = one.answer(p_adjusted)
    asked = given != "not asked"
    return {
        "checkpoint": one.checkpoint,
        "question": one.question,
        "text": QUESTIONS[one.question].text,
        "answer": given,
        "unit": one.unit,
        "estimate": one.estimate,
        "estimate_low": one.low,
        "estimate_high": one.high,
        "control": one.control,
        "difference": one.difference,
        "difference_low": one.difference_low,
        "difference_high": one.difference_high,
        "margin": one.margin,
        "p": one.p,
        "p_adjusted": p_adjusted,
        "n_prompts": one.n_prompts,
        "smallest": _smallest(one, tests) if asked and one.smallest is None else one.smallest,
        "reason": one.reason,
        "what_it_means": one.meaning.get(given),
        "what_to_do": one.advice.get(given) if given in ("yes", "no") else None,
        "source": one.source or None,
        "filter": one.filter or None,
    }


def _smallest(one: Finding, tests: int) -> float | None:
    """Difference that a run with this interval shows with a power of 80 %, adjusted for all."""
    if one.difference_low is None or one.difference_high is None:
        return None
    error = (one.difference_high - one.difference_low) / (2 * ndtri(1 - LEVEL / 2))
    return float(error * (ndtri(1 - LEVEL / 2 / tests) + ndtri(POWER)))


_EMPTY = Finding(question=next(iter(QUESTIONS)), checkpoint="", meaning={}, advice={})


def _not_asked(analysis: str, checkpoint: str, why: str) -> list[Finding]:
    verb = "intervene" if analysis in INTERVENED else "analyze"
    command = f"opd-diag {verb} {analysis.replace('_', '-')}"
    return [
        Finding(
            question=key,
            checkpoint=checkpoint,
            reason=f"{why}; made by `{command}`",
            meaning={},
            advice={},
        )
        for key, question in QUESTIONS.items()
        if question.analysis == analysis
    ]
