"""Time `agreement_traps` on long runs, and print Markdown.

100,000 rollouts of 300 tokens, and 10,000 of 3,000, are 3 x 10^7 tokens; one checkpoint is
analysed, a second one gives the gain. `rule` reads the KL, finds thresholds and cuts; `all` is the
whole analysis with controls and intervals. Each line is a process of its own, so that its memory
is its own; its BLAS has one thread, for where cores are shared two wait for each other.
Run: python -m benchmarks.traps_speed
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.machine import machine

PART = 3_000_000
K_GRID = (2, 4, 8, 16, 32, 64)
SHAPES = {300: (10_000, 30_000, 100_000), 3_000: (1_000, 3_000, 10_000)}
CHECKPOINTS = ("step0", "step1")


def part(checkpoint: str, first: int, length: int) -> pl.DataFrame:
    """Make the tokens of rollouts of one length, the first of them numbered `first`."""
    rng = np.random.default_rng([CHECKPOINTS.index(checkpoint), first])
    n, count = PART, PART // length
    kl = rng.exponential(0.3, n).astype(np.float32)
    overlap = rng.binomial(K_GRID, 0.7, (n, len(K_GRID))) / np.array(K_GRID)
    return pl.DataFrame(
        {
            "checkpoint": pl.repeat(checkpoint, n, eager=True),
            "rollout": np.repeat(np.arange(first, first + count, dtype=np.uint32), length),
            "position": np.tile(np.arange(length, dtype=np.uint32), count),
            "token_id": np.arange(n, dtype=np.int32) % 50_000,
            "in_loss": np.ones(n, np.bool_),
            "reverse_kl": kl,
            "forward_kl": kl * rng.random(n, np.float32),
            "grad_logits": np.sqrt(kl),
            "student_logp": -rng.exponential(size=n).astype(np.float32),
            "teacher_logp": -rng.exponential(size=n).astype(np.float32),
            "teacher_entropy": rng.exponential(size=n).astype(np.float32),
            "teacher_top_logp": -rng.exponential(size=n).astype(np.float32),
            "overlap": pl.Series(overlap.astype(np.float32), dtype=pl.Array(pl.Float32, 6)),
            "repeat": np.random.default_rng(first).poisson(1.0, n).astype(np.uint16),
        }
    )


def rollouts_table(count: int) -> pl.DataFrame:
    rollout = np.arange(count, dtype=np.uint32)
    correct = np.random.default_rng(0).random(count) < 0.5
    return pl.DataFrame(
        {"rollout": rollout, "prompt_id": (rollout // 8).astype(str), "correct": correct}
    )


def timed(folder: str, count: int, length: int, what: str) -> None:
    """Do the work and print its figures as JSON."""
    from opd_diag.analyses.agreement_traps import agreement_traps
    from opd_diag.analyses.agreement_traps.rule import Rule, find_cuts, least_means
    from opd_diag.analyses.agreement_traps.thresholds import from_others
    from opd_diag.analyses.tokens import read_tokens
    from opd_diag.tables.source import as_source

    paths = [
        path
        for name in CHECKPOINTS
        for path in sorted(Path(folder).glob(f"{name}-*.parquet"))[: count * length // PART]
    ]
    tokens, rollouts = pl.scan_parquet(paths), rollouts_table(count)
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    if what == "rule":
        rule = Rule(64, 0.3, 64, 4)
        own = read_tokens(as_source(tokens, rollouts), rollouts, "step0")
        kl = own.column("reverse_kl")
        least = least_means(kl, own.lengths, rule.window)
        threshold, _ = from_others(least, np.arange(count) // 8, eta=rule.eta)
        cuts = find_cuts(kl, own.lengths, [rule], {(rule.window, rule.eta): threshold})[rule]
        fired = cuts.triggered.mean()
    else:
        found = agreement_traps(tokens, rollouts, checkpoint="step0")
        fired = found.agreement_traps["triggered"].mean()
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "seconds": seconds,
        "user": used.ru_utime - before.ru_utime,
        "system": used.ru_stime - before.ru_stime,
        "GiB": used.ru_maxrss / 2**20,
        "fired": float(fired),
    }
    print(json.dumps(figures))


def table(folder: str, length: int, sizes: tuple[int, ...]) -> None:
    """Print a line for each part of the analysis and each number of rollouts."""
    for name in CHECKPOINTS:
        for i, first in enumerate(range(0, max(sizes), PART // length)):
            path = Path(folder) / f"{name}-{i:05d}.parquet"
            part(name, first, length).write_parquet(path, compression="lz4")
    alone = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    for what in ("rule", "all"):
        for count in sizes:
            given = ["--timed", folder, str(count), str(length), what]
            command = [sys.executable, "-m", "benchmarks.traps_speed", *given]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=alone)
            found = json.loads(done.stdout)
            tokens = count * length
            print(
                f"| {what} | {count:,} x {length:,} | {tokens:,} | {found['seconds']:.1f} "
                f"| {found['user']:.1f} + {found['system']:.1f} "
                f"| {tokens / found['seconds']:,.0f} | {found['GiB']:.2f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timed", nargs=4, metavar=("FOLDER", "ROLLOUTS", "LENGTH", "WHAT"))
    given = parser.parse_args().timed
    if given:
        timed(given[0], int(given[1]), int(given[2]), given[3])
        return
    print("# Speed of agreement_traps\n")
    print(
        f"`python -m benchmarks.traps_speed`, {machine()} at the start: where that is above 1, "
        "the wall time is an upper bound.\n"
    )
    print("| part | rollouts x tokens | tokens | wall, s | CPU, s | tokens/s | peak memory, GiB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for length, sizes in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            table(folder, length, sizes)
    print(f"\nLoad at the end: {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
