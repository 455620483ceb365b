"""Plant stretches of persistently low KL, half of them harmless."""

import numpy as np
import polars as pl

from opd_diag.datasets.base import Dataset, null_run

LOW = 0.05  # factor on KL, gradient and gain in the stretch
REPEATED = 32


def trap_run(
    *,
    prompts: int = 24,
    samples: int = 4,
    tokens: int = 500,
    length: int = 150,
    share: float = 0.6,
    degenerate: float = 0.5,
    seed: int = 0,
) -> Dataset:
    """Plant one low-KL stretch in some rollouts.

    In the stretch KL, gradient norm and teacher entropy are 0.05 of what they were, at both
    checkpoints `step0` and `step1`; forward KL halves between the checkpoints, so the gain is low
    there too. One half of these rollouts is wrong and repeats itself in the stretch, the other
    half is correct and does not: low KL looks the same in both. Other rollouts are right or wrong
    with a probability of one half.

    Args:
        prompts: Number of prompts.
        samples: Rollouts of each prompt.
        tokens: Tokens of each rollout.
        length: Tokens of a stretch.
        share: Share of the rollouts with a stretch.
        degenerate: Share of these that are wrong and repeat themselves.
        seed: Seed of every draw.

    Returns:
        The run; its truth holds `onset`, one row for each such rollout with the position of its
        first low token (`onset`) and whether it is `degenerate`.
    """
    rng = np.random.default_rng(seed + 1)
    run = null_run(
        prompts=prompts,
        samples=samples,
        tokens=tokens,
        checkpoints=("step0", "step1"),
        seed=seed,
    )
    count = run.rollouts.height
    chosen = np.sort(rng.permutation(count)[: round(share * count)])
    onset = pl.DataFrame(
        {
            "rollout": chosen.astype(np.uint32),
            "onset": rng.integers(tokens // 4, tokens // 2, chosen.size).astype(np.uint32),
            "degenerate": rng.permutation(np.arange(chosen.size) * degenerate % 1 < degenerate),
        }
    )
    since = pl.col("position").cast(pl.Int64) - pl.col("onset")
    low = (since >= 0) & (since < length)
    again = low & pl.col("degenerate")
    factor = pl.when(low).then(LOW).otherwise(1.0).cast(pl.Float32)
    measured = ("reverse_kl", "forward_kl", "grad_logits", "teacher_entropy")
    tokens_table = _beside(run.tokens, onset).with_columns(
        *(pl.col(name) * factor for name in measured),
        repeat=pl.when(again).then(pl.lit(REPEATED, pl.UInt16)).otherwise("repeat"),
    )
    first = tokens_table.filter(pl.col("checkpoint") == "step0")["forward_kl"]
    left = pl.when(pl.col("checkpoint") == "step1").then(0.5).otherwise(1.0).cast(pl.Float32)
    tokens_table = tokens_table.with_columns(forward_kl=pl.concat([first, first]) * left)
    correct = pl.coalesce(~pl.col("degenerate"), "correct")
    rollouts = _beside(run.rollouts, onset).with_columns(
        correct=correct, reward=correct.cast(pl.Float64)
    )
    extra = onset.columns[1:]
    return Dataset(tokens_table.drop(extra), rollouts.drop(extra), {"onset": onset})


def _beside(table: pl.DataFrame, onset: pl.DataFrame) -> pl.DataFrame:
    return table.join(onset, on="rollout", how="left", maintain_order="left")
