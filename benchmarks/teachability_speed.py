"""Time `teachability` on a generated run under three checkpoints: seconds and peak memory.

Features have the shape of real ones: most tokens are tied at next to no entropy and divergence,
and the rest spread over six decades.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.machine import machine
from opd_diag.analyses.teachability import teachability
from opd_diag.tables.columns.tokens import K_GRID

PARTS = 40
TIED = 0.7
CHECKPOINTS = ("first", "middle", "last")


def write_tokens(folder: Path, rollouts: int, length: int, seed: int) -> None:
    """Write the columns that the analysis reads, as 40 parts for each checkpoint."""
    step = -(-rollouts // PARTS)
    for part, first in enumerate(range(0, rollouts, step)):
        rng = np.random.default_rng([seed, part])
        count = min(step, rollouts - first)
        n = count * length
        height = rng.standard_normal(n)
        sure = rng.random(n) < TIED
        before = np.where(sure, 0, 0.02 * np.exp(2.5 * height)).clip(0, 30)
        entropy = np.where(sure, 0, np.exp(-1 + 0.6 * height + 0.7 * rng.standard_normal(n)))
        outside = np.exp(-6 + 1.2 * height + rng.standard_normal(n))[:, None]
        outside = np.where(sure[:, None], 1e-7, np.minimum(outside, 1))
        keys = {
            "rollout": np.repeat(np.arange(first, first + count, dtype=np.uint32), length),
            "position": np.tile(np.arange(length, dtype=np.uint32), count),
            "token_id": rng.integers(30_000, size=n, dtype=np.int32),
            "in_loss": np.ones(n, np.bool_),
            "teacher_top_rank": rng.geometric(0.7, n).astype(np.uint32),
        }
        noisy = before * np.exp(0.3 * rng.standard_normal(n))
        kls = (before, noisy, noisy * rng.uniform(0.4, 1.1, n))
        for name, kl in zip(CHECKPOINTS, kls, strict=True):
            scores = {
                "student_entropy": entropy,
                "teacher_entropy": 0.8 * entropy,
                "forward_kl": kl,
                "reverse_kl": kl * rng.uniform(0.8, 1.2, n),
                "grad_logits": np.sqrt(kl),
                "teacher_mass": 1 - outside / np.sqrt(np.array(K_GRID)),
                "overlap": rng.random((n, len(K_GRID))),
            }
            columns = keys | {key: value.astype(np.float32) for key, value in scores.items()}
            frame = pl.DataFrame(columns).select(pl.lit(name).alias("checkpoint"), pl.all())
            frame.write_parquet(folder / f"{name}-{part:05d}.parquet")


def used() -> tuple[float, float, float]:
    """Wall seconds, CPU seconds of all threads, peak memory in GiB."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def main() -> None:
    """Print a Markdown table: tokens, prompts, seconds, peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=20_000)
    parser.add_argument("--length", type=int, default=500)
    parser.add_argument("--samples", type=int, default=8, help="Rollouts of each prompt.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tokens(folder, options.rollouts, options.length, options.seed)
        number = np.arange(options.rollouts)
        rollouts = pl.DataFrame(
            {
                "rollout": number.astype(np.uint32),
                "prompt_id": (number // options.samples).astype(str),
                "correct": number % 3 == 0,
            }
        )
        tokens = pl.concat([pl.scan_parquet(folder / f"{name}-*.parquet") for name in CHECKPOINTS])
        before = machine()
        wall, cpu, _ = used()
        teachability(tokens, rollouts)
        wall_after, cpu_after, peak = used()
    print("# Speed of `teachability`\n")
    threads = os.environ.get("OPENBLAS_NUM_THREADS")
    command = "python -m benchmarks.teachability_speed"
    if threads:
        command = f"OPENBLAS_NUM_THREADS={threads} {command}"
    print(
        f"`{command}`, {before} before, "
        f"{os.environ.get('POLARS_MAX_THREADS', os.cpu_count())} polars threads.\n"
    )
    print("Three checkpoints, all tables, every draw and permutation at its default; 70 % of the")
    print("tokens are tied. CPU seconds are those of all threads, reading included; peak memory is")
    print("that of the process.\n")
    print("| tokens | prompts | wall, s | CPU, s | peak memory, GiB |")
    print("|---|---|---|---|---|")
    print(
        f"| {options.rollouts * options.length:,} | {rollouts['prompt_id'].n_unique():,} "
        f"| {wall_after - wall:.1f} | {cpu_after - cpu:.1f} | {peak:.2f} |"
    )


if __name__ == "__main__":
    main()
