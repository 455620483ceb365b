"""Columns of the result tables of `update_alignment`."""

import polars as pl

from opd_diag.tables.schema import Column

DRAWS = 20  # random directions beside every update

UPDATE_ALIGNMENT = (
    Column("checkpoint", pl.String, "-", "Checkpoint that the update leads to.", nullable=False),
    Column("checkpoint_from", pl.String, "-", "Checkpoint that it starts from: all derivatives are taken there.", nullable=False),
    Column("split", pl.String, "-", "What the tokens are split by: all, phase, release, rock, selector, correct, group.", nullable=False),
    Column("group", pl.String, "-", "Which of them.", nullable=False),
    Column("kl", pl.String, "-", "`reverse_kl` or `forward_kl`.", nullable=False),
    Column("n", pl.UInt64, "tokens", "Tokens in the loss.", nullable=False),
    Column("n_rollouts", pl.UInt32, "rollouts", "Rollouts that they stand in.", nullable=False),
    Column("n_prompts", pl.UInt32, "prompts", "Prompts that they stand in.", nullable=False),
    Column("token_share", pl.Float64, "share", "Their share of all tokens in the loss."),
    Column("sum", pl.Float64, "nat", "Summed first-order change of their KL; below 0: the update lowers it."),
    Column("mean", pl.Float64, "nat", "First-order change a token."),
    Column("mean_low", pl.Float64, "nat", "Lower end of its 95 % interval over prompts."),
    Column("mean_high", pl.Float64, "nat", "Upper end."),
    Column("share", pl.Float64, "share", "Share of the summed first-order decrease; null where KL does not decrease to first order."),
    Column("share_low", pl.Float64, "share", "Lower end of its 95 % interval over prompts."),
    Column("share_high", pl.Float64, "share", "Upper end."),
    Column("shifted_share", pl.Float64, "share", "The same with the group moved circularly inside each rollout, mean of 20 shifts."),
    Column("share_difference", pl.Float64, "share", "Share minus shifted share."),
    Column("share_difference_low", pl.Float64, "share", "Lower end of its 95 % interval over prompts."),
    Column("share_difference_high", pl.Float64, "share", "Upper end."),
    Column("realised", pl.Float64, "nat", "Change of KL a token that the update really brought."),
    Column("realised_low", pl.Float64, "nat", "Lower end of its 95 % interval over prompts."),
    Column("realised_high", pl.Float64, "nat", "Upper end."),
    Column("random_mean", pl.Float64, "nat", "First-order change a token, mean of 20 random directions as long as the update in every matrix."),
    Column("random_sd", pl.Float64, "nat", "Its standard deviation over these directions."),
    Column("later_mean", pl.Float64, "nat", "First-order change a token under the update that follows, which was trained on later rollouts; null for the last update."),
    Column("later_mean_low", pl.Float64, "nat", "Lower end of its 95 % interval over prompts."),
    Column("later_mean_high", pl.Float64, "nat", "Upper end."),
    Column("later_share", pl.Float64, "share", "The group's share of the decrease under that update."),
    Column("later_share_low", pl.Float64, "share", "Lower end of its 95 % interval over prompts."),
    Column("later_share_high", pl.Float64, "share", "Upper end."),
    Column("reason", pl.String, "-", "Why there is no interval or share, or what weakens it."),
)  # fmt: skip

UPDATE_TOKENS = (
    Column("checkpoint", pl.String, "-", "Checkpoint that the update leads to.", nullable=False),
    Column("checkpoint_from", pl.String, "-", "Checkpoint that it starts from.", nullable=False),
    Column("rollout", pl.UInt32, "-", "Row of rollouts.parquet.", nullable=False),
    Column("position", pl.UInt32, "tokens", "0-based place in the response.", nullable=False),
    Column("first_order_reverse_kl", pl.Float32, "nat", "Derivative of reverse_kl along the update."),
    Column("first_order_forward_kl", pl.Float32, "nat", "That of forward_kl."),
    Column("realised_reverse_kl", pl.Float32, "nat", "Change of reverse_kl from one checkpoint to the other."),
    Column("realised_forward_kl", pl.Float32, "nat", "That of forward_kl."),
    Column("random_reverse_kl", pl.Array(pl.Float32, DRAWS), "nat", "Derivative of reverse_kl along random directions as long as the update in every matrix."),
)  # fmt: skip

UPDATE_SUBSPACE = (
    Column("checkpoint", pl.String, "-", "Checkpoint that the update leads to.", nullable=False),
    Column("checkpoint_from", pl.String, "-", "Checkpoint that it starts from.", nullable=False),
    Column("matrix", pl.String, "-", "Name of the matrix.", nullable=False),
    Column("split", pl.String, "-", "What the tokens are split by.", nullable=False),
    Column("group", pl.String, "-", "Which of them.", nullable=False),
    Column("n", pl.UInt64, "tokens", "Tokens that the gradient is summed over: as many in every group of a split.", nullable=False),
    Column("directions", pl.UInt32, "-", "Leading left singular directions of the update, k.", nullable=False),
    Column("rho", pl.Float64, "share", "Share of the squared gradient of reverse_kl in these directions."),
    Column("floor", pl.Float64, "share", "What a random gradient has there: k over the number of rows."),
    Column("cross_half", pl.Float64, "share", "The same across halves of the prompts, <P g_A, P g_B> / <g_A, g_B>; null where the halves share no direction, or one has no such token."),
    Column("reason", pl.String, "-", "Why a value is missing."),
)  # fmt: skip

TABLES = {
    "update_alignment": UPDATE_ALIGNMENT,
    "update_tokens": UPDATE_TOKENS,
    "update_subspace": UPDATE_SUBSPACE,
}
