"""Show that a change of the code leaves every result table as it was.

    python -m benchmarks.compare_tables generate DIR            DIR/null and DIR/planted, two runs
    python -m benchmarks.compare_tables write RUN... --out DIR  all result tables of each run
    python -m benchmarks.compare_tables compare BEFORE AFTER    differences; exit code 1 if any

Write with the code before, write with the code after, compare. Numbers are equal if they differ by
at most 1e-9 of their size, for sums are added in another order where the code is another.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

import opd_diag as od

# Teachability selects by what the others have found, so it comes last.
ANALYSES = ("release_points", "rock_tokens", "agreement_traps", "teachability")
TOLERANCE = 1e-9


def generate(folder: Path) -> None:
    """Save a run in which nothing happens and one with low stretches, wrong rollouts and steps."""
    from opd_diag.datasets import null_run, save_run, trap_run

    null = null_run(prompts=12, samples=3, tokens=150, checkpoints=("a", "b", "c"), seed=3)
    save_run(null, folder / "null")
    save_run(trap_run(prompts=40, samples=3, tokens=400, seed=5), folder / "planted")


def write(runs: list[Path], out: Path) -> None:
    """Write the tables of every analysis of each run into a folder of its name."""
    for run in runs:
        with tempfile.TemporaryDirectory() as temporary:
            copy = Path(temporary) / "run"
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns("results", "plots"))
            opened = od.open_run(copy)
            for name in ANALYSES:
                opened.save(getattr(od, name)(opened)._asdict(), arguments={})
            shutil.copytree(copy / "results", out / run.name, dirs_exist_ok=True)


def compare(before: Path, after: Path) -> list[str]:
    """List what differs, as lines of text."""
    old, new = (
        {p.relative_to(root): p for p in root.rglob("*.parquet")} for root in (before, after)
    )
    lines = [f"{name}: missing" for name in sorted(old.keys() - new.keys())]
    lines += [f"{name}: new" for name in sorted(new.keys() - old.keys())]
    for name in sorted(old.keys() & new.keys()):
        tables = pl.read_parquet(old[name]), pl.read_parquet(new[name])
        lines += [f"{name}: {text}" for text in differences(*tables)]
    return lines


def differences(one: pl.DataFrame, two: pl.DataFrame) -> list[str]:
    """List what differs between two tables: columns, rows, values."""
    lines = [f"column {name!r} is gone" for name in one.columns if name not in two.columns]
    lines += [f"column {name!r} is new" for name in two.columns if name not in one.columns]
    if one.height != two.height:
        return [*lines, f"{one.height} rows, then {two.height}"]
    for name in (name for name in one.columns if name in two.columns):
        a, b = one[name], two[name]
        if a.dtype != b.dtype:
            lines.append(f"column {name!r}: {a.dtype}, then {b.dtype}")
            continue
        rows = np.flatnonzero(unequal(a, b))
        if rows.size:
            first = f"row {rows[0]}: {a[int(rows[0])]!r}, then {b[int(rows[0])]!r}"
            lines.append(f"column {name!r}: {rows.size} values, first in {first}")
    return lines


def unequal(a: pl.Series, b: pl.Series) -> np.ndarray:
    """Tell in which rows two columns differ; null equals null."""
    if not a.dtype.is_float():
        return (~a.eq_missing(b)).to_numpy()
    x, y = (s.cast(pl.Float64).fill_null(np.nan).to_numpy() for s in (a, b))
    return ~np.isclose(x, y, rtol=TOLERANCE, atol=1e-12, equal_nan=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("generate").add_argument("folder", type=Path)
    writer = verbs.add_parser("write")
    writer.add_argument("runs", type=Path, nargs="+")
    writer.add_argument("--out", type=Path, required=True)
    comparer = verbs.add_parser("compare")
    comparer.add_argument("before", type=Path)
    comparer.add_argument("after", type=Path)
    asked = parser.parse_args()
    if asked.verb == "generate":
        generate(asked.folder)
    elif asked.verb == "write":
        write(asked.runs, asked.out)
    else:
        lines = compare(asked.before, asked.after)
        tables = len(list(asked.before.rglob("*.parquet")))
        print("\n".join(lines) or f"{tables} tables, all equal")
        raise SystemExit(bool(lines))


if __name__ == "__main__":
    main()
