"""Columns of the token table: one row per response token and checkpoint."""

from collections.abc import Sequence

import polars as pl

from opd_diag.tables.schema import Column

K_GRID = (2, 4, 8, 16, 32, 64)

KEYS = ("checkpoint", "rollout", "position")


def token_columns(k_grid: Sequence[int] = K_GRID) -> tuple[Column, ...]:
    """Return the columns of the token table for a grid of K.

    Args:
        k_grid: The K of the columns that hold one value per K, rising.
    """
    per_k = pl.Array(pl.Float32, len(k_grid))
    return (
        Column("checkpoint", pl.String, "-", "Name of the student checkpoint.", nullable=False),
        Column("rollout", pl.UInt32, "-", "Row of rollouts.parquet.", nullable=False),
        Column("position", pl.UInt32, "tokens", "0-based place in the response.", nullable=False),
        Column("token_id", pl.Int32, "-", "The token that stands there, the target of this distribution.", nullable=False),
        Column("segment", pl.UInt32, "-", "Sentence of the token, from 0.", nullable=False),
        Column("in_loss", pl.Boolean, "-", "Whether the token counts in the loss.", nullable=False),
        Column("student_logp", pl.Float32, "nat", "Student log-prob of token_id."),
        Column("teacher_logp", pl.Float32, "nat", "Teacher log-prob of token_id."),
        Column("student_rank", pl.UInt32, "rank", "1 + number of ids with a larger student logit than token_id."),
        Column("teacher_rank", pl.UInt32, "rank", "1 + number of ids with a larger teacher logit than token_id."),
        Column("reverse_kl", pl.Float32, "nat", "KL(student ‖ teacher), whole vocabulary."),
        Column("forward_kl", pl.Float32, "nat", "KL(teacher ‖ student), whole vocabulary."),
        Column("js", pl.Float32, "nat", "Jensen-Shannon divergence, weights 1/2."),
        Column("student_entropy", pl.Float32, "nat", "Entropy of the student."),
        Column("teacher_entropy", pl.Float32, "nat", "Entropy of the teacher."),
        Column("student_top_id", pl.Int32, "-", "The student's most likely token."),
        Column("teacher_top_id", pl.Int32, "-", "The teacher's most likely token."),
        Column("teacher_top_logp", pl.Float32, "nat", "Teacher log-prob of teacher_top_id."),
        Column("teacher_top_rank", pl.UInt32, "rank", "Rank of teacher_top_id under the student."),
        Column("margin", per_k, "nat", "Teacher log-prob gap between its best and second-best token among the student's top K."),
        Column("teacher_mass", per_k, "share", "Teacher probability of the student's top K."),
        Column("overlap", per_k, "share", "Shared share of the two top-K sets."),
        Column("union_kl", pl.Float32, "nat", "KL(teacher ‖ student) on the union of both top-16 sets, each renormalised there."),
        Column("advantage_var", pl.Float32, "nat²", "Variance of log q - log p under the student renormalised on its top 4."),
        Column("grad_logits", pl.Float32, "nat/logit", "L2 norm of d reverse_kl / d student logits."),
        Column("grad_hidden", pl.Float32, "nat/unit", "L2 norm of d reverse_kl / d final hidden state."),
        Column("grad_head", pl.Float32, "nat/unit", "Frobenius norm of d reverse_kl / d output-head weight."),
        Column("repeat", pl.UInt16, "tokens", "Longest n-gram (n <= 32) ending here that also ended earlier in the response.", nullable=False),
    )  # fmt: skip


TOKENS = token_columns()
