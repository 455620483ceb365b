"""Write the answers for a person: each question with its answers, numbers and what they mean."""

from collections.abc import Sequence

import polars as pl

from opd_diag.analyses import wording
from opd_diag.analyses.questions import QUESTIONS
from opd_diag.tables.columns.findings import NOT_ASKED


def summary_lines(table: pl.DataFrame, analysis: str | None = None) -> list[str]:
    """Write the findings, two lines a question.

    Args:
        table: The table `findings`.
        analysis: The analysis whose questions are wanted; None: all.

    Returns:
        A heading and the lines; nothing where no question is wanted.
    """
    wanted = [key for key, question in QUESTIONS.items() if analysis in (None, question.analysis)]
    groups = [table.filter(question=key).to_dicts() for key in wanted]
    lines = [line for rows in groups if rows for line in _question(rows)]
    if not lines:
        return []
    tests = table["p"].count()
    return [f"Findings (p adjusted for the {tests} tests of this run)", *lines]


def _question(rows: Sequence[wording.Row]) -> list[str]:
    """Write one question: its answers, and the numbers of its last checkpoint that was asked."""
    asked = [row for row in rows if row["answer"] != NOT_ASKED]
    if not asked:
        return [
            f"{NOT_ASKED:<10} {rows[-1]['text']}",
            f"{'':<10} {wording.in_full(rows[-1]['reason'])}",
        ]
    last = asked[-1]
    others = [f"{row['checkpoint']} {row['answer']}" for row in rows if row is not last]
    name = f" ({', '.join([last['checkpoint'], *others])})"
    numbers = wording.estimate(last, "estimate", last["unit"])
    if last["control"] is not None:
        unit = last["unit"]
        control = (
            wording.share(last["control"]) if unit == "share" else wording.number(last["control"])
        )
        numbers += f" against {control}"
    said = [f"{numbers}, {wording.p_value(last['p_adjusted'])}."]
    said += [last[name] for name in ("what_it_means", "what_to_do") if last[name]]
    if last["reason"]:
        said.append(f"({wording.in_full(last['reason'])}.)")
    return [f"{last['answer']:<10} {last['text']}{name}", f"{'':<10} {' '.join(said)}"]
