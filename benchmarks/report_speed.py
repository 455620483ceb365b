"""The report of a large run: its size, and its time as a ratio to that of the analyses before it.

`python -m benchmarks.report_speed` writes a generated run of 10,000,000 tokens under two
checkpoints, runs the analyses, then the report, each as a command in a process of its own. Prints a
row for benchmarks/results/report_speed.md. With `--run` a run that is there is taken instead.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import machine
from opd_diag.datasets import save_run, ugly_run
from opd_diag.tables.run import open_run


def seconds_of(*arguments: str) -> float:
    """Run a command of opd-diag and return its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    call = [sys.executable, "-m", "opd_diag", *arguments]
    subprocess.run(call, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--run", type=Path)
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = options.run or Path(name) / "run"
        if options.run is None:
            sizes = {"prompts": options.tokens // 4_000, "samples": 4, "tokens": 1_000}
            data = ugly_run(**sizes, types=20_000, memory=0.5, checkpoints=("step0", "step150"))
            save_run(data, folder)
            del data
        run = open_run(folder)
        rows = sum(part.rows for part in run.manifest.parts)
        analyses = seconds_of("analyze", "all", str(folder))
        page = Path(name) / "report.html"
        began = time.perf_counter()
        report = seconds_of("report", str(folder), "--out", str(page))
        wall = time.perf_counter() - began
        print(
            f"| {rows:,} | {len(run.checkpoints)} | {page.stat().st_size / 1e6:.1f} MB | "
            f"{wall:.0f} s | {report:.0f} s | {report / analyses:.2f} |"
        )


if __name__ == "__main__":
    main()
