"""Hold the answers of `teachability` against runs of known truth.

Nulls are exchangeable snapshots of one student, as ugly as real divergences, and runs in which the
gain depends on divergence and entropy alone. Prints Markdown, each share with its Monte Carlo
error. Run: python -m benchmarks.validate_teachability
"""

import os
import platform
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import polars as pl

from opd_diag.analyses.answers import Finding
from opd_diag.analyses.teachability import findings, teachability
from opd_diag.datasets import Dataset, teachable_run
from opd_diag.datasets.nulls import NULLS, ugly_run
from opd_diag.datasets.teachability import SHAPES

FIRST = 1_000  # seeds that were not looked at when the methods were chosen
NULL_SEEDS, SHAPE_SEEDS, POWER_SEEDS = 12, 12, 6
CORES = 1
THREE = ("step0", "step150", "step300")
NEEDED = ("teachability", "teachability_kl", "teachability_contrast", "teachability_selectors")
QUESTIONS = (
    "reverse-kl-fell", "forward-kl-fell", "compatibility-matters", "selector-beats-divergence",
)  # fmt: skip
# What independent nulls showed before features were taken out of time and matching in ranks.
SEEN_BEFORE = {
    "compatibility-matters": "54-100 % by pairs, 32-94 % by the model",
    "selector-beats-divergence": "no test",
    "reverse-kl-fell": "no test",
    "forward-kl-fell": "no test",
}

Row = Mapping[str, Any]


def asked(run: Dataset) -> tuple[dict[str, Finding], Row, Row]:
    """Give the findings by question, and the rows of `local` and `matched` that lead."""
    tables = teachability(run.tokens, run.rollouts)
    answers = {one.question: one for one in findings(*(getattr(tables, n) for n in NEEDED))}
    lead = tables.teachability["kl"][0]
    local = tables.teachability_models.filter(
        pl.col("term") == "local compatibility", ~pl.col("trimmed"), kl=lead
    )
    matched = tables.teachability_contrast.filter(contrast="matched", kl=lead)
    return answers, local.row(0, named=True), matched.row(0, named=True)


def null(kind: str, seed: int) -> tuple[dict[str, Finding], Row, Row]:
    return asked(ugly_run(seed=seed, checkpoints=THREE, **NULLS[kind]))


def two(seed: int) -> tuple[dict[str, Finding], Row, Row]:
    noise = float(np.random.default_rng(seed).uniform(0.1, 0.6))
    return asked(ugly_run(seed=seed, checkpoints=THREE[:2], sigma=2.0, snapshots=noise))


def planted(options: Mapping[str, Any], seed: int) -> tuple[dict[str, Finding], Row, Row]:
    made = {"prompts": 48, "samples": 2, "tokens": 100, "checkpoints": THREE} | dict(options)
    zeros = made.pop("zeros", 0.0)
    run = teachable_run(seed=seed, **made)
    return asked(_with_zeros(run, zeros, seed) if zeros else run)


def _with_zeros(run: Dataset, share: float, seed: int) -> Dataset:
    """Set the KL of some tokens to 0 under every checkpoint."""
    checkpoints = run.tokens["checkpoint"].n_unique()
    size = run.tokens.height // checkpoints
    chosen = np.tile(np.random.default_rng([seed, 5]).random(size) < share, checkpoints)
    zero = pl.Series(chosen)
    kls = pl.col("forward_kl", "reverse_kl", "union_kl")
    return run._replace(
        tokens=run.tokens.with_columns(pl.when(~zero).then(kls).otherwise(pl.lit(0, pl.Float32)))
    )


def percent(flags: Iterable[bool]) -> str:
    values = list(flags)
    if not values:
        return "n/a"
    share = np.mean(values)
    return f"{100 * share:.1f} ± {100 * np.sqrt(share * (1 - share) / len(values)):.1f}"


def misses(row: Row, name: str) -> bool:
    return not row[f"{name}_low"] <= 0 <= row[f"{name}_high"]


def yes(one: Finding) -> bool:
    """Whether the answer would be yes with as many tests as this analysis has."""
    return one.p is not None and one.answer(min(1, len(QUESTIONS) * one.p)) == "yes"


def nulls(each: Callable[..., Any]) -> None:
    print("## Nothing is there: three exchangeable snapshots\n")
    print(
        f"{NULL_SEEDS} seeds of each kind of `opd_diag.datasets.nulls.NULLS`. A question is asked"
    )
    print("only where it can be: a selector needs a gain that is reliably above 0.\n")
    print("| question | asked, % | p <= 0.05, % of asked | p <= 0.001, % | earlier version |")
    print("|---|---|---|---|---|")
    # Under "falling" KL falls, and it is no error to say so.
    runs = [
        {question: one for question, one in run[0].items()
         if question in QUESTIONS and not (kind == "falling" and question.endswith("-fell"))}
        for kind in NULLS
        for run in each(partial(null, kind), range(FIRST, FIRST + NULL_SEEDS))
    ]  # fmt: skip
    for question in QUESTIONS:
        p = [run[question].p for run in runs if question in run]
        known = np.array([value for value in p if value is not None])
        print(
            f"| {question} | {percent(value is not None for value in p)} "
            f"| {percent(known <= 0.05)} | {percent(known <= 0.001)} | {SEEN_BEFORE[question]} |"
        )
    wrong = percent(any(map(yes, run.values())) for run in runs)
    print(f"\nAny `yes` of the four, adjusted by Bonferroni: {wrong} % of {len(runs)} runs.\n")


def two_checkpoints(each: Callable[..., Any]) -> None:
    print("## Two snapshots, noise of 0.1 to 0.6 in log KL\n")
    runs = each(two, range(FIRST, FIRST + NULL_SEEDS))
    for question in QUESTIONS[2:]:
        silent = percent(run[0][question].p is None for run in runs)
        print(f"`{question}` is not asked in {silent} % of {len(runs)} runs.")
    lines = percent(misses(run[2], "difference") for run in runs)
    print(f"Left to itself, the interval of the pairs would exclude 0 in {lines} %.\n")


def shapes(each: Callable[..., Any]) -> None:
    print("## The gain depends on divergence and entropy alone\n")
    print("Share of seeds that find compatibility, in %: 5 is the level. f: how the gain, as a")
    print("share of D, depends on log D; D in 0.5 to 6 nat, or log-normal with sigma 2, or with")
    print("sigma 3 and 12,480 tokens, all of them or 30 % above 0. No answer reads `local`.\n")
    print("| D | f | p of pairs <= 0.05 | interval of `adjusted` | of `local` | unbalanced |")
    print("|---|---|---|---|---|---|")
    for sigma, zeros in ((None, 0.0), (2.0, 0.0), (3.0, 0.0), (3.0, 0.7)):
        for shape in SHAPES:
            options: dict[str, Any] = {"sigma": sigma, "shape": shape, "zeros": zeros}
            options |= {"snapshots": 0.0 if sigma is None else 0.3}
            options |= {"tokens": 130 if sigma == 3 else 100}
            runs = each(partial(planted, options), range(FIRST, FIRST + SHAPE_SEEDS))
            pairs = [row for _, _, row in runs]
            cells = (
                percent(row["p"] is not None and row["p"] <= 0.05 for row in pairs),
                percent(misses(row, "adjusted") for row in pairs),
                percent(misses(row, "coefficient") for _, row, _ in runs),
                percent("unbalanced" in (row["reason"] or "") for row in pairs),
            )
            name = "tame" if sigma is None else f"sigma {sigma:g}"
            name += ", zeros" if zeros else ""
            print(f"| {name} | {shape} | {' | '.join(cells)} |", flush=True)
    print()


def power(each: Callable[..., Any]) -> None:
    print("## Planted effects, D log-normal with sigma 2\n")
    print("The gain is D (0.25 + 0.02 H + effect C + noise). Share of seeds that answer `yes` with")
    print("four tests, in %.\n")
    print(f"| effect | {' | '.join(QUESTIONS)} |")
    print("|---|---|---|---|---|")
    for effect in (0.0, 0.05, 0.1, 0.2, -0.25):
        options = {"sigma": 2.0, "compatibility": effect}
        runs = each(partial(planted, options), range(FIRST, FIRST + POWER_SEEDS))
        cells = [percent(yes(run[0][question]) for run in runs) for question in QUESTIONS]
        print(f"| {effect:g} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    # One BLAS thread in each worker: there are as many workers as cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print("# Teachability where the truth is known\n")
    print(
        f"`python -m benchmarks.validate_teachability`, {date.today()}, Python "
        f"{platform.python_version()}, numpy {np.__version__}, polars {pl.__version__}, "
        f"{CORES} CPU cores.\n"
    )
    print(
        "48 prompts x 2 rollouts, three checkpoints unless said otherwise: features of the first,"
    )
    print("gain from the second to the third. After ± stands the Monte Carlo error.\n")
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool:

        def each(make: Callable[[int], Any], seeds: range) -> list[Any]:
            return list(pool.map(make, seeds))

        nulls(each)
        two_checkpoints(each)
        shapes(each)
        power(each)


if __name__ == "__main__":
    main()
