"""Columns of the table `findings`: one row for each question and checkpoint."""

from collections.abc import Mapping

import polars as pl

from opd_diag.tables.schema import Column

YES, NO, UNDECIDED, NOT_ASKED = ("yes", "no", "undecided", "not asked")

FINDINGS = (
    Column("checkpoint", pl.String, "-", "Checkpoint that the question is asked of; of a comparison the last one.", nullable=False),
    Column("question", pl.String, "-", "Short key of the question, as `--fail-on` takes it.", nullable=False),
    Column("text", pl.String, "-", "The question.", nullable=False),
    Column("answer", pl.String, "-", "`yes`: adjusted p at most 0.05; `no`: the interval of the difference lies inside the margin (for a question with a direction: below it); else `undecided`; `not asked`: no test.", nullable=False),
    Column("unit", pl.String, "-", "Unit of estimate and control.", nullable=False),
    Column("estimate", pl.Float64, "see unit", "What was seen."),
    Column("estimate_low", pl.Float64, "see unit", "Lower end of its 95 % interval over prompts."),
    Column("estimate_high", pl.Float64, "see unit", "Upper end."),
    Column("control", pl.Float64, "see unit", "The same under the null or the matched control."),
    Column("difference", pl.Float64, "see unit", "Estimate against control: their difference, or the log of their ratio where both are ratios."),
    Column("difference_low", pl.Float64, "see unit", "Lower end of its 95 % interval over prompts."),
    Column("difference_high", pl.Float64, "see unit", "Upper end."),
    Column("margin", pl.Float64, "see unit", "Size of a difference that is too small to matter: what `no` needs."),
    Column("p", pl.Float64, "probability", "p of the null hypothesis that nothing is there."),
    Column("p_adjusted", pl.Float64, "probability", "The same, adjusted by Holm for all rows that were asked."),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts behind the answer."),
    Column("smallest", pl.Float64, "see unit", "Smallest difference that this run would have shown in 80 % of such runs, from the width of the interval and the number of rows asked."),
    Column("reason", pl.String, "-", "Why the question was not asked, or what the answer cannot exclude."),
    Column("what_it_means", pl.String, "-", "The answer in one sentence."),
    Column("what_to_do", pl.String, "-", "Advice, where the answer is `yes` or `no`."),
    Column("source", pl.String, "-", "Result table that holds the numbers."),
    Column("filter", pl.String, "-", "Its rows, as `column = value` joined by commas."),
)  # fmt: skip

TABLES: Mapping[str, tuple[Column, ...]] = {"findings": FINDINGS}
