"""Columns of the result tables of `score_summary`."""

import polars as pl

from opd_diag.tables.schema import Column

ALL = "all"
CORRECT = "correct"
WRONG = "wrong"
SAME_PROMPT = "same prompt"
ANOTHER_PROMPT = "another prompt"

_GROUP = (
    Column("checkpoint", pl.String, "-", "Name of the student checkpoint.", nullable=False),
    Column("group", pl.String, "-", "Rollouts: `all`, or those that are `correct` or `wrong`.", nullable=False),
    Column("column", pl.String, "-", "Column of the token table.", nullable=False),
    Column("unit", pl.String, "-", "Unit of the column.", nullable=False),
)  # fmt: skip
_VALUE = (
    Column("n", pl.UInt64, "tokens", "Tokens in the loss with a value.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts behind the value.", nullable=False),
    Column("value", pl.Float64, "see unit", "Mean over these tokens."),
    Column("value_low", pl.Float64, "see unit", "Lower end of its 95 % interval over prompts."),
    Column("value_high", pl.Float64, "see unit", "Upper end."),
    Column("reason", pl.String, "-", "Why there is no value or interval, or what weakens it."),
)

SCORE_SUMMARY = (*_GROUP, *_VALUE)

SCORE_POSITIONS = (
    *_GROUP,
    Column("axis", pl.String, "-", "`relative` or `absolute` position.", nullable=False),
    Column("bin", pl.UInt32, "-", "Number of the bin, from 0.", nullable=False),
    Column("start", pl.Float64, "share or tokens", "Where the bin starts.", nullable=False),
    Column("end", pl.Float64, "share or tokens", "Where it ends.", nullable=False),
    *_VALUE,
)

SCORE_HISTOGRAM = (
    *_GROUP,
    Column("bin", pl.UInt32, "-", "Number of the bin, from 0.", nullable=False),
    Column("start", pl.Float64, "nat", "Smallest value in the bin.", nullable=False),
    Column("end", pl.Float64, "nat", "Where the next bin starts; null: this is the last."),
    Column("n", pl.UInt64, "tokens", "Tokens in the bin.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts of the group.", nullable=False),
    Column("token_share", pl.Float64, "share", "Share of the group's tokens that lie in the bin."),
    Column("token_share_low", pl.Float64, "share", "Lower end of its 95 % interval over prompts."),
    Column("token_share_high", pl.Float64, "share", "Upper end."),
    Column("loss_share", pl.Float64, "share", "Share of the group's summed KL that they hold."),
    Column("loss_share_low", pl.Float64, "share", "Lower end of its 95 % interval over prompts."),
    Column("loss_share_high", pl.Float64, "share", "Upper end."),
    Column("token_share_above", pl.Float64, "share", "Share of tokens in this bin and above."),
    Column("token_share_above_low", pl.Float64, "share", "Lower end of its 95 % interval over prompts."),
    Column("token_share_above_high", pl.Float64, "share", "Upper end."),
    Column("loss_share_above", pl.Float64, "share", "Share of the summed KL that tokens in this bin and above hold."),
    Column("loss_share_above_low", pl.Float64, "share", "Lower end of its 95 % interval over prompts."),
    Column("loss_share_above_high", pl.Float64, "share", "Upper end."),
    Column("reason", pl.String, "-", "Why a share or an interval is missing, or what weakens it."),
)  # fmt: skip

_QUANTITIES = (
    ("reverse_kl", "nat", "Mean KL(student ‖ teacher) of its tokens"),
    ("forward_kl", "nat", "Mean KL(teacher ‖ student) of its tokens"),
    ("length", "tokens", "Mean tokens in the loss of a rollout"),
    ("reward", "reward", "Mean reward of its rollouts that have one"),
)

SCORE_GROUPS = (
    Column("checkpoint", pl.String, "-", "Name of the student checkpoint.", nullable=False),
    Column("split", pl.String, "-", "`group` of the dump, or `trained`: what training kept and dropped.", nullable=False),
    Column("group", pl.String, "-", "Name of the group; `kept` or `dropped`; `unknown` where the dump does not tell; `others`: all groups beyond 39.", nullable=False),
    Column("n_rollouts", pl.UInt32, "rollouts", "Its rollouts.", nullable=False),
    Column("n", pl.UInt64, "tokens", "Their tokens in the loss.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Their prompts.", nullable=False),
    *(
        one
        for share, meaning in (
            ("token_share", "Share of all tokens in the loss that it holds."),
            ("reverse_kl_share", "Share of the summed reverse KL that it holds, to be read beside its share of the tokens."),
            ("forward_kl_share", "Share of the summed forward KL that it holds."),
        )
        for one in (
            Column(share, pl.Float64, "share", meaning),
            Column(f"{share}_low", pl.Float64, "share", "Lower end of its 95 % interval over prompts."),
            Column(f"{share}_high", pl.Float64, "share", "Upper end."),
        )
    ),
    Column("lift", pl.Float64, "ratio", "Its mean reverse KL over that of all tokens: 1 where both shares are equal."),
    Column("lift_low", pl.Float64, "ratio", "Lower end of its 95 % interval over prompts."),
    Column("lift_high", pl.Float64, "ratio", "Upper end."),
    *(
        one
        for name, unit, meaning in _QUANTITIES
        for one in (
            Column(name, pl.Float64, unit, f"{meaning}."),
            Column(f"{name}_low", pl.Float64, unit, "Lower end of its 95 % interval over prompts."),
            Column(f"{name}_high", pl.Float64, unit, "Upper end."),
            Column(f"{name}_difference", pl.Float64, unit, "The same minus that of all other rollouts."),
            Column(f"{name}_difference_low", pl.Float64, unit, "Lower end of its 95 % interval over prompts."),
            Column(f"{name}_difference_high", pl.Float64, unit, "Upper end."),
        )
    ),
    Column("reason", pl.String, "-", "Why there is no interval, or what weakens it."),
)  # fmt: skip

_FIRST = (
    ("reverse_kl", "nat", "Mean KL(student ‖ teacher) at this place"),
    ("forward_kl", "nat", "Mean KL(teacher ‖ student)"),
    ("student_logp", "nat", "Mean log-prob of the token under the student"),
    (
        "teacher_logp",
        "nat",
        "Mean log-prob of the token under the teacher, which read its own prompt",
    ),
    (
        "shared_end",
        "tokens",
        "Mean tokens at the end of the student's prompt that the teacher's ends in, too; the same in all rows of a group",
    ),
)

SCORE_FIRST_TOKENS = (
    Column("checkpoint", pl.String, "-", "Name of the student checkpoint.", nullable=False),
    Column("group", pl.String, "-", "Rollouts: those whose teacher reads the `same prompt` as the student, or `another prompt`.", nullable=False),
    Column("place", pl.String, "-", "Place among the response's tokens in the loss, from 0; `later`: all after the first 8.", nullable=False),
    Column("n_rollouts", pl.UInt32, "rollouts", "Rollouts of the group.", nullable=False),
    Column("n", pl.UInt64, "tokens", "Their tokens at this place that have a KL.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Their prompts.", nullable=False),
    *(
        one
        for name, unit, meaning in _FIRST
        for one in (
            Column(name, pl.Float64, unit, f"{meaning}."),
            Column(f"{name}_low", pl.Float64, unit, "Lower end of its 95 % interval over prompts."),
            Column(f"{name}_high", pl.Float64, unit, "Upper end."),
        )
    ),
    Column("reason", pl.String, "-", "Why there is no interval, or what weakens it."),
)  # fmt: skip

TABLES = {
    "score_summary": SCORE_SUMMARY,
    "score_positions": SCORE_POSITIONS,
    "score_histogram": SCORE_HISTOGRAM,
    "score_groups": SCORE_GROUPS,
    "score_first_tokens": SCORE_FIRST_TOKENS,
}
