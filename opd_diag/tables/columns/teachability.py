"""Columns of the result tables of `teachability`."""

import polars as pl

from opd_diag.tables.schema import Column, interval

PLANE = "entropy x divergence"  # the feature of the cells of both
RANDOM = "random"  # the selector that knows nothing
DIVERGENCE = "D"  # the selector that all are held against
THIRDS, MATCHED = "Q3 thirds", "matched"  # the contrasts
# What the letters of the papers stand for, where a person reads them.
WORDS = {
    "D": "divergence (D)",
    "H": "entropy (H)",
    "C": "compatibility (C)",
    "Q3": "low entropy, high divergence",
}
REGRESSION = "regression to the mean not excluded"

_HEAD = (
    Column("checkpoint", pl.String, "-", "Student after training, whose KL is subtracted; the only one where there is one.", nullable=False),
    Column("features_from", pl.String, "-", "Student that every feature comes from.", nullable=False),
    Column("gain_from", pl.String, "-", "Student whose KL the gain starts from; null: there is no gain. Where it is `features_from` itself, noise in its KL is taken for gain (regression to the mean)."),
)  # fmt: skip
_KL = Column("kl", pl.String, "-", "Which KL the gain is measured on: `forward_kl` or `reverse_kl`; the one that leads text and figures stands first.", nullable=False)  # fmt: skip
_REASON = Column("reason", pl.String, "-", "Why there is no value or interval, or what weakens it.")
_NOTE = Column("note", pl.String, "-", "How the row must be read.")


TEACHABILITY = (
    *_HEAD,
    Column("group", pl.String, "-", "Tokens: `all`, `Q3` (low entropy, high divergence), `correct`, `wrong`, `trained-on`, `trained prompt`, `held-out`, or `missing`.", nullable=False),
    Column("feature", pl.String, "-", "Feature that makes the bins; `all`: the whole group; `entropy x divergence`: cells of the plane.", nullable=False),
    Column("bin", pl.UInt8, "-", "Tenth of all tokens by that feature, from 0; in the plane by entropy."),
    Column("bin_low", pl.Float64, "see feature", "Where the tenth starts."),
    Column("bin_high", pl.Float64, "see feature", "Where it ends."),
    Column("other_bin", pl.UInt8, "-", "In the plane: tenth of all tokens by divergence."),
    Column("other_low", pl.Float64, "nat", "Where that starts."),
    Column("other_high", pl.Float64, "nat", "Where it ends."),
    _KL,
    Column("n", pl.UInt64, "tokens", "Tokens.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts with such tokens.", nullable=False),
    *interval("compatibility", "share", "Mean compatibility under `features_from`."),
    *interval("base", "nat", "Mean KL under `gain_from`."),
    *interval("gain", "nat", "Mean KL under `gain_from` minus mean KL under `checkpoint`, at the same contexts."),
    Column("n_relative", pl.UInt64, "tokens", "Tokens whose KL under `gain_from` exceeds max(noise floor, 0.01 nat).", nullable=False),
    *interval("relative", "share", "Summed gain over summed KL under `gain_from`, of all tokens."),
    Column("relative_median", pl.Float64, "share", "Median over those tokens of gain / KL; of whole groups, not of their bins."),
    Column("noise_floor", pl.Float64, "nat", "95th percentile of |difference| between two scorings of the same checkpoint.", nullable=False),
    _REASON,
)  # fmt: skip

TEACHABILITY_MODELS = (
    *_HEAD,
    _KL,
    Column("model", pl.String, "-", "`base`: entropy, divergence, their product, position, teacher entropy. `full`: base, compatibility and its product with divergence. `local`: the gain minus its mean over the 50 nearest tokens, by compatibility, entropy, divergence and position, each minus the same, with slopes that change along entropy and divergence (normal scores); it describes, no answer reads it, and its interval leaves out a true 0 in up to a third of runs. `parts`: d_learn and d_incompat.", nullable=False),
    Column("trimmed", pl.Boolean, "-", "Whether the 0.5 % of tokens with the largest |gain| are left out.", nullable=False),
    Column("term", pl.String, "-", "Term of the model.", nullable=False),
    Column("n", pl.UInt64, "tokens", "Tokens.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts.", nullable=False),
    *interval("coefficient", "nat per unit of term", "Least-squares coefficient; its interval is cluster-robust."),
    *interval("standard", "SD per SD", "The same in standard deviations of gain and term over all tokens."),
    Column("r2", pl.Float64, "share", "Variance of the gain that the model fits; of `local`, of the local gain."),
    Column("delta_r2", pl.Float64, "share", "What its terms with compatibility fit beyond its other terms on the same tokens."),
    Column("n_null", pl.UInt64, "tokens", "Tokens of the seeded sample of prompts on which the null is drawn."),
    Column("sample_delta_r2", pl.Float64, "share", "delta_r2 on that sample."),
    Column("null_delta_r2", pl.Float64, "share", "95th percentile of the same with compatibility permuted inside (entropy, divergence) decile cells. It forgets that tokens of a prompt resemble each other: a scale for delta_r2, no test."),
    _NOTE,
    _REASON,
)  # fmt: skip

TEACHABILITY_CONTRAST = (
    *_HEAD,
    _KL,
    Column("contrast", pl.String, "-", "`Q3 thirds`: top minus bottom third of compatibility inside Q3, descriptive. `matched`: high minus low local compatibility in pairs alike in entropy, divergence and position.", nullable=False),
    Column("within", pl.String, "-", "Whether pairs are sought in the whole `run` or inside the `prompt`; null: no pairs."),
    Column("n", pl.UInt64, "tokens", "Tokens that are compared: of Q3, or of the seeded sample of prompts.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts of the tokens that are compared.", nullable=False),
    Column("n_pairs", pl.UInt64, "pairs", "Pairs; null: no pairs."),
    *interval("share_matched", "share", "Pairs over tokens of the top third."),
    Column("compatibility_gap", pl.Float64, "share", "Mean compatibility of the tokens compared as high minus that of the low ones."),
    Column("gain_top", pl.Float64, "nat", "Mean gain of the tokens of high compatibility."),
    Column("gain_bottom", pl.Float64, "nat", "Mean gain of those of low compatibility."),
    *interval("difference", "nat", "gain_top - gain_bottom."),
    *interval("adjusted", "nat", "The same in matched pairs, from each token's gain minus the mean gain of the 50 nearest tokens: what entropy, divergence and position tell of it is taken out."),
    Column("null", pl.Float64, "nat", "The same difference where compatibility cannot matter: for `Q3 thirds` with every gain replaced by the mean of its (entropy, divergence) decile cell, for `matched` the mean over 5 permutations of local compatibility inside these cells, which forget that tokens of a prompt resemble each other: they show a bias and are no test."),
    Column("null_low", pl.Float64, "nat", "`Q3 thirds`: lower end of its 95 % interval over prompts; `matched`: smallest of the permutations."),
    Column("null_high", pl.Float64, "nat", "Upper end, or the largest."),
    Column("entropy_before", pl.Float64, "normal scores", "High minus low mean of student entropy before matching."),
    Column("entropy_after", pl.Float64, "normal scores", "The same in the pairs."),
    Column("divergence_before", pl.Float64, "normal scores", "High minus low mean of divergence before matching."),
    Column("divergence_after", pl.Float64, "normal scores", "The same in the pairs."),
    Column("position_before", pl.Float64, "SD", "High minus low mean of position before matching."),
    Column("position_after", pl.Float64, "SD", "The same in the pairs."),
    Column("twofold", pl.Float64, "share", "Pairs whose divergence differs more than twofold."),
    Column("p", pl.Float64, "probability", "Of `adjusted` being 0: signs of whole prompts flipped. Null where regression to the mean is not excluded or the pairs are not balanced."),
    _NOTE,
    _REASON,
)  # fmt: skip

TEACHABILITY_SELECTORS = (
    *_HEAD,
    _KL,
    Column("selector", pl.String, "-", "What orders the tokens, or which tokens may be chosen.", nullable=False),
    Column("budget", pl.Float64, "share", "Share of the tokens to choose.", nullable=False),
    Column("budget_per", pl.String, "-", "Whether the share is of the `run` or of each `rollout`.", nullable=False),
    Column("n", pl.UInt64, "tokens", "Tokens chosen.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts of the chosen tokens.", nullable=False),
    Column("actual_budget", pl.Float64, "share", "Share chosen; smaller where too few tokens may be chosen."),
    Column("tied_share", pl.Float64, "share", "Share of the chosen that were picked among equal scores: by raw divergence, then by a seeded hash."),
    *interval("position", "tokens", "Mean position of the chosen."),
    *interval("gain", "nat", "Mean gain of the chosen."),
    *interval("over_mean", "nat", "gain minus the mean gain of all tokens."),
    *interval("captured", "share", "Share of all gain that the chosen hold; null where all gain is not above 0."),
    *interval("over_divergence", "share", "captured minus that of as many tokens of the largest divergence."),
    Column("p", pl.Float64, "probability", "Of no difference from divergence: signs of whole prompts flipped. Null where regression to the mean is not excluded."),
    Column("p_adjusted", pl.Float64, "probability", "The same, adjusted by Holm for the selectors at this budget."),
    _REASON,
)  # fmt: skip

TEACHABILITY_OVERLAP = (
    *_HEAD,
    Column("budget", pl.Float64, "share", "Share of the tokens to choose.", nullable=False),
    Column("selector", pl.String, "-", "One selector.", nullable=False),
    Column("other", pl.String, "-", "The other; itself on the diagonal.", nullable=False),
    Column("n", pl.UInt64, "tokens", "Tokens chosen by either.", nullable=False),
    Column("n_both", pl.UInt64, "tokens", "Tokens chosen by both.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts with tokens chosen by either.", nullable=False),
    *interval("jaccard", "share", "Tokens chosen by both over tokens chosen by either."),
    Column("jaccard_chance", pl.Float64, "share", "Expected Jaccard of two random choices of these sizes."),
    *interval("kl_share", "share", "Share of forward_kl before training on the tokens chosen by both."),
    *interval("gradient_share", "share", "Share of summed grad_logits on them."),
    _REASON,
)  # fmt: skip

TEACHABILITY_SUPPORT = (
    *_HEAD,
    _KL,
    Column("definition", pl.String, "-", "Compatibility as `teacher_mass` on the student's top K, `overlap` of both top K, or `teacher_top`: whether the teacher's best token is in the student's top K.", nullable=False),
    Column("k", pl.UInt32, "tokens", "K.", nullable=False),
    Column("n", pl.UInt64, "tokens", "Tokens.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts.", nullable=False),
    *interval("mean", "share", "Mean compatibility."),
    *interval("saturated", "share", "Share of tokens where it is above 0.999: there it cannot order them."),
    *interval("correlation_entropy", "correlation", "Pearson, with student entropy."),
    *interval("correlation_divergence", "correlation", "Pearson, with divergence."),
    Column("n_local", pl.UInt64, "tokens", "Tokens of the seeded sample of prompts behind the coefficient."),
    *interval("coefficient", "nat", "Gain per unit of local compatibility, model `local`."),
    *interval("standard", "SD per SD", "The same in standard deviations."),
    Column("delta_r2", pl.Float64, "share", "What local compatibility fits beyond the other terms of `local` on the sample."),
    Column("null_delta_r2", pl.Float64, "share", "95th percentile of the same, permuted inside (entropy, divergence) decile cells."),
    _REASON,
)  # fmt: skip

TEACHABILITY_KL = (
    Column("checkpoint", pl.String, "-", "Student.", nullable=False),
    _KL,
    Column("group", pl.String, "-", "Tokens: `all`, or of `correct` or `wrong` rollouts; `group: NAME` and `trained: NAME` are those of the dump.", nullable=False),
    Column("n", pl.UInt64, "tokens", "Tokens in the loss.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts.", nullable=False),
    *interval("mean", "nat", "Mean KL."),
    *interval("change", "nat", "Mean KL minus that under the first checkpoint, paired by token."),
    *interval("relative", "share", "Summed change over the summed KL under the first checkpoint."),
    Column("relative_median", pl.Float64, "share", "Median change / KL of the tokens whose first KL exceeds max(noise floor, 0.01 nat)."),
    Column("p", pl.Float64, "probability", "Of no change: signs of whole prompts flipped."),
    _REASON,
)  # fmt: skip

TABLES = {
    "teachability": TEACHABILITY,
    "teachability_kl": TEACHABILITY_KL,
    "teachability_models": TEACHABILITY_MODELS,
    "teachability_contrast": TEACHABILITY_CONTRAST,
    "teachability_selectors": TEACHABILITY_SELECTORS,
    "teachability_overlap": TEACHABILITY_OVERLAP,
    "teachability_support": TEACHABILITY_SUPPORT,
}
