"""Columns of rollouts.parquet and vocab.parquet."""

import polars as pl

from opd_diag.tables.schema import Column

ROLLOUTS = (
    Column("rollout", pl.UInt32, "-", "Row number, the join key everywhere.", nullable=False),
    Column("rollout_id", pl.String, "-", "The dump's own id, unique; absent: `<file>:<line>`.", nullable=False),
    Column("prompt_id", pl.String, "-", "Same prompt, same id; the cluster of every bootstrap.", nullable=False),
    Column("half", pl.UInt8, "-", "0 or 1: the half of the prompts that the rollout belongs to.", nullable=False),
    Column("sample", pl.UInt32, "-", "Index within (prompt_id, policy, step), in file order.", nullable=False),
    Column("step", pl.Int64, "steps", "Training step of the dump."),
    Column("policy", pl.String, "-", "Who generated it, such as a checkpoint's name."),
    Column("prompt_token_ids", pl.List(pl.Int32), "-", "Ids of the prompt.", nullable=False),
    Column("response_token_ids", pl.List(pl.Int32), "-", "Ids of the response.", nullable=False),
    Column("teacher_prompt_token_ids", pl.List(pl.Int32), "-", "Ids of the teacher's prompt where it reads another one."),
    Column("loss_mask", pl.List(pl.Boolean), "-", "Which response tokens count; null: every one."),
    Column("sampled_logp", pl.List(pl.Float32), "nat", "The generator's own log-probs of the response."),
    Column("finish_reason", pl.String, "-", "`stop`, `length` or `other`."),
    Column("reward", pl.Float64, "reward", "The dump's reward."),
    Column("correct", pl.Boolean, "-", "Whether the answer was right."),
    Column("token_exact", pl.Boolean, "-", "False where ids had to be made from text again.", nullable=False),
    Column("source", pl.String, "-", "File, as given.", nullable=False),
    Column("source_row", pl.UInt32, "-", "Line or row in that file, from 1.", nullable=False),
    Column("answer", pl.String, "-", "The dump's reference answer."),
    Column("group", pl.String, "-", "The dump's domain, environment or data source."),
    Column("trained", pl.Boolean, "-", "Whether the trainer took the rollout; null where the dump does not tell."),
    Column("trainer_teacher_logp", pl.List(pl.Float32), "nat", "The teacher's log-probs of the response that the trainer saw; null where it is not among the ids that it kept."),
    Column("trainer_top_id", pl.List(pl.Int32), "-", "The teacher's likeliest id at each response token, of those that the trainer saw."),
    Column("trainer_top_mass", pl.List(pl.Float32), "probability", "What the ids that the trainer saw of the teacher's hold together."),
)  # fmt: skip

# They came after the others: a table without them is complete, and holds null in them.
ADDED_LATER = (
    "answer",
    "group",
    "trained",
    "trainer_teacher_logp",
    "trainer_top_id",
    "trainer_top_mass",
)

VOCAB = (
    Column("token_id", pl.Int32, "-", "Id, from 0 without gaps.", nullable=False),
    Column("text", pl.String, "-", "The token's text, invalid bytes as `\\xNN`.", nullable=False),
    Column("bytes", pl.Binary, "-", "The bytes that the token stands for.", nullable=False),
    Column("is_special", pl.Boolean, "-", "Whether it is a control token without text.", nullable=False),
)  # fmt: skip
