"""Hold the answers of `teachability` about compatibility against runs of known truth.

In the null runs the gain is f(divergence) + entropy + noise that knows nothing of compatibility,
which itself falls with divergence and entropy. `local` is the test (i) of the models, `matched`
the answer (iii) of the contrasts; the thirds of Q3 (ii) and the model `full` are shown as
published. Prints Markdown. Run: python -m benchmarks.validate_teachability
"""

import os
import platform
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import polars as pl

from opd_diag.analyses.teachability.contexts import read_contexts
from opd_diag.analyses.teachability.contrast import contrast_table
from opd_diag.analyses.teachability.models import models_table
from opd_diag.analyses.teachability.options import Options
from opd_diag.analyses.teachability.sample import sample_tokens
from opd_diag.datasets import teachable_run
from opd_diag.datasets.teachability import SHAPES
from opd_diag.tables.source import as_source, choose_rollouts

SEEDS = 200
FIRST = 1_000  # seeds that were not looked at when the models were chosen
PLANTED = {"compatibility": 0.1, "interaction": 0.0}
CORES = 2

Row = Mapping[str, Any]


def answers(seed: int, **options: Any) -> dict[str, Row]:
    """Give the rows of `full`, `local` and both contrasts on forward_kl."""
    run = teachable_run(prompts=24, samples=4, tokens=100, seed=seed, **options)
    contexts = read_contexts(
        as_source(run.tokens, run.rollouts),
        "step0",
        "step1",
        choose_rollouts(run.rollouts),
        Options(seed=seed),
    )
    sample = sample_tokens(contexts)
    models = models_table(contexts, sample).filter(kl="forward_kl", trimmed=False)
    contrast = contrast_table(contexts, sample, within="run").filter(kl="forward_kl")
    full, product, local = (
        models.filter(pl.col("term") == term).row(0, named=True)
        for term in ("compatibility", "divergence x compatibility", "local compatibility")
    )
    found = {row["contrast"]: row for row in contrast.iter_rows(named=True)}
    return found | {"full C": full, "full DC": product, "local": local}


def covers(row: Row, name: str, truth: float = 0.0) -> bool:
    return bool(row[f"{name}_low"] <= truth <= row[f"{name}_high"])


def percent(flags: list[bool]) -> str:
    share = np.mean(flags)
    return f"{100 * share:.1f} ± {100 * np.sqrt(share * (1 - share) / len(flags)):.1f}"


def nulls(pool: ProcessPoolExecutor) -> None:
    print("## No effect of compatibility\n")
    print("Share of seeds whose 95 % interval leaves out 0, in %: a false find. Asked of `local`:")
    print("at most 10; `matched`: 5. The thirds of Q3 and `full` are no tests: a gain that depends")
    print("on divergence alone makes them differ from 0, the more the less straight f is.\n")
    print("| f | (i) `local` | (iii) `matched` | (ii) thirds of Q3 | `full`: C | `full`: D C |")
    print("|---|---|---|---|---|---|")
    sizes = []
    for shape in SHAPES:
        found = list(pool.map(partial(answers, shape=shape), range(FIRST, FIRST + SEEDS)))
        cells = [
            percent([not covers(row[key], name) for row in found])
            for key, name in (
                ("local", "coefficient"),
                ("matched", "difference"),
                ("Q3 thirds", "difference"),
                ("full C", "coefficient"),
                ("full DC", "coefficient"),
            )
        ]
        print(f"| {shape} | {' | '.join(cells)} |", flush=True)
        sizes.append((shape, found))
    print("\nMean over the seeds, in nat; after ± its standard error. Beside (ii) and (iii) stands")
    print("what the tables give as their null. `matched` and `local` should be 0. The gap of Q3 is")
    print("a little larger than its null, which knows entropy and divergence by tenths only.\n")
    print("| f | `local` | `matched` | its null | gap of Q3 | its null | pairs | unbalanced, % |")
    print("|---|---|---|---|---|---|---|---|")
    for shape, found in sizes:
        cells = [
            mean([row[key][name] for row in found])
            for key, name in (
                ("local", "coefficient"),
                ("matched", "difference"),
                ("matched", "null"),
                ("Q3 thirds", "difference"),
                ("Q3 thirds", "null"),
            )
        ]
        matched = [row["matched"] for row in found]
        pairs = np.mean([row["n_pairs"] for row in matched])
        weak = np.mean(["unbalanced" in (row["reason"] or "") for row in matched])
        print(f"| {shape} | {' | '.join(cells)} | {pairs:.0f} | {100 * weak:.1f} |", flush=True)


def mean(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values) / np.sqrt(len(values)):.4f}"


def planted(pool: ProcessPoolExecutor) -> None:
    print(f"\n## Planted: {PLANTED['compatibility']} nat of gain per unit of compatibility\n")
    print("The truth of `matched` is 0.1 times the compatibility gap of its pairs.\n")
    print("| f | answer | estimate / truth | covers the truth, % | finds the effect, % |")
    print("|---|---|---|---|---|")
    for shape in SHAPES:
        found = list(
            pool.map(partial(answers, shape=shape, **PLANTED), range(FIRST, FIRST + SEEDS // 4))
        )
        for key, name in (("local", "coefficient"), ("matched", "difference")):
            rows = [row[key] for row in found]
            gaps = [row["compatibility_gap"] if key == "matched" else 1.0 for row in rows]
            truths = [PLANTED["compatibility"] * gap for gap in gaps]
            pairs = list(zip(rows, truths, strict=True))
            cells = (
                mean([row[name] / truth for row, truth in pairs]),
                percent([covers(row, name, truth) for row, truth in pairs]),
                percent([row[f"{name}_low"] > 0 for row in rows]),
            )
            print(f"| {shape} | `{key}` | {' | '.join(cells)} |", flush=True)


def main() -> None:
    # One BLAS thread in each worker: there are as many workers as cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    print("# Teachability where the truth is known\n")
    print(
        f"`python -m benchmarks.validate_teachability`, {date.today()}, Python "
        f"{platform.python_version()}, numpy {np.__version__}, polars {pl.__version__}, "
        f"{CORES} CPU cores.\n"
    )
    print(f"{SEEDS} seeds from {FIRST} on, 24 prompts x 4 rollouts x 100 tokens a row, gain on")
    print(
        "forward_kl, f its dependence on divergence; planted effects on a quarter of the seeds.\n"
    )
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool:
        nulls(pool)
        planted(pool)


if __name__ == "__main__":
    main()
