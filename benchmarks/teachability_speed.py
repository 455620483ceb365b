"""Time `teachability` on a generated run under two checkpoints: seconds and peak memory."""

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


def write_tokens(folder: Path, rollouts: int, length: int, seed: int) -> None:
    """Write the columns that the analysis reads, as 40 parts for each checkpoint."""
    step = -(-rollouts // PARTS)
    for part, first in enumerate(range(0, rollouts, step)):
        rng = np.random.default_rng([seed, part])
        count = min(step, rollouts - first)
        n = count * length
        entropy = rng.gamma(1.0, 0.6, n)
        before = rng.gamma(0.7, 0.6, n) * (1 + 0.3 * entropy)
        outside = np.exp(-rng.gamma(3.0, 1.0, (n, 1))) * np.minimum(1, before[:, None])
        keys = {
            "rollout": np.repeat(np.arange(first, first + count, dtype=np.uint32), length),
            "position": np.tile(np.arange(length, dtype=np.uint32), count),
            "token_id": rng.integers(30_000, size=n, dtype=np.int32),
            "in_loss": np.ones(n, np.bool_),
            "teacher_top_rank": rng.geometric(0.7, n).astype(np.uint32),
        }
        for name, kl in (("before", before), ("after", before * rng.uniform(0.4, 1.1, n))):
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
        tokens = pl.concat(
            [pl.scan_parquet(folder / f"{side}-*.parquet") for side in ("before", "after")]
        )
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
    print("Two checkpoints, all six tables, every draw and permutation at its default. CPU seconds")
    print(
        "are those of all threads, reading included; peak memory is that of the process. Asked: at"
    )
    print("most 60 s and 6 GB.\n")
    print("| tokens | prompts | wall, s | CPU, s | peak memory, GiB |")
    print("|---|---|---|---|---|")
    print(
        f"| {options.rollouts * options.length:,} | {rollouts['prompt_id'].n_unique():,} "
        f"| {wall_after - wall:.1f} | {cpu_after - cpu:.1f} | {peak:.2f} |"
    )


if __name__ == "__main__":
    main()
