"""The form of an answer: one question, its estimate beside its control, and one test."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

LEVEL = 0.05

Answer = Literal["yes", "no", "undecided", "not asked"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a result says to one question, before p is adjusted for all questions asked.

    A judging sentence is a test: `p` must hold its level on heavy tails, zeros, clusters and
    memory.
    The answer is `yes` if the adjusted p is at most 5 % and the difference points the way that the
    question asks; `no` if the interval of the difference lies inside `margin` around 0 (or, for a
    question with a direction, below it); else `undecided`; `not asked` where there is no p.

    Attributes:
        question: Key of the question in `opd_diag.analyses.questions.QUESTIONS`.
        checkpoint: Checkpoint that it is asked of.
        unit: Unit of estimate, control and difference; `share` for shares.
        estimate: What was seen, with the ends of its interval; None where it is missing.
        low: Lower end.
        high: Upper end.
        control: The same under the null or the matched control.
        difference: Estimate against control: a difference, or a log ratio where `unit` says so.
        difference_low: Lower end of its interval.
        difference_high: Upper end.
        p: Of the null hypothesis that nothing is there, before adjustment.
        direction: Sign of the difference that `yes` needs; 0: either.
        margin: Size of a difference that is too small to matter, in its unit.
        n_prompts: Prompts behind the answer.
        smallest: Smallest difference that this run could have shown; None: from the interval's
            width.
        reason: Why the question is not asked, or what the answer cannot exclude.
        meaning: One plain sentence for each of the answers `yes`, `no` and `undecided`.
        advice: What to do, one plain sentence for `yes` and one for `no`.
        source: Result table that holds the numbers.
        filter: Its rows, as `column = value` joined by commas.
    """

    question: str
    checkpoint: str
    unit: str = ""
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    control: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p: float | None = None
    direction: Literal[-1, 0, 1] = 1
    margin: float | None = None
    n_prompts: int | None = None
    smallest: float | None = None
    reason: str | None = None
    meaning: Mapping[str, str]
    advice: Mapping[str, str]
    source: str = ""
    filter: str = ""

    def answer(self, p_adjusted: float | None) -> Answer:
        """Answer the question, given the p adjusted for all questions that were asked."""
        if p_adjusted is None or self.difference is None:
            return "not asked"
        if p_adjusted <= LEVEL and (not self.direction or self.difference * self.direction > 0):
            return "yes"
        low, high = self.difference_low, self.difference_high
        if self.margin is None or low is None or high is None:
            return "undecided"
        above = high < self.margin if self.direction >= 0 else True
        below = low > -self.margin if self.direction <= 0 else True
        return "no" if above and below else "undecided"


def p_above_0(p: float | None, value: float | None) -> float:
    """Give the p of a value above 0 that has to hold beside others; 1 where it is not above 0."""
    return p if p is not None and (value or 0) > 0 else 1.0
