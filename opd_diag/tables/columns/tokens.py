"""Columns of the token table: one row per response token and checkpoint."""

from collections.abc import Sequence

import polars as pl

from opd_diag.tables.schema import Column

K_GRID = (2, 4, 8, 16, 32, 64)
TRUNCATED_K = (4, 16, 64)
KL_NAMES = {"reverse_kl": "KL(student ‖ teacher)", "forward_kl": "KL(teacher ‖ student)"}

KEYS = ("checkpoint", "rollout", "position")


def truncated_grid(k_grid: Sequence[int]) -> tuple[int, ...]:
    """Return the K of the truncated reverse KL: 4, 16 and 64, or the last of a grid without them.

    They are few because these columns take as much disk as all others.

    Args:
        k_grid: The K of the columns that hold one value per K, rising.
    """
    return tuple(k for k in k_grid if k in TRUNCATED_K) or tuple(k_grid[-1:])


def token_columns(k_grid: Sequence[int] = K_GRID) -> tuple[Column, ...]:
    """Return the columns of the token table for a grid of K.

    Args:
        k_grid: The K of the columns that hold one value per K, rising.
    """
    per_k = pl.Array(pl.Float32, len(k_grid))
    per_truncated_k = pl.Array(pl.Float32, len(truncated_grid(k_grid)))
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
        Column("reverse_kl_low", pl.Float32, "nat", "Lower bound of reverse_kl, where the teacher's source allows no exact value."),
        Column("reverse_kl_high", pl.Float32, "nat", "Upper bound of reverse_kl, where the teacher's source gives one."),
        Column("forward_kl_low", pl.Float32, "nat", "Lower bound of forward_kl, where the teacher's source allows no exact value."),
        Column("js", pl.Float32, "nat", "Jensen-Shannon divergence, weights 1/2."),
        Column("student_entropy", pl.Float32, "nat", "Entropy of the student."),
        Column("teacher_entropy", pl.Float32, "nat", "Entropy of the teacher."),
        Column("student_top_id", pl.Int32, "-", "The student's most likely token."),
        Column("teacher_top_id", pl.Int32, "-", "The teacher's most likely token."),
        Column("teacher_top_logp", pl.Float32, "nat", "Teacher log-prob of teacher_top_id."),
        Column("teacher_top_rank", pl.UInt32, "rank", "Rank of teacher_top_id under the student."),
        Column("margin", per_k, "nat", "Teacher log-prob gap between its best and second-best token among the student's top K."),
        Column("teacher_mass", per_k, "share", "Teacher probability of the student's top K."),
        Column("student_mass", per_truncated_k, "share", "Student probability of its own top K."),
        Column("reverse_kl_top", per_truncated_k, "nat", "Sum of p (log p - log q) over the student's top K, p student, q teacher, not renormalised."),
        Column("teacher_top_mass", per_truncated_k, "share", "Teacher probability of its own top K."),
        Column("student_mass_teacher_top", per_truncated_k, "share", "Student probability of the teacher's top K."),
        Column("reverse_kl_teacher_top", per_truncated_k, "nat", "Sum of p (log p - log q) over the teacher's top K."),
        Column("overlap", per_k, "share", "Shared share of the two top-K sets."),
        Column("union_kl", pl.Float32, "nat", "KL(teacher ‖ student) on the union of both top-16 sets, each renormalised there."),
        Column("advantage_var", pl.Float32, "nat²", "Variance of log q - log p under the student renormalised on its top 4."),
        Column("grad_logits", pl.Float32, "nat/logit", "L2 norm of d reverse_kl / d student logits."),
        Column("grad_hidden", pl.Float32, "nat/unit", "L2 norm of d reverse_kl / d final hidden state."),
        Column("grad_head", pl.Float32, "nat/unit", "Frobenius norm of d reverse_kl / d output-head weight."),
        Column("repeat", pl.UInt16, "tokens", "Longest n-gram (n <= 32) ending here that also ended earlier in the response.", nullable=False),
    )  # fmt: skip


TOKENS = token_columns()

# They came with schema version 3: a run without them is complete, and holds null in them.
SINCE_VERSION_3 = (
    "reverse_kl_low",
    "reverse_kl_high",
    "forward_kl_low",
    "student_mass",
    "reverse_kl_top",
    "teacher_top_mass",
    "student_mass_teacher_top",
    "reverse_kl_teacher_top",
)


def with_later_columns(frame: pl.LazyFrame, k_grid: Sequence[int]) -> pl.LazyFrame:
    """Give a part of the token table the columns that came later, null, where it lacks them."""
    known = frame.collect_schema()
    columns = [column for column in token_columns(k_grid)[1:] if column.name in SINCE_VERSION_3]
    absent = [column for column in columns if column.name not in known]
    return frame.with_columns(pl.lit(None, column.dtype).alias(column.name) for column in absent)
