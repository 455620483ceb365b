"""Columns of the result tables of `agreement_traps`.

A low-KL stretch is a place where the windowed KL is below the threshold. Low KL alone does not
tell whether the student is right there or both models have run into the same rut.
"""

import polars as pl

from opd_diag.tables.schema import Column, interval

LOW = 0.5  # a threshold above so large a share of the mean KL is not low
LONGER = 0.25  # an excess of the longest run over shuffled blocks up to this share is small

# Values of `comparison` in `trap_outcomes`.
CRUDE = "crude, between prompts too"
WITHIN = "within prompts"
LANDMARK = "within prompts, those that run at a landmark"
AT_TRIGGER = "within prompts, those that run where it fires"

_CHECKPOINT = Column("checkpoint", pl.String, "-", "Name of the student checkpoint.", nullable=False)  # fmt: skip


AGREEMENT_TRAPS = (
    _CHECKPOINT,
    Column("rollout", pl.UInt32, "-", "Row of rollouts.parquet.", nullable=False),
    Column("prompt_id", pl.String, "-", "Prompt of the rollout.", nullable=False),
    Column("step", pl.Int64, "steps", "Training step of the dump."),
    Column("correct", pl.Boolean, "-", "Whether the answer was right."),
    Column("finish_reason", pl.String, "-", "`stop`, `length` or `other`."),
    Column("n_tokens", pl.UInt32, "tokens", "Tokens in the loss with a measured reverse_kl.", nullable=False),
    Column("n_missing", pl.UInt32, "tokens", "Tokens in the loss without one, left out.", nullable=False),
    Column("least_kl", pl.Float64, "nat", "Least mean reverse_kl of a window; null: shorter than a window."),
    Column("threshold", pl.Float64, "nat", "Threshold that the windows are held against."),
    Column("n_others", pl.UInt32, "rollouts", "Minima that the threshold rests on; 0: it was given.", nullable=False),
    Column("triggered", pl.Boolean, "-", "Whether enough windows in a row were below the threshold; null: see reason."),
    Column("trigger_token", pl.UInt32, "tokens", "Position of the token at which the rule fired."),
    Column("cut_token", pl.UInt32, "tokens", "Position of the first token of the low-KL stretch, the first one dropped."),
    Column("stretch_end_token", pl.UInt32, "tokens", "Position of the last token of that stretch, which no window above the threshold breaks."),
    Column("cut_frac", pl.Float64, "share", "Share of n_tokens before the cut; 0: nothing is kept."),
    Column("n_pre", pl.UInt32, "tokens", "Tokens before the cut; all where the rule did not fire."),
    Column("n_agreement", pl.UInt32, "tokens", "Tokens from the cut to the end of the unbroken stretch below the threshold."),
    Column("n_post", pl.UInt32, "tokens", "Tokens after that stretch."),
    Column("tokens_saved", pl.UInt32, "tokens", "Tokens from the cut on."),
    Column("windows_after", pl.UInt32, "windows", "Windows after the one at which the rule fired."),
    Column("below_after", pl.UInt32, "windows", "Those of them that stay below the threshold."),
    Column("longest_run", pl.UInt32, "windows", "Longest run of windows below the threshold."),
    Column("repeats", pl.Boolean, "-", "Whether a long n-gram occurs in the response twice.", nullable=False),
    Column("kl_pre", pl.Float64, "nat", "Mean reverse_kl before the cut; of all tokens where the rule did not fire."),
    Column("kl_agreement", pl.Float64, "nat", "Mean reverse_kl in the stretch."),
    Column("kl_post", pl.Float64, "nat", "Mean reverse_kl after it."),
    Column("grad_logits_pre", pl.Float64, "nat/logit", "Mean gradient norm before the cut."),
    Column("grad_logits_agreement", pl.Float64, "nat/logit", "Mean gradient norm in the stretch."),
    Column("grad_logits_post", pl.Float64, "nat/logit", "Mean gradient norm after it."),
    Column("teacher_entropy_agreement", pl.Float64, "nat", "Mean entropy of the teacher in the stretch."),
    Column("teacher_top_prob_agreement", pl.Float64, "share", "Mean probability of the teacher's likeliest token there."),
    Column("in_repeat_agreement", pl.Float64, "share", "Share of the stretch's tokens that end a long n-gram seen before."),
    Column("reason", pl.String, "-", "Why the rule could not fire: too short, too few others, warm-up."),
)  # fmt: skip

TRAP_PHASES = (
    _CHECKPOINT,
    Column("split", pl.String, "-", "`all`, or what the rollouts are split by.", nullable=False),
    Column("group", pl.String, "-", "Which of them.", nullable=False),
    Column("phase", pl.String, "-", "pre, agreement, post; untriggered: rollouts on which the rule did not fire.", nullable=False),
    Column("quantity", pl.String, "-", "What is averaged over tokens.", nullable=False),
    Column("unit", pl.String, "-", "Its unit.", nullable=False),
    Column("n", pl.UInt64, "tokens", "Tokens behind the value.", nullable=False),
    Column("n_rollouts", pl.UInt32, "rollouts", "Rollouts behind it.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts behind it.", nullable=False),
    *interval("value", "see unit", "Mean over tokens; advantage_std: standard deviation over them."),
    *interval("shuffled", "see unit", "The same rule on blocks of tokens shuffled inside each rollout (control rollouts; split `all` only)."),
    Column("reason", pl.String, "-", "Why there is no interval, or what weakens it."),
)  # fmt: skip

TRAP_SUMMARY = (
    _CHECKPOINT,
    Column("measure", pl.String, "-", "What is estimated.", nullable=False),
    Column("group", pl.String, "-", "Which rollouts; `group: NAME` and `trained: NAME` are those of the dump.", nullable=False),
    Column("unit", pl.String, "-", "Unit of the estimates.", nullable=False),
    Column("n", pl.UInt32, "rollouts", "Rollouts behind the value.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts behind it.", nullable=False),
    *interval("value", "see unit", "The estimate, over all rollouts on which the rule could fire."),
    Column("n_control", pl.UInt32, "rollouts", "Rollouts of the control."),
    *interval("observed", "see unit", "The estimate on the rollouts of the control."),
    *interval("shuffled", "see unit", "The same rule on them with blocks of tokens shuffled inside each rollout."),
    *interval("ratio", "ratio", "Observed over shuffled; 1: as without persistence."),
    Column("ratio_reason", pl.String, "-", "Why the ratio has no interval, or what weakens it."),
    Column("note", pl.String, "-", "What a reader has to know of the measure."),
    Column("reason", pl.String, "-", "Why the value has no interval, or what weakens it."),
)  # fmt: skip

TRAP_PERSISTENCE = (
    _CHECKPOINT,
    Column("block", pl.UInt32, "tokens", "Tokens that the shuffle keeps together; 1: single tokens, which no autocorrelation survives.", nullable=False),
    Column("keeps_course", pl.Boolean, "-", "Whether the steady rise or fall of KL along the response stays where it is.", nullable=False),
    Column("draws", pl.UInt32, "-", "Shuffles.", nullable=False),
    Column("n", pl.UInt32, "rollouts", "Rollouts of the control.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Their prompts.", nullable=False),
    *interval("longest_run", "windows", "Longest run of windows below the threshold, mean over rollouts; 0 where there is none."),
    *interval("shuffled", "windows", "The same with blocks of tokens shuffled inside each rollout."),
    *interval("difference", "windows", "The first minus the second."),
    *interval("ratio", "ratio", "The first over the second."),
    Column("p", pl.Float64, "-", "Of the hypothesis that the run is at most a quarter longer than shuffled: the larger of a test by the shuffles and of sign flips over prompts."),
    Column("reason", pl.String, "-", "Why the difference has no interval, or what weakens it."),
)  # fmt: skip

TRAP_OUTCOMES = (
    _CHECKPOINT,
    Column("comparison", pl.String, "-", "Which rollouts are compared with which.", nullable=False),
    Column("at_token", pl.UInt32, "tokens", "The landmark: rollouts of at least so many tokens, by whether the rule fired before."),
    Column("n", pl.UInt32, "rollouts", "Rollouts with an outcome.", nullable=False),
    Column("n_fired", pl.UInt32, "rollouts", "Those of them on which the rule fired, before the landmark where there is one.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts that tell something: with rollouts of both kinds.", nullable=False),
    *interval("wrong_fired", "share", "Share wrong where the rule fired; within prompts each weighs n1 n0 / (n1 + n0)."),
    *interval("wrong_others", "share", "Share wrong of the others, weighed alike."),
    *interval("difference", "share", "The first minus the second."),
    Column("p", pl.Float64, "-", "Exact two-sided p of moving the triggers among the rollouts compared; null for the crude difference."),
    Column("reason", pl.String, "-", "Why there is no difference, or what weakens its interval."),
)  # fmt: skip

TRAP_CUTS = (
    _CHECKPOINT,
    Column("eta", pl.Float64, "share", "Share of the minima above the threshold, which sets the budget; null: the threshold was given."),
    Column("is_setting", pl.Boolean, "-", "Whether this is the eta asked for.", nullable=False),
    Column("rule", pl.String, "-", "Other way to keep as many tokens.", nullable=False),
    Column("signal", pl.String, "-", "What the kept tokens carry.", nullable=False),
    Column("unit", pl.String, "-", "Its unit, per token.", nullable=False),
    Column("used_to_place", pl.Boolean, "-", "Whether the signal is made from the KL that places the cut: then only `shuffled KL` is a fair comparison.", nullable=False),
    Column("n", pl.UInt32, "rollouts", "Rollouts compared.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts with the signal under both.", nullable=False),
    Column("draws", pl.UInt32, "-", "Random draws that the other rule is the mean of.", nullable=False),
    Column("tokens_kept", pl.Float64, "share", "Share of the tokens that both keep.", nullable=False),
    Column("rule_tokens_kept", pl.Float64, "share", "Share that the other rule keeps when it is held to no budget."),
    *interval("kept", "see unit", "Signal per token kept by the cut."),
    *interval("rule_kept", "see unit", "Signal per token kept by the other rule."),
    *interval("difference", "see unit", "The first minus the second."),
    *interval("all_tokens", "see unit", "Signal per token of all tokens."),
    Column("reason", pl.String, "-", "Why there is no comparison, or what weakens it."),
)  # fmt: skip

TRAP_SENSITIVITY = (
    _CHECKPOINT,
    Column("window", pl.UInt32, "tokens", "Tokens in a window.", nullable=False),
    Column("eta", pl.Float64, "share", "Share of the minima above the threshold; null: it was given."),
    Column("consecutive", pl.UInt32, "windows", "Windows in a row that fire the rule.", nullable=False),
    Column("grace", pl.UInt32, "tokens", "Windows that end before so many tokens are passed over.", nullable=False),
    Column("is_setting", pl.Boolean, "-", "Whether these are the numbers asked for.", nullable=False),
    Column("n", pl.UInt32, "rollouts", "Rollouts of the control that are long enough.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Their prompts.", nullable=False),
    *interval("prevalence", "share", "Share of rollouts on which the rule fires."),
    *interval("tokens_kept", "share", "Share of the tokens before the cut."),
    *interval("longest_run", "windows", "Longest run of windows below the threshold, mean over rollouts; 0 where there is none."),
    *interval("shuffled", "windows", "The same with blocks of tokens shuffled inside each rollout."),
    *interval("ratio", "ratio", "The first over the second."),
    Column("signal", pl.String, "-", "gain_forward_kl with a second checkpoint, else grad_logits.", nullable=False),
    *interval("signal_kept", "ratio", "Signal per token kept over signal per token; null where the total does not exceed 0."),
    Column("reason", pl.String, "-", "Why the ratio has no interval, or what weakens it."),
)  # fmt: skip

TRAP_MAP = (
    _CHECKPOINT,
    Column("row", pl.UInt32, "-", "Row of the map, by onset.", nullable=False),
    Column("rollout", pl.UInt32, "-", "Row of rollouts.parquet.", nullable=False),
    Column("start", pl.UInt32, "tokens", "First token of the bin, counted over tokens in the loss.", nullable=False),
    Column("end", pl.UInt32, "tokens", "Where the next bin starts.", nullable=False),
    Column("n", pl.UInt32, "tokens", "Tokens in the bin.", nullable=False),
    Column("mean_kl", pl.Float64, "nat", "Mean reverse_kl in the bin.", nullable=False),
    Column("cut", pl.UInt32, "tokens", "Tokens before the cut; null: the rule did not fire."),
)  # fmt: skip

TRAP_TRACE = (
    _CHECKPOINT,
    Column("rollout", pl.UInt32, "-", "Row of rollouts.parquet: the one asked for, or with the longest stretch.", nullable=False),
    Column("position", pl.UInt32, "tokens", "Place in the response.", nullable=False),
    Column("kl", pl.Float64, "nat", "reverse_kl of the token.", nullable=False),
    Column("mean_kl", pl.Float64, "nat", "Mean of the window that ends here; null: the window is not full."),
    Column("threshold", pl.Float64, "nat", "Threshold of the rollout."),
    Column("phase", pl.String, "-", "pre, agreement, post or untriggered.", nullable=False),
)  # fmt: skip

TRAP_VOCABULARY = (
    _CHECKPOINT,
    Column("token_id", pl.Int32, "-", "The type, one of those with 10 occurrences or more.", nullable=False),
    Column("text", pl.String, "-", "Its text; null without a vocabulary."),
    Column("token_class", pl.String, "-", "Its class by its bytes; null without a vocabulary."),
    Column("n_in", pl.UInt32, "tokens", "Occurrences in the low-KL stretches of the rollouts of the control.", nullable=False),
    Column("n_out", pl.UInt32, "tokens", "Their other occurrences.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts that hold the type.", nullable=False),
    *interval("log_odds", "log ratio", "Log of the odds of the type in the stretches over those outside, drawn towards 0 by 500 tokens on either side that are as all tokens are."),
    Column("null_p05", pl.Float64, "log ratio", "5 % quantile of the same where KL is shuffled inside each rollout and the types stay; of several widths of blocks the lowest."),
    Column("null_p95", pl.Float64, "log ratio", "95 % quantile; the highest."),
    Column("p", pl.Float64, "probability", "Two-sided p that the type stands in stretches of its prompts as often as where the shuffled KL of these prompts is low; the largest over widths of blocks, and 1 where log_odds lies between null_p05 and null_p95."),
    Column("p_adjusted", pl.Float64, "probability", "The same adjusted over types by Benjamini-Hochberg."),
    Column("reason", pl.String, "-", "Why there is no interval and no p."),
)  # fmt: skip

TABLES = {
    "agreement_traps": AGREEMENT_TRAPS,
    "trap_phases": TRAP_PHASES,
    "trap_summary": TRAP_SUMMARY,
    "trap_persistence": TRAP_PERSISTENCE,
    "trap_outcomes": TRAP_OUTCOMES,
    "trap_cuts": TRAP_CUTS,
    "trap_sensitivity": TRAP_SENSITIVITY,
    "trap_map": TRAP_MAP,
    "trap_trace": TRAP_TRACE,
    "trap_vocabulary": TRAP_VOCABULARY,
}
