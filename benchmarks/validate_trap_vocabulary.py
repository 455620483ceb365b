"""Ask which types stand in low-KL stretches of runs in which none does, and print Markdown.

Types are bound to prompts, clump and follow one another in the nulls, and KL has prompts and a
memory of its own; only that the two have nothing to do with each other is the same everywhere.
Run: python -m benchmarks.validate_trap_vocabulary [--seeds N]
"""

import argparse
import os
import platform
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from benchmarks.validate_traps import LONG, rate, read
from opd_diag.analyses.agreement_traps.vocabulary import trap_vocabulary
from opd_diag.datasets import NULLS, trap_run, ugly_run
from opd_diag.datasets.base import Dataset

SEEDS = 40
PLANTED_SEEDS = 20

SPOKEN = range(40, 45)  # types, no common ones, that planted stretches speak


def spoken(seed: int, share: float = 0.05) -> Dataset:
    """Plant stretches in which some tokens are of a few types of their own."""
    data = trap_run(prompts=48, tokens=500, seed=seed)
    tokens = data.tokens.join(data.truth["onset"], on="rollout", how="left", maintain_order="left")
    rng = np.random.default_rng(seed)
    since = pl.col("position").cast(pl.Int64) - pl.col("onset")
    draws = rng.random(data.tokens.height // 2) < share
    words = rng.choice(list(SPOKEN), draws.size).astype(np.int32)
    planted = pl.when((since >= 0) & (since < 150) & pl.Series(np.tile(draws, 2)))
    types = planted.then(pl.Series(np.tile(words, 2))).otherwise("token_id")
    tokens = tokens.with_columns(token_id=types.cast(pl.Int32)).drop("onset", "degenerate")
    return data._replace(tokens=tokens)


def nulls(seeds: int) -> None:
    """Count the types that are found where nothing is."""
    runs: dict[str, Callable[[int], Dataset]] = {}

    def add(name: str, **options: Any) -> None:
        runs[name] = lambda seed: ugly_run(seed=seed, checkpoints=("a",), **options)

    for name, options in NULLS.items():
        add(name, **options)
    add("topics, 4 x 300 tokens", **NULLS["topics"], **LONG)
    add("AR(0.8), topics, 4 x 300 tokens", **(NULLS["topics"] | {"memory": 0.8}), **LONG)
    add("trend, 4 x 300 tokens", **NULLS["trend"], **LONG)
    print(f"## No type has to do with KL: {seeds} seeds of each kind\n")
    print("Shares in %, Monte Carlo error in brackets; types of 10 occurrences and 5 effective")
    print("prompts. Beside the test stands what its place could be taken by: the interval of the")
    print("log-odds alone, which prompts with stretches bend.\n")
    print(
        "| run | types tested | p <= 0.05 | p <= 0.001 | adjusted p <= 0.05 in any type, runs ",
        end="",
    )
    print("| interval excludes 0 |\n|---|---|---|---|---|---|")
    for name, make in runs.items():
        tested, low, lower, any_type, apart = 0, [], [], [], []
        for seed in range(seeds):
            table = trap_vocabulary(*read(make(seed), seed), None).drop_nulls("p")
            tested += table.height
            low += (table["p"] <= 0.05).to_list()
            lower += (table["p"] <= 0.001).to_list()
            any_type.append(bool((table["p_adjusted"] <= 0.05).any()))
            apart += ((table["log_odds_low"] > 0) | (table["log_odds_high"] < 0)).to_list()
        shares = " | ".join(f"{100 * np.mean(one):.2f}" for one in (low, lower))
        print(f"| {name} | {tested:,} | {shares} | {rate(any_type)} | {100 * np.mean(apart):.1f} |",
              flush=True)  # fmt: skip


def planted() -> None:
    """Count the types found that were planted, and others."""
    print("\n## Planted types\n")
    print("Of planted stretches of 150 tokens in 60 % of 192 rollouts, some tokens are of five")
    print("types, none of the commonest:\n\n| share of the stretch | found of the five, % ", end="")
    print("| other types found, % |\n|---|---|---|")
    for share in (0.02, 0.05, 0.1):
        hit, others = [], []
        for seed in range(PLANTED_SEEDS):
            table = trap_vocabulary(*read(spoken(seed, share), seed), None).drop_nulls("p")
            there = table["token_id"].is_in(list(SPOKEN))
            shown = (table["p_adjusted"] <= 0.05) & (table["log_odds"] > 0)
            hit.append(shown.filter(there).sum() / len(SPOKEN))
            others.append(shown.filter(~there).mean())
        print(f"| {100 * share:.0f} % | {100 * np.mean(hit):.0f} | {100 * np.mean(others):.2f} |",
              flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    seeds = parser.parse_args().seeds
    print("# Types in low-KL stretches where the truth is known\n")
    print(
        f"`python -m benchmarks.validate_trap_vocabulary`, {date.today()}, Python "
        f"{platform.python_version()}, numpy {np.__version__}, polars {pl.__version__}, "
        f"{os.cpu_count()} CPU cores.\n"
    )
    nulls(seeds)
    planted()


if __name__ == "__main__":
    main()
