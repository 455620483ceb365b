"""Columns of the result tables of `release_points`."""

import polars as pl

from opd_diag.tables.schema import Column

GAINS = (0, 6)  # thresholds in nat that are counted beside the rule's own
MIN_TOKENS = 64  # of a rollout that is compared by relative position
LINE_SEGMENTS = 100  # below, a step beats even a true line too often to mean anything

RELEASE_POINTS = (
    Column("checkpoint", pl.String, "-", "Name of the student checkpoint.", nullable=False),
    Column("rollout", pl.UInt32, "-", "Row of rollouts.parquet.", nullable=False),
    Column("prompt_id", pl.String, "-", "Prompt of the rollout.", nullable=False),
    Column("policy", pl.String, "-", "Who generated the rollout."),
    Column("step", pl.Int64, "steps", "Training step of the dump."),
    Column("correct", pl.Boolean, "-", "Whether the answer was right."),
    Column("finish_reason", pl.String, "-", "`stop`, `length` or `other`."),
    Column("group", pl.String, "-", "The dump's domain, environment or data source."),
    Column("trained", pl.Boolean, "-", "Whether the trainer took the rollout."),
    Column("n_segments", pl.UInt32, "segments", "Segments with a token in the loss.", nullable=False),
    Column("n_tokens", pl.UInt32, "tokens", "Response tokens in the loss.", nullable=False),
    Column("tau", pl.UInt32, "segments", "Segments before the best downward shift; null: there is none."),
    Column("gain", pl.Float64, "nat", "BIC gain of the best downward shift over one mean."),
    Column("gain_up", pl.Float64, "nat", "The same for the best upward shift, a control."),
    Column("cusum", pl.Float64, "-", "Largest fall of the cumulative sum of the scores around their mean, over the root of their sum of squares."),
    Column("cusum_up", pl.Float64, "-", "The same for the best upward shift, a control."),
    Column("margin_early", pl.Float64, "log nat", "Mean log(1 + margin) of the tokens in the first 20 % of the response; null below 64 tokens."),
    Column("margin_late", pl.Float64, "log nat", "The same, last 20 %."),
    Column("gain_over_line", pl.Float64, "nat", "BIC of a straight line minus that of the downward shift; null below 100 segments."),
    Column("gain_over_line_reversed", pl.Float64, "nat", "The same after what the line leaves over is turned round in time, a control."),
    Column("recovery", pl.Float64, "log nat", "What the scores recover by after the shift, less what they rose by before it; null below 100 segments."),
    Column("step_beats_line", pl.Boolean, "-", "Whether the downward shift has the lower BIC than a straight line."),
    Column("autocorrelation", pl.Float64, "correlation", "Lag-1 autocorrelation of what the shift leaves over."),
    Column("mean_before", pl.Float64, "log nat", "Mean segment score before the shift."),
    Column("mean_after", pl.Float64, "log nat", "Mean segment score from the shift on."),
    Column("accepted", pl.Boolean, "-", "Whether the gain is above the threshold.", nullable=False),
    Column("reason", pl.String, "-", "Why there is no gain: too few segments, flat, no downward split."),
    Column("release_token", pl.UInt32, "tokens", "Position of the first token dropped; null: none is."),
    Column("release_frac", pl.Float64, "share", "Share of the tokens in the loss that stand before it."),
    Column("scale", pl.Float64, "ratio", "Tokens in the loss over tokens kept, which keeps the loss mass.", nullable=False),
    Column("stop_segments", pl.UInt32, "segments", "Segments after which the rule, applied to the segments so far, first fires; null: never."),
    Column("stop_frac", pl.Float64, "share", "Share of the tokens in the loss that these segments hold."),
)  # fmt: skip

_GROUP = (
    Column("checkpoint", pl.String, "-", "Name of the student checkpoint.", nullable=False),
    Column("split", pl.String, "-", "`all`, or the column of the rollouts that splits them.", nullable=False),
    Column("group", pl.String, "-", "Value of that column.", nullable=False),
)  # fmt: skip

RELEASE_SUMMARY = (
    *_GROUP,
    Column("statistic", pl.String, "-", "What is counted or averaged.", nullable=False),
    Column("k", pl.UInt32, "tokens", "K of the margin, where it depends on one."),
    Column("threshold", pl.Float64, "-", "What is exceeded, where rollouts are counted that do: a gain in nat, or a cumulative sum."),
    Column("unit", pl.String, "-", "Unit of value.", nullable=False),
    Column("n", pl.UInt32, "rollouts", "Rollouts behind the value.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts behind the value.", nullable=False),
    Column("value", pl.Float64, "see unit", "The estimate."),
    Column("value_low", pl.Float64, "see unit", "Lower end of its 95 % interval over prompts."),
    Column("value_high", pl.Float64, "see unit", "Upper end."),
    Column("p", pl.Float64, "-", "p of a difference of 0, by flipping the signs of whole prompts; of all rollouts only."),
    Column("paper", pl.Float64, "see unit", "The figure of arXiv 2605.13643, where it gives one."),
    Column("reason", pl.String, "-", "Why there is no value or interval, or what weakens it."),
)  # fmt: skip

RELEASE_CURVES = (
    *_GROUP,
    Column("axis", pl.String, "-", "`relative` or `absolute` position.", nullable=False),
    Column("bin", pl.UInt32, "-", "Number of the bin, from 0.", nullable=False),
    Column("start", pl.Float64, "share or tokens", "Where the bin starts.", nullable=False),
    Column("end", pl.Float64, "share or tokens", "Where it ends.", nullable=False),
    Column("quantity", pl.String, "-", "What is averaged.", nullable=False),
    Column("k", pl.UInt32, "tokens", "K of the quantity, where it has one."),
    Column("unit", pl.String, "-", "Unit of value.", nullable=False),
    Column("n", pl.UInt32, "tokens", "Tokens in the bin.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts with tokens in the bin.", nullable=False),
    Column("value", pl.Float64, "see unit", "Mean over tokens, or what the quantity's name says."),
    Column("value_low", pl.Float64, "see unit", "Lower end of its 95 % interval over prompts."),
    Column("value_high", pl.Float64, "see unit", "Upper end."),
    Column("reason", pl.String, "-", "Why there is no value or interval, or what weakens it."),
)  # fmt: skip

RELEASE_CORRELATION = (
    Column("checkpoint", pl.String, "-", "Name of the student checkpoint.", nullable=False),
    Column("rollout", pl.UInt32, "-", "Row of rollouts.parquet.", nullable=False),
    Column("prompt_id", pl.String, "-", "Prompt of the rollout.", nullable=False),
    Column("n_early", pl.UInt32, "tokens", "Tokens in the first 20 % of the response.", nullable=False),
    Column("n_late", pl.UInt32, "tokens", "Tokens in the last 20 %.", nullable=False),
    Column("pearson_early", pl.Float64, "correlation", "Of student_logp and teacher_logp, first 20 %."),
    Column("pearson_late", pl.Float64, "correlation", "The same, last 20 %."),
    Column("spearman_early", pl.Float64, "correlation", "Of their ranks, first 20 %."),
    Column("spearman_late", pl.Float64, "correlation", "The same, last 20 %."),
    Column("reason", pl.String, "-", "Why there is no correlation."),
)  # fmt: skip

RELEASE_BUDGETS = (
    Column("checkpoint", pl.String, "-", "Name of the student checkpoint.", nullable=False),
    Column("window", pl.String, "-", "Which tokens are kept: `release`, a control of equal budget, or a fixed prefix.", nullable=False),
    Column("quantity", pl.String, "-", "What the kept tokens carry.", nullable=False),
    Column("k", pl.UInt32, "tokens", "K of the quantity, where it has one."),
    Column("n", pl.UInt32, "rollouts", "Rollouts.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts.", nullable=False),
    Column("n_tokens", pl.UInt64, "tokens", "Tokens kept.", nullable=False),
    Column("token_share", pl.Float64, "share", "Share of the tokens that is kept."),
    Column("token_share_low", pl.Float64, "share", "Lower end of its 95 % interval over prompts."),
    Column("token_share_high", pl.Float64, "share", "Upper end."),
    Column("share", pl.Float64, "share", "Share of the quantity that is kept."),
    Column("share_low", pl.Float64, "share", "Lower end of its 95 % interval."),
    Column("share_high", pl.Float64, "share", "Upper end."),
    Column("lift", pl.Float64, "ratio", "Quantity per token kept over quantity per token."),
    Column("lift_low", pl.Float64, "ratio", "Lower end of its 95 % interval."),
    Column("lift_high", pl.Float64, "ratio", "Upper end."),
    Column("reason", pl.String, "-", "Why there is no value or interval, or what weakens it."),
)  # fmt: skip

RELEASE_EXAMPLE = (
    Column("checkpoint", pl.String, "-", "Name of the student checkpoint.", nullable=False),
    Column("rollout", pl.UInt32, "-", "Row of rollouts.parquet: the accepted one of median gain.", nullable=False),
    Column("segment", pl.UInt32, "-", "Segment, counted from 0 over those in the loss.", nullable=False),
    Column("first_token", pl.UInt32, "tokens", "Position of its first token.", nullable=False),
    Column("n_tokens", pl.UInt32, "tokens", "Its tokens in the loss.", nullable=False),
    Column("text", pl.String, "-", "What it says; null without a vocabulary."),
    Column("score", pl.Float64, "log nat", "log(1 + mean margin).", nullable=False),
    Column("fitted", pl.Float64, "log nat", "Mean of its side of the shift; null: no shift."),
    Column("kept", pl.Boolean, "-", "Whether it stands before the release point.", nullable=False),
)  # fmt: skip

TABLES = {
    "release_points": RELEASE_POINTS,
    "release_summary": RELEASE_SUMMARY,
    "release_curves": RELEASE_CURVES,
    "release_correlation": RELEASE_CORRELATION,
    "release_budgets": RELEASE_BUDGETS,
    "release_example": RELEASE_EXAMPLE,
}
