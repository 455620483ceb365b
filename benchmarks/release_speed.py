"""Time `release_points` on long runs, and print Markdown.

Every token is a segment of its own, the worst case: 100,000 rollouts of 300 segments are 3 x 10^7
tokens. `rule` reads segments and margins and judges every rollout; `all` is the whole analysis
with curves, controls and intervals. Each line is a process of its own, so that its memory is its
own. Run: python -m benchmarks.release_speed > benchmarks/results/release_speed.md
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.machine import machine

TOKENS = 300
PART = 5_000
K_GRID = (2, 4, 8, 16, 32, 64)
SIZES = (10_000, 30_000, 100_000)


def part(first: int) -> pl.DataFrame:
    """Make the tokens of the rollouts `first` to `first + PART`."""
    rng = np.random.default_rng(first)
    n = PART * TOKENS
    noise = {
        name: -rng.exponential(size=n).astype(np.float32)
        for name in ("student_logp", "teacher_logp", "teacher_top_logp")
    }
    noise |= {
        name: rng.exponential(size=n).astype(np.float32)
        for name in ("student_entropy", "teacher_entropy", "advantage_var", "reverse_kl")
    }
    per_k = pl.Array(pl.Float32, len(K_GRID))
    return pl.DataFrame(
        {
            "checkpoint": pl.repeat("step0", n, eager=True),
            "rollout": np.repeat(np.arange(first, first + PART, dtype=np.uint32), TOKENS),
            "position": np.tile(np.arange(TOKENS, dtype=np.uint32), PART),
            "segment": np.tile(np.arange(TOKENS, dtype=np.uint32), PART),
            "token_id": np.zeros(n, np.int32),
            "in_loss": np.ones(n, np.bool_),
            **noise,
            "grad_logits": noise["reverse_kl"],
            "margin": pl.Series(rng.exponential(size=(n, 6)).astype(np.float32), dtype=per_k),
            "overlap": pl.Series(rng.random((n, 6), np.float32), dtype=per_k),
        }
    )


def rollouts_table(count: int) -> pl.DataFrame:
    rollout = np.arange(count, dtype=np.uint32)
    return pl.DataFrame({"rollout": rollout, "prompt_id": (rollout // 8).astype(str)})


def timed(folder: str, count: int, what: str) -> None:
    """Do the work and print its figures as JSON."""
    from opd_diag.analyses.release_points import release_points
    from opd_diag.analyses.release_points.options import PRESETS
    from opd_diag.analyses.release_points.points import judge
    from opd_diag.analyses.release_points.segments import batch_segments
    from opd_diag.analyses.tokens import read_tokens
    from opd_diag.tables.source import as_source

    paths = sorted(Path(folder).glob("*.parquet"))[: count // PART]
    tokens, rollouts = pl.scan_parquet(paths), rollouts_table(count)
    start = time.perf_counter()
    if what == "rule":
        wanted = ["segment", pl.col("margin").arr.get(1).alias("margin_4")]
        read = read_tokens(as_source(tokens, rollouts), rollouts, "step0")
        judged = [
            judge(batch_segments(batch, (4,), None)[0], 0, PRESETS["opd-diag"])
            for batch in read.where(read.column("in_loss")).batches(wanted)
        ]
        accepted = pl.concat(judged)["accepted"].mean()
    else:
        accepted = release_points(tokens, rollouts).release_points["accepted"].mean()
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "GiB": memory, "accepted": accepted}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timed", nargs=3, metavar=("FOLDER", "ROLLOUTS", "WHAT"))
    given = parser.parse_args().timed
    if given:
        timed(given[0], int(given[1]), given[2])
        return
    print("# Speed of release_points\n")
    print(f"`python -m benchmarks.release_speed`, {machine()} at the start.\n")
    print("| part | rollouts | tokens | s | tokens/s | peak memory, GiB |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for i, first in enumerate(range(0, max(SIZES), PART)):
            part(first).write_parquet(Path(folder) / f"part-{i:05d}.parquet", compression="lz4")
        for what in ("rule", "all"):
            for count in SIZES:
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.release_speed",
                    "--timed",
                    folder,
                    str(count),
                    what,
                ]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found = json.loads(done.stdout)
                tokens, seconds = count * TOKENS, found["seconds"]
                print(
                    f"| {what} | {count:,} | {tokens:,} | {seconds:.1f} | {tokens / seconds:,.0f} "
                    f"| {found['GiB']:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
