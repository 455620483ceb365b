"""Columns of the result tables of `score_summary`."""

import polars as pl

from opd_diag.tables.schema import Column

ALL = "all"
CORRECT = "correct"
WRONG = "wrong"

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

TABLES = {
    "score_summary": SCORE_SUMMARY,
    "score_positions": SCORE_POSITIONS,
    "score_histogram": SCORE_HISTOGRAM,
}
