"""Time `agreement_traps` on long runs, and print Markdown.

100,000 rollouts of 300 tokens are 3 x 10^7 tokens; one checkpoint is analysed, a second one gives
the gain. `rule` reads the KL, finds thresholds and cuts; `all` is the whole analysis with controls
and intervals. Each line is a process of its own, so that its memory is its own.
Run: python benchmarks/traps_speed.py
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

TOKENS = 300
PART = 10_000
K_GRID = (2, 4, 8, 16, 32, 64)
SIZES = (10_000, 30_000, 100_000)
CHECKPOINTS = ("step0", "step1")


def part(checkpoint: str, first: int) -> pl.DataFrame:
    """Make the tokens of the rollouts `first` to `first + PART`."""
    rng = np.random.default_rng([CHECKPOINTS.index(checkpoint), first])
    n = PART * TOKENS
    kl = rng.exponential(0.3, n).astype(np.float32)
    overlap = rng.binomial(K_GRID, 0.7, (n, len(K_GRID))) / np.array(K_GRID)
    return pl.DataFrame(
        {
            "checkpoint": pl.repeat(checkpoint, n, eager=True),
            "rollout": np.repeat(np.arange(first, first + PART, dtype=np.uint32), TOKENS),
            "position": np.tile(np.arange(TOKENS, dtype=np.uint32), PART),
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
            "repeat": rng.poisson(1.0, n).astype(np.uint16),
        }
    )


def rollouts_table(count: int) -> pl.DataFrame:
    rollout = np.arange(count, dtype=np.uint32)
    correct = np.random.default_rng(0).random(count) < 0.5
    return pl.DataFrame(
        {"rollout": rollout, "prompt_id": (rollout // 8).astype(str), "correct": correct}
    )


def timed(folder: str, count: int, what: str) -> None:
    """Do the work and print its figures as JSON."""
    from opd_diag.analyses.agreement_traps import agreement_traps
    from opd_diag.analyses.agreement_traps.rule import Rule, find_cuts, least_means
    from opd_diag.analyses.agreement_traps.thresholds import from_others
    from opd_diag.analyses.agreement_traps.tokens import CountedTokens
    from opd_diag.tables.source import as_source

    paths = [
        path
        for name in CHECKPOINTS
        for path in sorted(Path(folder).glob(f"{name}-*.parquet"))[: count // PART]
    ]
    tokens, rollouts = pl.scan_parquet(paths), rollouts_table(count)
    start = time.perf_counter()
    if what == "rule":
        rule = Rule(64, 0.3, 64, 4)
        own = CountedTokens(as_source(tokens, rollouts), "step0", rollouts["rollout"])
        least = least_means(own.kl, own.lengths, rule.window)
        threshold, _ = from_others(least, np.arange(count) // 8, eta=rule.eta)
        cuts = find_cuts(own.kl, own.lengths, [rule], {(rule.window, rule.eta): threshold})[rule]
        fired = cuts.triggered.mean()
    else:
        found = agreement_traps(tokens, rollouts, checkpoint="step0")
        fired = found.agreement_traps["triggered"].mean()
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "GiB": memory, "fired": float(fired)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timed", nargs=3, metavar=("FOLDER", "ROLLOUTS", "WHAT"))
    given = parser.parse_args().timed
    if given:
        timed(given[0], int(given[1]), given[2])
        return
    print("# Speed of agreement_traps\n")
    print("| part | rollouts | tokens | s | tokens/s | peak memory, GiB |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in CHECKPOINTS:
            for i, first in enumerate(range(0, max(SIZES), PART)):
                path = Path(folder) / f"{name}-{i:05d}.parquet"
                part(name, first).write_parquet(path, compression="lz4")
        for what in ("rule", "all"):
            for count in SIZES:
                command = [sys.executable, __file__, "--timed", folder, str(count), what]
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
