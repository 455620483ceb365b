"""Measure four controls where the truth is known, each beside what it replaced; print Markdown.

Run: python -m benchmarks.validate_controls
"""

import importlib
from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl

from opd_diag.analyses.agreement_traps import agreement_traps
from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.release_points import release_points
from opd_diag.analyses.teachability import teachability
from opd_diag.analyses.teachability.contexts import Contexts
from opd_diag.analyses.teachability.options import Options
from opd_diag.analyses.teachability.selectors import Chosen
from opd_diag.datasets import release_run, teachable_run, ugly_run
from opd_diag.rollouts.table import cluster_prompts
from opd_diag.stats.bootstrap import Interval
from opd_diag.tables.columns.teachability import RANDOM

SEEDS = 20
CLUSTER_SEEDS = 400
K_GRID = (2, 4)


def percent(flags: list[bool]) -> str:
    share = np.mean(flags)
    return f"{100 * share:.1f} ± {100 * np.sqrt(share * (1 - share) / len(flags)):.1f}"


def selectors() -> None:
    """Print how much wider the interval against one random draw is than that against the mean."""
    ratios: dict[str, list[float]] = {}
    module = importlib.import_module("opd_diag.analyses.teachability")
    make = module.selectors_table

    def measured(contexts: Contexts, chosen: Mapping[str, Chosen], options: Options) -> object:
        for name, value in _widths(contexts, chosen, options.budgets.index(0.10)):
            ratios.setdefault(name, []).append(value)
        return make(contexts, chosen, options)

    module.selectors_table = measured
    for seed in range(SEEDS):
        data = teachable_run(
            sigma=2.0, prompts=48, samples=2, tokens=100, checkpoints=("a", "b", "c"), seed=seed
        )
        teachability(data.tokens, data.rollouts, seed=seed)
    module.selectors_table = make
    print("## Selectors against the mean of all tokens\n")
    print("Width of the interval of the gain at 10 % less that of one random draw of as many, over")
    print(
        f"its width less the mean of all tokens: mean of {SEEDS} seeds and both directions of KL,"
    )
    print("D log-normal with sigma 2. Earlier version: 1.35 to 2.3.\n")
    print("| selector | ratio of widths |\n|---|---|")
    for name, values in ratios.items():
        print(f"| {name} | {np.mean(values):.2f} ± {np.std(values) / np.sqrt(SEEDS):.2f} |")
    print(flush=True)


def _widths(
    contexts: Contexts, chosen: Mapping[str, Chosen], budget: int
) -> Iterator[tuple[str, float]]:
    tokens = contexts.prompts.sums(np.ones(contexts.n))
    random = chosen[RANDOM].sums
    for name, choice in chosen.items():
        if choice.level is not None and name != RANDOM:
            ratios = []
            for kl in contexts.kls:
                own = choice.sums[kl][:, budget], choice.sums["n"][:, budget]
                drawn = random[kl][:, budget], random["n"][:, budget]
                everything = contexts.prompt_sums(contexts.gain(kl)), tokens
                against = [contexts.prompts.difference(*own, *two) for two in (drawn, everything)]
                widths = [_width(one) for one in against]
                ratios.append(widths[0] / widths[1])
            yield name, float(np.mean(ratios))


def _width(interval: Interval) -> float:
    return float(interval.high - interval.low)


def releases() -> None:
    """Print how often a drop shows in a difference, and how often in two rates."""
    print("## Release points: the difference of two rates, and the rates\n")
    print(
        f"{SEEDS} runs of 48 prompts x 2 rollouts of 40 segments, AR(0.6). Sharp: the interval of"
    )
    print("the difference excludes 0. Apart: the intervals of the rates do not overlap. Early:")
    print("that of the first fifth less the last of the margin excludes 0. In %.\n")
    print("| drop, sd | down - up, sharp | down and up, apart | early |\n|---|---|---|---|")
    for drop in (0.0, 0.025, 0.05, 0.1):
        sharp, apart, early = [], [], []
        for seed in range(SEEDS):
            data = release_run(
                prompts=48, samples=2, segments=40, segment_tokens=4, shape="step",
                drop=drop, phi=0.6, k_grid=K_GRID, seed=seed,
            )  # fmt: skip
            plain = data.rollouts.drop("correct", "finish_reason")
            rows = release_points(data.tokens, plain, k_grid=K_GRID).release_summary
            rows = rows.filter(pl.col("k").is_null() | (pl.col("k") == 4), split="all")
            one = {row["statistic"]: row for row in rows.iter_rows(named=True)}
            sharp.append(_leaves_out_0(one["accepted_minus_up"]))
            down, up = one["accepted"], one["accepted_up"]
            apart.append(down["value_low"] > up["value_high"])
            early.append(_leaves_out_0(one["margin_early_minus_late"]))
        cells = " | ".join(map(percent, (sharp, apart, early)))
        print(f"| {4 * drop:g} | {cells} |", flush=True)
    print()


def _leaves_out_0(row: Mapping[str, float]) -> bool:
    return not row["value_low"] <= 0 <= row["value_high"]


def totals() -> None:
    """Print what shares of a gain are where the whole gain is not above 0."""
    shares, reasons, runs = 0, 0, 0
    for seed in range(SEEDS):
        data = ugly_run(sigma=2.0, zeros=0.5, prompt_effect=0.5, checkpoints=("a", "b"), seed=seed)
        rows = agreement_traps(data.tokens, data.rollouts, seed=seed).trap_summary
        first, last = data.tokens.partition_by("checkpoint", maintain_order=True)
        for kl in ("reverse_kl", "forward_kl"):
            if last[kl].cast(pl.Float64).sum() >= first[kl].cast(pl.Float64).sum():
                (row,) = rows.filter(
                    measure=f"gain_{kl}_after_cut", group="all", checkpoint="a"
                ).iter_rows(named=True)
                runs += 1
                shares += row["value"] is not None
                reasons += row["reason"] is not None
    print("## Shares of a gain that is not above 0\n")
    print(f"Of {runs} totals that are not above 0, {shares} are given a share; {reasons} say why")
    print("not. Earlier version: 0.40 of a negative total, and ratios of 493.\n", flush=True)


def prompt_ids() -> None:
    """Print the coverage of a mean where a dump gives each epoch's prompts ids of their own."""
    prompts, epochs, samples = 40, 4, 2
    rows = np.repeat(np.arange(prompts), epochs * samples)
    epoch = np.tile(np.repeat(np.arange(epochs), samples), prompts)
    told = [f"{prompt}-{e}" for prompt, e in zip(rows, epoch, strict=True)]
    tokens = [np.array([prompt, 1]) for prompt in rows]
    known = {"as given": told, "compared with the prompts": cluster_prompts(told, tokens)[0]}
    print("## Prompt ids that change with every epoch\n")
    print(f"{prompts} prompts, {epochs} epochs, {samples} rollouts each; coverage of the 95 %")
    print(f"interval of a mean, {CLUSTER_SEEDS} seeds, in %. Earlier version: 88 to 71.\n")
    print("| ids | clusters | coverage |\n|---|---|---|")
    for name, ids in known.items():
        hits = []
        for seed in range(CLUSTER_SEEDS):
            rng = np.random.default_rng(seed)
            y = rng.standard_normal(prompts)[rows] + rng.standard_normal(rows.size)
            clusters = Prompts(pl.Series(ids), seed=seed)
            found = clusters.ratio(*clusters.sums_and_counts(y))
            hits.append(bool(found.low <= 0 <= found.high))
        print(f"| {name} | {clusters.count} | {percent(hits)} |", flush=True)


def main() -> None:
    print("# Controls beside what they replaced\n")
    selectors()
    releases()
    totals()
    prompt_ids()


if __name__ == "__main__":
    main()
