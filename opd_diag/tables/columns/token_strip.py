"""Columns of `token_strip`: one rollout, token by token. No analysis makes or saves it."""

import polars as pl

from opd_diag.tables.schema import Column

TOKEN_STRIP = (
    Column("checkpoint", pl.String, "-", "Name of the student checkpoint.", nullable=False),
    Column("rollout", pl.UInt32, "-", "Row of rollouts.parquet.", nullable=False),
    Column("rollout_id", pl.String, "-", "The dump's own id; null where the rollouts have none."),
    Column("correct", pl.Boolean, "-", "Whether its answer was right; null where it is not known."),
    Column("prompt", pl.String, "-", "Text of the prompt; null without a vocabulary."),
    Column("position", pl.UInt32, "tokens", "0-based place in the response.", nullable=False),
    Column("token_id", pl.Int32, "-", "The token.", nullable=False),
    Column("text", pl.String, "-", "Its text; null without a vocabulary."),
    Column("student_prob", pl.Float64, "probability", "The student's of this token."),
    Column("teacher_prob", pl.Float64, "probability", "The teacher's of this token."),
    Column("teacher_top_id", pl.Int32, "-", "The teacher's most likely token."),
    Column("teacher_top_text", pl.String, "-", "Its text; null without a vocabulary."),
    Column("teacher_top_prob", pl.Float64, "probability", "The teacher's of that token."),
    Column("column", pl.String, "-", "Which column the value is.", nullable=False),
    Column("unit", pl.String, "-", "Unit of the value.", nullable=False),
    Column("value", pl.Float64, "see unit", "Value of the column; null where it was not measured."),
    Column("segment", pl.UInt32, "-", "Sentence of the token, from 0.", nullable=False),
    Column("in_loss", pl.Boolean, "-", "Whether the token counts in the loss.", nullable=False),
    Column("is_rock", pl.Boolean, "-", "Whether its type is a rock; null without a fresh result of `rock_tokens`."),
    Column("is_released", pl.Boolean, "-", "Whether it stands at or after the release point; null without a fresh result of `release_points`."),
    Column("phase", pl.String, "-", "`pre`, `agreement`, `post`, or `untriggered`; null outside the loss, where the rule could not fire, or without a fresh result of `agreement_traps`."),
)  # fmt: skip
