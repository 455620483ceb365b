"""Columns of the result tables of `loss_audit`."""

import polars as pl

from opd_diag.tables.schema import Column

MARGIN = 0.1  # of the exact KL: what a bias may be without mattering

_ESTIMATOR = (
    Column("checkpoint", pl.String, "-", "Name of the student checkpoint.", nullable=False),
    Column("estimator", pl.String, "-", "`k1`, `k2`, `k3`: from the token that stands there; `student_top_K`, `teacher_top_K`: the part of the reverse KL on the K likeliest tokens of that model, `_renormalised` there, or with the rest as one `_bucket`; `_clamp_C`: cut at ±C.", nullable=False),
)  # fmt: skip

_AGAINST_EXACT = (
    Column("mean", pl.Float64, "nat", "Mean of the estimator over these tokens."),
    Column("mean_low", pl.Float64, "nat", "Lower end of its 95 % interval over prompts."),
    Column("mean_high", pl.Float64, "nat", "Upper end."),
    Column("exact", pl.Float64, "nat", "Mean reverse_kl of the same tokens."),
    Column("exact_low", pl.Float64, "nat", "Lower end of its 95 % interval over prompts."),
    Column("exact_high", pl.Float64, "nat", "Upper end."),
    Column("bias", pl.Float64, "nat", "Mean minus exact."),
    Column("bias_low", pl.Float64, "nat", "Lower end of its 95 % interval over prompts."),
    Column("bias_high", pl.Float64, "nat", "Upper end."),
    Column("relative", pl.Float64, "ratio", "Mean over exact: 1 is no bias."),
    Column("relative_low", pl.Float64, "ratio", "Lower end of its 95 % interval over prompts."),
    Column("relative_high", pl.Float64, "ratio", "Upper end."),
)  # fmt: skip

LOSS_AUDIT = (
    *_ESTIMATOR,
    Column("trainer_loss", pl.Boolean, "-", "Whether it is the loss that the finding asks about.", nullable=False),
    Column("n", pl.UInt64, "tokens", "Tokens in the loss with a value.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts behind the values.", nullable=False),
    *_AGAINST_EXACT,
    Column("p", pl.Float64, "probability", "p that the mean lies within 10 % of the exact one: signs of whole prompts are flipped."),
    Column("variance", pl.Float64, "nat²", "Variance over tokens of the estimator minus reverse_kl of the token; of the estimator where that is not known."),
    Column("variance_low", pl.Float64, "nat²", "Lower end of its 95 % interval over prompts."),
    Column("variance_high", pl.Float64, "nat²", "Upper end."),
    Column("flips", pl.Float64, "share", "Tokens on whose own logit the gradient has the sign opposite to that of the exact KL."),
    Column("flips_low", pl.Float64, "share", "Lower end of its 95 % interval over prompts."),
    Column("flips_high", pl.Float64, "share", "Upper end."),
    Column("flipped_gradient", pl.Float64, "share", "The same weighted by the size of the exact gradient on that logit."),
    Column("flipped_gradient_low", pl.Float64, "share", "Lower end of its 95 % interval over prompts."),
    Column("flipped_gradient_high", pl.Float64, "share", "Upper end."),
    Column("no_gradient", pl.Float64, "share", "Tokens on whose own logit there is no gradient: at a clamp, or outside the top K."),
    Column("no_gradient_low", pl.Float64, "share", "Lower end of its 95 % interval over prompts."),
    Column("no_gradient_high", pl.Float64, "share", "Upper end."),
    Column("at_clamp", pl.Float64, "share", "Tokens whose value is cut; null without a clamp."),
    Column("at_clamp_low", pl.Float64, "share", "Lower end of its 95 % interval over prompts."),
    Column("at_clamp_high", pl.Float64, "share", "Upper end."),
    Column("correlation", pl.Float64, "-", "Pearson correlation with reverse_kl over rollouts, means of their tokens."),
    Column("correlation_low", pl.Float64, "-", "Lower end of its 95 % interval over prompts."),
    Column("correlation_high", pl.Float64, "-", "Upper end."),
    Column("sampled_here", pl.Boolean, "-", "Whether this checkpoint sampled the tokens, which k1, k2 and k3 rely on; null where it is not known."),
    Column("reason", pl.String, "-", "Why there is no value or interval, or what weakens it."),
)  # fmt: skip

LOSS_BINS = (
    *_ESTIMATOR,
    Column("bin", pl.UInt32, "-", "Number of the bin of reverse_kl, from 0.", nullable=False),
    Column("start", pl.Float64, "nat", "Smallest reverse_kl in the bin.", nullable=False),
    Column("end", pl.Float64, "nat", "Where the next bin starts; null: this is the last."),
    Column("n", pl.UInt64, "tokens", "Tokens in the bin.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts with such tokens.", nullable=False),
    Column("exact", pl.Float64, "nat", "Mean reverse_kl of the tokens in the bin."),
    Column("mean", pl.Float64, "nat", "Mean of the estimator over them."),
    Column("mean_low", pl.Float64, "nat", "Lower end of its 95 % interval over prompts."),
    Column("mean_high", pl.Float64, "nat", "Upper end."),
    Column("reason", pl.String, "-", "Why there is no mean or interval, or what weakens it."),
)  # fmt: skip

LOSS_GROUPS = (
    *_ESTIMATOR,
    Column("split", pl.String, "-", "`group` of the dump, or `trained`: what training kept and dropped.", nullable=False),
    Column("group", pl.String, "-", "Name of the group; `kept` or `dropped`; `unknown` where the dump does not tell; `others`: all groups beyond 39.", nullable=False),
    Column("n_rollouts", pl.UInt32, "rollouts", "Its rollouts with such tokens.", nullable=False),
    Column("n", pl.UInt64, "tokens", "Their tokens in the loss with a value and an exact KL.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Their prompts.", nullable=False),
    *_AGAINST_EXACT,
    Column("reason", pl.String, "-", "Why there is no value or interval, or what weakens it."),
)  # fmt: skip

TABLES = {"loss_audit": LOSS_AUDIT, "loss_bins": LOSS_BINS, "loss_groups": LOSS_GROUPS}
