"""Time `rock_tokens` on a generated run: seconds, and peak memory of the process.

A run of the shape asked for is written to a folder first, with the columns that the analysis reads
and its gradient sums, and read back by a process of its own; once more without the tables that
follow single occurrences, so that what these add is a ratio of one sitting. Prints Markdown. Run:
python -m benchmarks.rocks_speed > benchmarks/results/rock_speed.md
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.machine import machine

CHECKPOINTS = ("step0", "step150", "step300")
# What is made from single occurrences: who stays hard, what rocks are, the questions.
OCCURRENCES = ("find_hard", "persistence_table", "composition_table", "evidence_table")


def write_run(folder: Path, options: argparse.Namespace) -> None:
    """Write a run of Zipf-distributed types, each prompt in one part of the token table."""
    from opd_diag.tables.columns.rollouts import ROLLOUTS
    from opd_diag.tables.gradients import GradientSums, write_gradients
    from opd_diag.tables.manifest import Checkpoint, Manifest, Model, Part, write_manifest
    from opd_diag.tables.parquet import write_table
    from opd_diag.tables.schema import polars_schema
    from opd_diag.tables.tokens import METADATA_KEY, part_path
    from opd_diag.tables.verify import list_files

    rng = np.random.default_rng(0)
    rollouts = options.prompts * options.samples
    length = options.tokens // rollouts
    weight = 1 / np.arange(1, options.types + 1)
    mean = np.exp(0.7 * rng.standard_normal(options.types))
    parts, first = [], 0
    for part, chunk in enumerate(np.array_split(np.arange(rollouts), options.parts)):
        ids = rng.choice(options.types, (chunk.size, length), p=weight / weight.sum())
        keys = {
            "rollout": np.repeat(chunk, length).astype(np.uint32),
            "position": np.tile(np.arange(length), chunk.size).astype(np.uint32),
            "token_id": ids.ravel().astype(np.int32),
            "in_loss": np.ones(ids.size, np.bool_),
        }
        lasting = rng.gamma(0.7, 0.4, ids.size)
        for name in CHECKPOINTS:
            noise = rng.gamma(0.7, 0.4, ids.size)
            loss = mean[ids.ravel()] * (lasting + noise) / 2
            frame = pl.DataFrame(
                keys
                | {
                    "reverse_kl": loss.astype(np.float32),
                    "grad_logits": np.sqrt(loss).astype(np.float32),
                }
            )
            metadata = {METADATA_KEY: f'{{"keys": "{part}", "statistics": {{}}}}'}
            write_table(frame, part_path(folder, name, part), metadata)
        parts.append(Part(first, int(chunk[-1]) + 1, ids.size))
        first = int(chunk[-1]) + 1
    kinds = np.repeat(np.arange(options.types, dtype=np.int32), 2)
    sums = GradientSums(
        token_id=kinds,
        half=np.tile(np.array([0, 1], np.uint8), options.types),
        n=np.full(kinds.size, 10, np.int64),
        S=rng.standard_normal((kinds.size, options.hidden)).astype(np.float32),
        Q=np.full(kinds.size, float(options.hidden)),
    )
    for name in CHECKPOINTS:
        for part in range(len(parts)):
            write_gradients(sums if part == 0 else _no_sums(sums), folder, name, part)
    row = np.arange(rollouts)
    columns = {
        "rollout": row,
        "rollout_id": [str(i) for i in row],
        "prompt_id": [f"prompt{i // options.samples:06d}" for i in row],
        "half": (row // options.samples) % 2,
        "sample": row % options.samples,
        "prompt_token_ids": [[0]] * rollouts,
        "response_token_ids": [[0]] * rollouts,
        "token_exact": [True] * rollouts,
        "source": ["generated"] * rollouts,
        "source_row": row,
    }
    schema = polars_schema(ROLLOUTS)
    absent = {name: [None] * rollouts for name in schema if name not in columns}
    write_table(
        pl.DataFrame(columns | absent, schema_overrides=schema, strict=False).select(
            schema.names()
        ),
        folder / "rollouts.parquet",
    )
    write_table(
        pl.DataFrame(
            {
                "token_id": np.arange(options.types, dtype=np.int32),
                "text": [f" {i}" for i in range(options.types)],
                "bytes": [b" "] * options.types,
                "is_special": [False] * options.types,
            }
        ),
        folder / "vocab.parquet",
    )
    manifest = Manifest(
        fingerprint={"k_grid": [2, 4]},
        parts=tuple(parts),
        teacher=Model("generated"),
        checkpoints={name: Checkpoint("generated", fingerprint=name) for name in CHECKPOINTS},
    )
    list_files(folder, manifest)
    write_manifest(folder, manifest)


def _no_sums(sums: object) -> object:
    return type(sums)(*(field[:0] for field in sums))  # type: ignore[call-overload]


def time_analysis(folder: Path, without: Sequence[str] = ()) -> None:
    """Run the analysis, and print seconds, peak memory and sizes as JSON.

    Args:
        folder: The run.
        without: Names of functions of the analysis that are left out.
    """
    import opd_diag.analyses.rock_tokens as analysis

    for name in without:
        assert hasattr(analysis, name)
        setattr(analysis, name, lambda *_, **__: pl.DataFrame())
    rock_tokens = analysis.rock_tokens
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    result = rock_tokens(folder)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "tokens": int(result.rock_outputs["n"].sum()),
        "types": result.rock_tokens.height,
        "wall": seconds,
        "user": after.ru_utime - before.ru_utime,
        "system": after.ru_stime - before.ru_stime,
        "GiB": after.ru_maxrss / 2**20,
    }
    print(json.dumps(found))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a run, and time the analysis on it in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--types", type=int, default=30_000)
    parser.add_argument("--prompts", type=int, default=2_000)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=1_024)
    parser.add_argument("--parts", type=int, default=38)
    parser.add_argument("--timed", type=Path, help="time a run that is there")
    parser.add_argument("--without", nargs="*", default=(), help="functions that are left out")
    options = parser.parse_args(arguments)
    if options.timed:
        time_analysis(options.timed, options.without)
        return
    print("# Speed of rock_tokens\n")
    print(f"`python -m benchmarks.rocks_speed`, {machine()}. Target: 30 s and 4 GB.")
    print("CPU seconds are user and system time of all threads; the load is that of the last")
    print("minute before, this process not counted: above 0, wall seconds are upper bounds.\n")
    print(
        "| tokens | types | checkpoints | tables | BLAS threads | load | wall, s | CPU, s ", end=""
    )
    print("| peak, GiB |\n|---|---|---|---|---|---|---|---|---|")
    seen = []
    with tempfile.TemporaryDirectory() as folder:
        load = os.getloadavg()[0]
        write_run(Path(folder), options)
        for words, without, threads in (
            ("all", (), "2"),
            ("none of single occurrences", OCCURRENCES, "1"),
            ("all", (), "1"),
        ):
            command = [sys.executable, "-m", "benchmarks.rocks_speed", "--timed", folder]
            environment = os.environ | {"OPENBLAS_NUM_THREADS": threads}
            done = subprocess.run(
                [*command, "--without", *without],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            )
            found = json.loads(done.stdout)
            seen.append(found)
            print(
                f"| {found['tokens']:,} | {found['types']:,} | {len(CHECKPOINTS)} | {words} "
                f"| {threads} | {load:.1f} | {found['wall']:.1f} "
                f"| {found['user'] + found['system']:.1f} | {found['GiB']:.2f} |",
                flush=True,
            )
            load = os.getloadavg()[0]
    bare, whole = seen[1:]
    cpu = [one["user"] + one["system"] for one in (whole, bare)]
    print("\nPersistence, composition and the questions, which follow single occurrences, take")
    print(f"{cpu[0] / cpu[1]:.2f} times the CPU seconds of the analysis without them, and ", end="")
    print(f"{whole['GiB'] / bare['GiB']:.2f} times its\npeak memory; target: 1.33.")


if __name__ == "__main__":
    main()
