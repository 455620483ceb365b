"""How to read each figure, and which are drawn where none is named."""

from collections.abc import Mapping

CAPTIONS: Mapping[str, str] = {
    "agreement_traps": "Where in a rollout the low-KL rule fires: a spike at 0 means from the "
    "start, not after a decline.",
    "continuation": "How often student and teacher reach the right answer from the cut, and from "
    "as deep in other rollouts of the problem: where it is lower, what precedes leads astray.",
    "findings": "One row is a question: an interval inside the grey band is a no, beyond it a "
    "difference matters; estimate and control stand on the right.",
    "loss_audit": "Mean of each estimator over the exact reverse KL of the same tokens: inside the "
    "grey band it is off by at most 10 %.",
    "loss_audit_flips": "Tokens whose own logit an estimator pushes the wrong way, or not at all.",
    "loss_bins": "Estimators over tokens sorted by their exact KL: below the diagonal the loss of "
    "large disagreements is lost.",
    "knock_out": "What each ban costs in accuracy: rocks matter where their bar lies left of that "
    "of the control; repeats without a ban show the noise.",
    "release_budgets": "Each row keeps some tokens; right of 1 they carry more of a quantity per "
    "token than all tokens do. Compare `release` with the controls of equal budget.",
    "release_correlation": "One point is a rollout: below the diagonal student and teacher agree "
    "less on the last fifth of the response than on the first.",
    "release_curves": "Spread of the advantage over relative position, as a share of its value in "
    "the first fifth: a fade is a slope, a collapse a step.",
    "release_curves_absolute": "The same spread by token position: late bins hold long rollouts "
    "only.",
    "release_curves_advantage": "Mean advantage over relative position: at 0 the teacher likes "
    "the student's tokens as much as the student does.",
    "release_curves_entropy": "Entropies of student and teacher over relative position: both "
    "low where the text is determined.",
    "release_curves_margin": "The teacher's margin among the student's top K over relative "
    "position: the signal that the release rule reads, for every K.",
    "release_curves_overlap": "Shared share of both top 16 over relative position: how much of "
    "the teacher's choice the student considers.",
    "release_curves_policy": "The same curve on rollouts of different policies: what belongs to "
    "the position, and what to who wrote the text.",
    "release_example": "One accepted rollout, segment by segment: the rule cuts where the fitted "
    "mean drops.",
    "release_points": "Gain of the best downward shift: the rule accepts what lies right of the "
    "threshold.",
    "release_points_positions": "Where in the response accepted release points stand.",
    "release_summary": "The rule accepts no more than noise does unless `downward` lies right of "
    "`upward` and of shuffled segments.",
    "replacement": "What replacing one token does to the answer: rocks carry it where their bar "
    "lies below that of other tokens alike.",
    "rock_composition": "Classes of tokens among rocks, among all others and in the loss: a class "
    "whose share of the loss exceeds that of the tokens is hard as a whole.",
    "rock_composition_lift": "Mean loss and gradient of each class of tokens: 1 is that of all "
    "tokens at the same places.",
    "rock_cutoff": "How long a list may be: agreement of the lists of two halves of the prompts "
    "falls where chance begins; frequency alone is drawn beside it.",
    "rock_example": "One rollout: underlined tokens are of rock types, the colour is their loss.",
    "rock_groups": "Mean loss of groups of types over the checkpoints: chosen on one half of the "
    "prompts and measured on the other; dotted lines choose and measure on the same rows.",
    "rock_outputs": "Share of a rollout's tokens, and of its loss, that rock types hold: a list "
    "of frequent types holds much of both.",
    "rock_persistence": "Of the hardest fifth at first, the share that stays in the hardest fifth: "
    "rocks persist where their curve lies above that of the others.",
    "rock_persistence_classes": "One bar is a group or class of tokens: what was learned, stayed "
    "hard or became hard from the first checkpoint to the last.",
    "rock_persistence_types": "One line is a listed type: how many of its hard tokens stay hard, "
    "and how many would if it did not matter which.",
    "rock_selectors": "Right is stable over halves of the prompts, up is more loss than "
    "frequency explains: a useful list is both.",
    "rock_tokens": "One point is a token type: above the grey band its mean loss exceeds that of "
    "as many random tokens.",
    "rock_tokens_change": "One point is a token type: on the diagonal its loss has not changed "
    "between the checkpoints.",
    "rock_tokens_gradients": "Squared norm of the mean gradient of a type: the raw one grows "
    "as types get rarer from noise alone, the one across halves does not.",
    "score_histogram": "Tokens sorted by their KL: where the coloured steps stand far right of the "
    "grey ones, few tokens hold the loss.",
    "score_histogram_forward": "The same for the other direction of the KL.",
    "score_positions": "Mean KL along the response under the first and the last checkpoint; each "
    "rollout counts at every place.",
    "score_positions_absolute": "Mean KL by token position: late bins hold long rollouts only.",
    "score_positions_forward": "The same along the response for the other direction of the KL.",
    "score_summary": "Mean KL of both directions under each checkpoint, on the same tokens: lower "
    "is closer to the teacher.",
    "teachability": "Gain by tenths of a feature measured before training: a useful feature "
    "sorts the gain.",
    "teachability_contrast": "Gain of compatible minus incompatible tokens: only the matched "
    "pairs hold entropy, divergence and position fixed, tokens of low entropy and high divergence "
    "are described; grey is what chance gives.",
    "teachability_groups": "Gain of groups of tokens with intervals over prompts.",
    "teachability_models": "Standardised coefficients of the gain; `local` is the model that "
    "tests compatibility.",
    "teachability_overlap": "Share of tokens that two selectors have in common at a budget.",
    "teachability_plane": "Gain by entropy and divergence before training: cells of few tokens "
    "are noise.",
    "teachability_plane_compatibility": "Compatibility by entropy and divergence: where it hardly "
    "varies it cannot be told from divergence.",
    "teachability_selectors": "Gain of the tokens that a selector chooses at each budget: compare "
    "with the mean of all tokens.",
    "teachability_selectors_captured": "Share of all gain that the chosen tokens hold at each "
    "budget: a random choice holds as much as its budget.",
    "teachability_support": "Coefficient of compatibility for other definitions of it: a finding "
    "should not depend on K.",
    "trap_cuts": "Gain per token kept by the low-KL cut and by other cuts of equal size, over "
    "thresholds: only the shuffled cuts are a null.",
    "trap_cuts_correct": "Share of kept tokens that belong to correct rollouts, for the low-KL "
    "cut and for other cuts of equal size.",
    "trap_map": "One row is a rollout, dark is low KL; points mark where the rule cuts.",
    "trap_outcomes": "Share wrong where the rule fires minus elsewhere: the crude difference mixes "
    "prompts; all others are within prompts, the last rows among rollouts that run as long.",
    "trap_persistence": "Longest run below the threshold: a stretch is a run longer than blocks "
    "of tokens as wide as a window make when they are shuffled.",
    "trap_phases": "Means before, in and after the low-KL stretch, each beside the same on "
    "shuffled blocks of tokens.",
    "trap_phases_gradient": "Gradient norms before, in and after the stretch, each beside the "
    "same on shuffled blocks of tokens.",
    "trap_phases_shares": "Shares of tokens before, in and after the stretch, each beside the "
    "same on shuffled blocks of tokens.",
    "trap_sensitivity": "One point is a setting of the rule: above 1 the longest run below the "
    "threshold is longer than in shuffled blocks.",
    "trap_summary": "What the rule does over what it does on shuffled blocks of tokens: 1 needs "
    "no persistence of low KL.",
    "trap_vocabulary": "Odds of token types in low-KL stretches over those outside: right of its "
    "grey bar, a type stands there more often than where shuffled KL is low.",
    "trap_trace": "One rollout: the rule fires where the window mean stays below the threshold.",
    "overview": "One figure of each analysis: the finding beside what chance gives.",
    "rollout": "One rollout, token by token: the colour is the column named above the scale.",
    "update_alignment": "Each group's share of the decrease of KL that the update brings to first "
    "order: right of its tick, more than the same number of tokens elsewhere in the rollout.",
    "update_tokens": "One point is a token: on the line the update acted linearly; far from it the "
    "first order says little.",
}

# Few enough to look at: of each analysis what it finds, beside its null.
DEFAULT = (
    "overview",
    "findings",
    "score_summary",
    "score_positions",
    "score_histogram",
    "loss_audit",
    "release_points",
    "release_curves",
    "release_summary",
    "rock_tokens",
    "rock_persistence",
    "rock_example",
    "teachability_contrast",
    "teachability_selectors",
    "trap_map",
    "trap_persistence",
    "trap_outcomes",
)
