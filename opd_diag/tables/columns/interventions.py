"""Columns of the result tables of `knock_out`, `continuation` and `replacement`."""

from collections.abc import Mapping
from functools import partial

import polars as pl

from opd_diag.tables.schema import Column, interval

# Kinds of arms of a knock-out.
UNMASKED, ROCK, ALL_ROCKS, CONTROL, RANDOM, SINGLE, LISTED = (
    "unmasked",
    "rock",
    "all rocks",
    "control",
    "random",
    "single type",
    "own list",
)

# Measures of `continuation`, and where a continuation starts.
RECOVERABLE, AVERAGE, PASS = "recoverable", "avg@k", "pass@k"
AT_CUT, AT_NONE = "cut", "whole rollouts"
STUDENT, TEACHER = "student", "teacher"

# Groups of `replacement`.
ROCKS, OTHERS = "rock", "others alike"

_CHECKPOINT = Column("checkpoint", pl.String, "-", "Student checkpoint that generates, or is scored.", nullable=False)  # fmt: skip
_interval = partial(interval, over="problems")

KNOCK_OUT = (
    _CHECKPOINT,
    Column("arm", pl.String, "-", "Name of the arm; an unmasked one is a repeat with random numbers of its own.", nullable=False),
    Column("kind", pl.String, "-", "`unmasked`, `rock` (rocks that have a type as frequent beside them), `all rocks`, `control` (the types as frequent), `random` (as exposed), `single type` or `own list`.", nullable=False),
    Column("text", pl.String, "-", "Text of the type, of a single one."),
    Column("n_types", pl.UInt32, "types", "Types that are banned.", nullable=False),
    Column("n_problems", pl.UInt32, "problems", "Problems.", nullable=False),
    Column("n", pl.UInt32, "responses", "Responses.", nullable=False),
    *_interval("accuracy", "share", "Share of responses that the verifier calls right."),
    *_interval("difference", "share", "Accuracy minus that of the unmasked responses with the same random numbers; of an unmasked arm minus the other repeats."),
    Column("p", pl.Float64, "probability", "Two-sided p of this difference, signs flipped over problems."),
    Column("p_adjusted", pl.Float64, "probability", "The same adjusted over the arms of the kind (Benjamini-Hochberg)."),
    *_interval("control_difference", "share", "Accuracy minus that of the control list with the same random numbers; of the rock list only."),
    Column("control_p", pl.Float64, "probability", "Two-sided p of that difference, signs flipped over problems."),
    Column("exposure", pl.Float64, "share", "Share of the unmasked responses in which the student's likeliest token is ever banned; without likeliest tokens, of the run's rollouts."),
    Column("exposed_positions", pl.Float64, "share", "Share of the positions at which it is."),
    Column("changed", pl.Float64, "share", "Share of the responses that differ from the unmasked one with the same random numbers."),
    Column("n_tokens", pl.Float64, "tokens", "Mean length of a response."),
    Column("unended", pl.Float64, "share", "Share of the responses that did not end within the most tokens allowed."),
    Column("smallest", pl.Float64, "share", "Difference that this study would have shown in 80 % of such studies, from the width of its interval."),
    Column("variance_saved", pl.Float64, "ratio", "Variance of the difference with other random numbers over that with common ones."),
    Column("verifier", pl.String, "-", "What called responses right.", nullable=False),
    Column("engine", pl.String, "-", "What generated; vllm has no common random numbers.", nullable=False),
    Column("reason", pl.String, "-", "What is missing or weak, and why."),
)  # fmt: skip

KNOCK_OUT_LISTS = (
    _CHECKPOINT,
    Column("arm", pl.String, "-", "Name of the arm.", nullable=False),
    Column("token_id", pl.Int32, "-", "A type that it bans.", nullable=False),
    Column("text", pl.String, "-", "Its text.", nullable=False),
    Column("exposed_positions", pl.Float64, "share", "Share of the run's positions at which it is the student's likeliest token.", nullable=False),
)  # fmt: skip

CONTINUATION = (
    _CHECKPOINT,
    Column("cut", pl.String, "-", "Rule that cuts: `trap` or `release`.", nullable=False),
    Column("measure", pl.String, "-", "`recoverable`: continuations that are right; `avg@k`, `pass@k`: the run's rollouts, as they are or with those that are cut counted as wrong.", nullable=False),
    Column("model", pl.String, "-", "Who continues, or wrote: `student` or `teacher`.", nullable=False),
    Column("start", pl.String, "-", "Where continuations start: at the `cut`, or `whole rollouts`.", nullable=False),
    Column("k", pl.UInt32, "samples", "Continuations of each prefix, or largest number of rollouts of a problem.", nullable=False),
    Column("n_prefixes", pl.UInt32, "prefixes", "Prefixes, or rollouts.", nullable=False),
    Column("n_problems", pl.UInt32, "problems", "Problems.", nullable=False),
    Column("n", pl.UInt32, "responses", "Responses judged.", nullable=False),
    Column("depth", pl.Float64, "tokens", "Mean tokens before the start."),
    *_interval("value", "share", "The measure."),
    *_interval("control", "share", "The same from the same depth of another rollout of the problem; of avg@k and pass@k without cuts."),
    *_interval("difference", "share", "Value minus control, inside problems."),
    Column("p", pl.Float64, "probability", "Two-sided p of the difference, signs flipped over problems."),
    Column("smallest", pl.Float64, "share", "Difference that this study would have shown in 80 % of such studies, from the width of its interval."),
    Column("verifier", pl.String, "-", "What called responses right.", nullable=False),
    Column("reason", pl.String, "-", "What is missing or weak, and why."),
)  # fmt: skip

REPLACEMENT = (
    _CHECKPOINT,
    Column("group", pl.String, "-", "`rock`: occurrences of rocks; `others alike`: of other types, matched one to one in frequency, probability, entropy and distance to the answer.", nullable=False),
    Column("n", pl.UInt32, "tokens", "Occurrences replaced.", nullable=False),
    Column("n_types", pl.UInt32, "types", "Their types.", nullable=False),
    Column("n_rollouts", pl.UInt32, "rollouts", "Rollouts that they stand in.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts of these.", nullable=False),
    *_interval("change", "nat", "Change of the log-prob of the answer when the token is replaced by the student's likeliest other one and the rest stays: below 0, the answer gets less likely."),
    *_interval("difference", "nat", "That of rocks minus that of others alike, each token by its own prompt."),
    Column("p", pl.Float64, "probability", "Two-sided p of the difference, signs flipped over prompts."),
    Column("mean_log10_n", pl.Float64, "log10", "Mean log10 count of their types."),
    Column("mean_logp", pl.Float64, "nat", "Mean student_logp."),
    Column("mean_entropy", pl.Float64, "nat", "Mean student_entropy."),
    Column("mean_distance", pl.Float64, "tokens", "Mean tokens from here to the answer."),
    Column("reason", pl.String, "-", "What is missing or weak, and why."),
)  # fmt: skip

TABLES: Mapping[str, Mapping[str, tuple[Column, ...]]] = {
    "knock_out": {"knock_out": KNOCK_OUT, "knock_out_lists": KNOCK_OUT_LISTS},
    "continuation": {"continuation": CONTINUATION},
    "replacement": {"replacement": REPLACEMENT},
}
"""The result tables of each intervention."""
