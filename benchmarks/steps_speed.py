"""Time the analyses on runs of equal tokens in 1 to 1,000 training steps, and print Markdown.

A run has 250,000 tokens in 1,000 rollouts, 8 of each prompt, under two checkpoints; with 1,000
steps every rollout is a step of its own. Cost should grow with rollouts, not with groups of them.
Each time is that of a process of its own.
Run: python -m benchmarks.steps_speed > benchmarks/results/steps_speed.md
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from benchmarks.analyze_speed import ANALYSES, CHECKPOINTS, LENGTH, PART, part, rollouts_table
from benchmarks.machine import machine

STEPS = (1, 10, 100, 1_000)


def timed(folder: str, steps: int, name: str) -> None:
    """Run one analysis and print its figures as JSON."""
    import opd_diag

    tokens = pl.scan_parquet([Path(folder) / f"{step}.parquet" for step in CHECKPOINTS])
    rollouts = rollouts_table(PART).with_columns(
        step=(pl.col("rollout").cast(pl.Int64) * steps) // (PART // LENGTH)
    )
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    tables = getattr(opd_diag, name)(tokens, rollouts)
    seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "seconds": seconds,
        "cpu": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
        "rows": sum(table.height for table in tables),
    }
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--timed", nargs=3, metavar=("FOLDER", "STEPS", "ANALYSIS"))
    parser.add_argument("analyses", nargs="*", help="default: all of them")
    given = parser.parse_args()
    if given.timed:
        timed(given.timed[0], int(given.timed[1]), given.timed[2])
        return
    print("# Speed with many training steps\n")
    print(f"`python -m benchmarks.steps_speed`, {machine()} at the start: CPU seconds of the")
    print("analysis alone, and rows of its tables, for 250,000 tokens in 1,000 rollouts.\n")
    print("| analysis, by steps | " + " | ".join(f"{steps:,}" for steps in STEPS) + " |")
    print("|---|" + "---|" * len(STEPS))
    with tempfile.TemporaryDirectory() as folder:
        for checkpoint in CHECKPOINTS:
            part(0, checkpoint).write_parquet(Path(folder) / f"{checkpoint}.parquet")
        for name in given.analyses or ANALYSES:
            cells = []
            for steps in STEPS:
                command = [sys.executable, "-m", "benchmarks.steps_speed"]
                command += ["--timed", folder, str(steps), name]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found = json.loads(done.stdout)
                cells.append(f"{found['cpu']:.1f} s, {found['rows']:,} rows")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
