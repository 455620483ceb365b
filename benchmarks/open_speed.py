"""What the checks on opening a run cost: seconds beside those of reading it.

`python -m benchmarks.open_speed` writes a generated run of 10,000,000 tokens, and times, each in a
process of its own with the files in the page cache: the checks, reading all columns of the token
table, and reading five of them. Prints a row for benchmarks/results/open_speed.md.
"""

import argparse
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from statistics import median

PROGRAM = """
import sys, time
from pathlib import Path
import polars as pl
from opd_diag.tables.run import open_run
from opd_diag.tables.tokens import part_path, scan_tokens

what, folder = sys.argv[1], Path(sys.argv[2])
run = open_run(folder)
paths = [part_path(folder, n, p) for n in run.checkpoints for p in range(len(run.manifest.parts))]
begin = time.perf_counter()
if what == "checks":
    run.tokens()
elif what == "all columns":
    pl.scan_parquet(paths, hive_partitioning=False, glob=False).collect()
else:
    frame = pl.scan_parquet(paths, hive_partitioning=False, glob=False)
    frame.select("rollout", "position", "token_id", "in_loss", "reverse_kl").collect()
print(time.perf_counter() - begin)
"""
WAYS = ("checks", "all columns", "five columns")


def make_run(folder: Path, tokens: int) -> int:
    """Write a generated run of about so many tokens, and return its bytes."""
    from opd_diag.datasets import null_run, save_run

    data = null_run(prompts=tokens // 8_000, samples=8, tokens=1_000, checkpoints=("a",))
    save_run(data, folder)
    return sum(path.stat().st_size for path in (folder / "tokens").rglob("part-*"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        size = make_run(Path(name), options.tokens)
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way in WAYS:
                call = [sys.executable, "-c", PROGRAM, way, name]
                done = subprocess.run(call, capture_output=True, text=True, check=True)
                seconds[way].append(float(done.stdout))
    checks, whole, five = (median(seconds[way]) for way in WAYS)
    print(
        f"| {date.today()} | {platform.machine()} | {options.tokens:,} | {size / 1e6:.0f} | "
        f"{checks:.2f} | {whole:.2f} | {five:.2f} | {checks / whole:.2f} | {checks / five:.2f} |"
    )


if __name__ == "__main__":
    main()
