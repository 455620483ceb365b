"""Time all four analyses on the same generated runs: seconds, peak memory, growth.

Runs of 10^6, 10^7 and 3 x 10^7 tokens under two checkpoints hold the columns that they read, 250
tokens a rollout and 8 rollouts a prompt. Each analysis of each run is a process of its own, so that
its memory is its own. Run: python -m benchmarks.analyze_speed
"""

import argparse
import json
import math
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

SIZES = (1_000_000, 10_000_000, 30_000_000)
PART = 250_000
LENGTH, SAMPLES, TYPES, SEGMENT = 250, 8, 30_000, 10
K_GRID = (2, 4, 8, 16, 32, 64)
CHECKPOINTS = ("step0", "step1")
ANALYSES = ("release_points", "rock_tokens", "agreement_traps", "teachability")
RESULT = Path(__file__).parent / "results" / "analyze_speed.md"


def part(number: int, checkpoint: str) -> pl.DataFrame:
    """Make a part of the token table; ids and places are the same under every checkpoint."""
    shared, rng = np.random.default_rng(number), np.random.default_rng([number, len(checkpoint)])
    rollouts = PART // LENGTH
    kl = (shared.gamma(0.7, 0.5, PART) * rng.uniform(0.5, 1.1, PART)).astype(np.float32)
    weight = 1 / np.arange(1, TYPES + 1)
    per_k = pl.Array(pl.Float32, len(K_GRID))

    def exponential() -> np.ndarray:
        return rng.standard_exponential(PART, np.float32)

    def shares() -> pl.Series:
        return pl.Series(np.sort(rng.random((PART, len(K_GRID)), np.float32), axis=1), dtype=per_k)

    position = np.tile(np.arange(LENGTH, dtype=np.uint32), rollouts)
    first = number * rollouts
    return pl.DataFrame(
        {
            "checkpoint": pl.repeat(checkpoint, PART, eager=True),
            "rollout": np.repeat(np.arange(first, first + rollouts, dtype=np.uint32), LENGTH),
            "position": position,
            "token_id": shared.choice(TYPES, PART, p=weight / weight.sum()).astype(np.int32),
            "segment": position // SEGMENT,
            "in_loss": np.ones(PART, np.bool_),
            "reverse_kl": kl,
            "forward_kl": kl * rng.uniform(0.8, 1.2, PART).astype(np.float32),
            "union_kl": kl,
            "grad_logits": np.sqrt(kl),
            "student_logp": -exponential(),
            "teacher_logp": -exponential(),
            "teacher_top_logp": -0.2 * exponential(),
            "student_entropy": exponential(),
            "teacher_entropy": exponential(),
            "advantage_var": exponential(),
            "teacher_top_rank": rng.geometric(0.7, PART).astype(np.uint32),
            "repeat": rng.geometric(0.5, PART).astype(np.uint16),
            "margin": shares(),
            "teacher_mass": shares(),
            "overlap": shares(),
        }
    )


def rollouts_table(tokens: int) -> pl.DataFrame:
    """Prompts of `SAMPLES` rollouts each, in halves that take turns."""
    rollout = np.arange(tokens // LENGTH, dtype=np.uint32)
    prompt = rollout // SAMPLES
    return pl.DataFrame(
        {
            "rollout": rollout,
            "prompt_id": prompt.astype(str),
            "half": (prompt % 2).astype(np.uint8),
            "correct": rollout % 3 == 0,
        }
    )


def timed(folder: str, tokens: int, name: str) -> None:
    """Run one analysis and print its figures as JSON."""
    import opd_diag

    numbers = [f"{number:05d}" for number in range(tokens // PART)]
    paths = [
        Path(folder) / f"{step}-{number}.parquet" for step in CHECKPOINTS for number in numbers
    ]
    start = time.perf_counter()
    tables = getattr(opd_diag, name)(pl.scan_parquet(paths), rollouts_table(tokens))
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "seconds": seconds,
        "cpu": used.ru_utime + used.ru_stime,
        "GiB": used.ru_maxrss / 2**20,
        "rows": sum(table.height for table in tables),
    }
    print(json.dumps(figures))


def measure(folder: str, name: str) -> list[str]:
    """Time one analysis on every run, and write its rows."""
    rows, before = [], None
    for tokens in SIZES:
        command = [sys.executable, "-m", "benchmarks.analyze_speed"]
        command += ["--timed", folder, str(tokens), name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout)
        growth = ""
        if before is not None:
            growth = f"{math.log(found['cpu'] / before[1]) / math.log(tokens / before[0]):.2f}"
        before = (tokens, found["cpu"])
        rows.append(
            f"| {name} | {tokens:,} | {found['seconds']:.1f} | {found['cpu']:.1f} | {growth} "
            f"| {found['GiB']:.2f} |"
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timed", nargs=3, metavar=("FOLDER", "TOKENS", "ANALYSIS"))
    given = parser.parse_args().timed
    if given:
        timed(given[0], int(given[1]), given[2])
        return
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        for checkpoint in CHECKPOINTS:
            for number in range(max(SIZES) // PART):
                path = Path(folder) / f"{checkpoint}-{number:05d}.parquet"
                part(number, checkpoint).write_parquet(path, compression="lz4")
        rows = [row for name in ANALYSES for row in measure(folder, name)]
    RESULT.write_text(
        "# Speed of the analyses\n\n"
        f"`python -m benchmarks.analyze_speed`, {before} at the start and "
        f"{os.getloadavg()[0]:.1f} at the end:\nabove 1 the wall time is an upper bound. Tokens "
        "are under each of two checkpoints; CPU seconds include\nimports. Growth is the exponent "
        "of CPU seconds in the number of tokens.\n\n"
        "| analysis | tokens | wall, s | CPU, s | growth | peak memory, GiB |\n"
        "|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


if __name__ == "__main__":
    main()
