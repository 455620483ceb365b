"""Hold `agreement_traps` against runs of known truth, and print Markdown.

Both questions are asked of nulls as ugly as real runs and of planted effects, and what stood in
their place before is counted beside them: single tokens shuffled, and the crude difference of
outcomes. In the plain null KL is drawn anew for every token around a level of its prompt: observed
over shuffled should cover 1 and the difference to shuffled cuts should cover 0.
Run: python -m benchmarks.validate_traps [--seeds N]
"""

import argparse
import os
import platform
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from benchmarks.planted_effects import PLANTED
from opd_diag.analyses.agreement_traps import AgreementTraps, agreement_traps
from opd_diag.analyses.agreement_traps.checkpoint import Checkpoint, read_checkpoint
from opd_diag.analyses.agreement_traps.findings import findings
from opd_diag.analyses.agreement_traps.options import Options
from opd_diag.analyses.agreement_traps.outcomes import trap_outcomes
from opd_diag.analyses.agreement_traps.persistence import Nulls, shuffled_blocks, trap_persistence
from opd_diag.analyses.agreement_traps.shuffles import shuffled_cuts
from opd_diag.datasets import NULLS, null_run, trap_run, ugly_run
from opd_diag.datasets.base import Dataset
from opd_diag.tables.columns.agreement_traps import CRUDE
from opd_diag.tables.source import as_source, choose_rollouts

SEEDS = 20
QUIET_SEEDS = 20
PLANTED_SEEDS = 10
QUESTIONS = ("low-kl-stretches", "cut-rollouts-wrong")
LONG: Mapping[str, Any] = {"samples": 4, "tokens": 300}
NEAR = 32  # tokens: half a window
MEASURES = (
    "prevalence",
    "onset",
    "tokens_saved",
    "stretch_tokens",
    "longest_run",
    "kl_per_token_kept",
)
SIGNALS = (
    "reverse_kl",
    "grad_logits",
    "gain_reverse_kl",
    "gain_forward_kl",
    "grad_logits_other",
    "correct",
)


def measures(found: AgreementTraps) -> dict[str, dict[str, float]]:
    rows = found.trap_summary.filter(pl.col("measure").is_in(MEASURES), group="all")
    return {row["measure"]: row for row in rows.iter_rows(named=True)}


def read(data: Dataset, seed: int) -> tuple[Checkpoint, Nulls]:
    """Apply the rule to the first checkpoint, and to its shuffled blocks."""
    options = Options(seed=seed)
    source = as_source(data.tokens, data.rollouts)
    rollouts = choose_rollouts(source.rollouts)
    one = read_checkpoint(source, source.checkpoints[0], rollouts, options)
    drawn = shuffled_cuts(
        one.sample_kl,
        one.sample_lengths,
        [options.rule],
        one.sample_thresholds([options.rule]),
        block=options.block,
        draws=options.draws,
        seed=seed,
    )
    return one, shuffled_blocks(one, drawn[options.rule])


def ask(data: Dataset, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Make the two tables that answer, of the first checkpoint."""
    one, nulls = read(data, seed)
    return trap_persistence(one, nulls), trap_outcomes(one)


def rate(flags: list[bool]) -> str:
    """Write a share of seeds in %, with its Monte Carlo error."""
    p = float(np.mean(flags))
    return f"{100 * p:.1f} ({100 * np.sqrt(max(p * (1 - p), 0.25 / len(flags)) / len(flags)):.1f})"


def questions(runs: Mapping[str, Callable[[int], Dataset]], seeds: int) -> None:
    """Ask both questions of runs of each kind, and print a line for each kind."""
    print(
        "| run | longer than shuffled single tokens, interval | blocks of 16 | stretches: ", end=""
    )
    print("p <= 0.05 | p <= 0.001 | no | crude difference, interval | wrong: p <= 0.05 | ", end="")
    print("p <= 0.001 | no |\n|---|---|---|---|---|---|---|---|---|---|")
    every: dict[str, list[float]] = {name: [] for name in QUESTIONS}
    for name, make in runs.items():
        before: list[list[bool]] = [[], [], []]
        p: dict[str, list[float]] = {question: [] for question in QUESTIONS}
        no: dict[str, list[bool]] = {question: [] for question in QUESTIONS}
        for seed in range(seeds):
            persistence, outcomes = ask(make(seed), seed)
            for flags, block in zip(before, (1, 16), strict=False):
                low = persistence.filter(block=block)["difference_low"][0]
                flags.append(low is not None and low > 0)
            low, high = outcomes.filter(comparison=CRUDE)["difference_low", "difference_high"].row(
                0
            )
            before[2].append(low is not None and not low <= 0 <= high)
            for one in findings(persistence, outcomes):
                p[one.question].append(1.0 if one.p is None else one.p)
                no[one.question].append(one.answer(one.p) == "no")
        cells = [name, rate(before[0]), rate(before[1])]
        for question in QUESTIONS:
            values = np.array(p[question])
            every[question] += p[question]
            cells += [rate(list(values <= level)) for level in (0.05, 0.001)]
            cells += [rate(no[question])]
            if question == QUESTIONS[0]:
                cells.append(rate(before[2]))
        print("| " + " | ".join(cells) + " |", flush=True)
    shares = [
        f"{question}: p <= 0.05 in {100 * np.mean(np.array(values) <= 0.05):.2f} %, p <= 0.001 in "
        f"{100 * np.mean(np.array(values) <= 0.001):.2f} % of {len(values):,} runs"
        for question, values in every.items()
    ]
    print("\n" + "; ".join(shares) + ".\n")


def nulls(seeds: int) -> None:
    runs: dict[str, Callable[[int], Dataset]] = {}

    def add(name: str, **options: Any) -> None:
        runs[name] = lambda seed: ugly_run(seed=seed, checkpoints=("a",), **options)

    for name, options in NULLS.items():
        add(name, **options)
    for phi in (0.5, 0.8):
        add(f"AR({phi}), 4 x 300 tokens", memory=phi, **LONG)
    add("trend, 4 x 300 tokens", **NULLS["trend"], **LONG)
    print(f"## Both questions under the null: {seeds} seeds of each kind\n")
    print(
        "Shares of the seeds in %, Monte Carlo error in brackets. 48 prompts of 2 rollouts of 150"
    )
    print("tokens where nothing else is said. Earlier version: the interval against single tokens")
    print("excludes equality in 100 % of AR(0.5) runs, against blocks of 16 in 10 %; `correct` by")
    print("trigger +0.072 between prompts where it is -0.021 within.\n")
    questions(runs, seeds)


def null() -> None:
    covered = dict.fromkeys((*MEASURES, *SIGNALS), 0)
    ratios: dict[str, list[float]] = {name: [] for name in MEASURES}
    biased: dict[str, list[float]] = {name: [] for name in SIGNALS}
    enriched = []
    for seed in range(QUIET_SEEDS):
        data = null_run(prompts=48, tokens=300, checkpoints=("step0", "step1"), seed=seed)
        found = agreement_traps(data.tokens, data.rollouts, checkpoint="step0", seed=seed)
        for name, row in measures(found).items():
            covered[name] += row["ratio_low"] <= 1 <= row["ratio_high"]
            ratios[name].append(row["ratio"])
        setting = found.trap_cuts.filter("is_setting")
        for row in setting.filter(rule="shuffled KL").iter_rows(named=True):
            covered[row["signal"]] += row["difference_low"] <= 0 <= row["difference_high"]
        for row in setting.filter(rule="random cuts").iter_rows(named=True):
            biased[row["signal"]].append(not row["difference_low"] <= 0 <= row["difference_high"])
        (kl,) = setting.filter(rule="shuffled KL", signal="reverse_kl").iter_rows(named=True)
        enriched.append(kl["kept"] / kl["all_tokens"] - 1)
    print(f"## No persistence: {QUIET_SEEDS} seeds of 48 prompts x 4 rollouts x 300 tokens\n")
    print("The standard error of a share is 4.9 at 95 %.\n")
    print("| observed / shuffled | mean | interval covers 1, % |\n|---|---|---|")
    for name in MEASURES:
        print(f"| {name} | {np.mean(ratios[name]):.3f} | {100 * covered[name] / QUIET_SEEDS:.1f} |")
    print("\n| signal per token kept, minus shuffled cuts | interval covers 0, % |")
    print("|---|---|")
    for name in SIGNALS:
        print(f"| {name} | {100 * covered[name] / QUIET_SEEDS:.1f} |")
    print(
        "\nThe first two signals place the cut: the shuffled rule is fitted to keep as many tokens,"
    )
    print("which the bootstrap does not repeat, so their intervals are wide.")
    print("\nRandom cuts do not see KL. The rule cuts most where the level of a prompt is low, and")
    print("all signals but `correct` share that level or are made from KL: on the same noise the")
    print("interval of the difference to random cuts excludes 0 in % of the seeds:", end=" ")
    print(", ".join(f"{name} {100 * np.mean(biased[name]):.0f}" for name in SIGNALS) + ".")
    print(
        f"A cut at low KL keeps {100 * np.mean(enriched):.1f} % more KL per token, by selection.\n"
    )


def fading_run(**options: int) -> Dataset:
    """Let the KL of a run without persistence fall evenly, to a fifth at the end."""
    data = null_run(**options)
    last = pl.col("position").max().over("checkpoint", "rollout")
    level = (1 - 0.8 * pl.col("position") / last).cast(pl.Float32)
    return data._replace(tokens=data.tokens.with_columns(reverse_kl=pl.col("reverse_kl") * level))


RUNS: dict[str, Callable[..., Dataset]] = {
    "no persistence": null_run,
    "planted stretches": trap_run,
    "KL falls evenly": fading_run,
}


def figures() -> None:
    print("## What a rule of this kind shows, by what is in the run\n")
    print("Means over 5 seeds of 48 prompts x 4 rollouts x 500 tokens; runs in windows.\n")
    print("| run | fires, % of rollouts | tokens saved, % | longest run ", end="")
    print("| single tokens shuffled ", end="")
    print("| blocks of 16 | 32 | 64, steady course kept |")
    print("|---|---|---|---|---|---|---|---|")
    for label, make in RUNS.items():
        seen = []
        for seed in range(5):
            data = make(prompts=48, tokens=500, seed=seed)
            result = agreement_traps(data.tokens, data.rollouts, checkpoint="step0")
            found = measures(result)
            runs = result.trap_persistence
            seen.append(
                [
                    100 * found["prevalence"]["value"],
                    100 * found["tokens_saved"]["value"],
                    runs["longest_run"][0],
                    *runs["shuffled"],
                ]
            )
        cells = " | ".join(f"{value:.0f}" for value in np.mean(seen, axis=0))
        print(f"| {label} | {cells} |", flush=True)
    print("\nA KL that falls evenly has no stretch in it: shuffling moves its low end about, and")
    print("only the last column leaves the fall where it is.\n")


def planted() -> None:
    hit, near, off, false = 0, 0, [], []
    seen: dict[str, list[bool]] = {name: [] for name in ("longest_run",)}
    total = 0
    for seed in range(PLANTED_SEEDS):
        data = trap_run(prompts=48, tokens=500, seed=seed)
        free = agreement_traps(data.tokens, data.rollouts, checkpoint="step0", seed=seed)
        for name, row in measures(free).items():
            if name in seen:
                seen[name].append(row["ratio_low"] > 1)
        given = agreement_traps(
            data.tokens, data.rollouts, checkpoint="step0", threshold=0.05, draws=1
        )
        rows = given.agreement_traps.join(data.truth["onset"], on="rollout", how="left")
        there = rows.filter(pl.col("onset").is_not_null())
        fired = there.filter("triggered")
        away = (fired["cut_token"].cast(pl.Int64) - fired["onset"].cast(pl.Int64)).to_numpy()
        total, hit, near = (
            total + there.height,
            hit + fired.height,
            near + (abs(away) <= NEAR).sum(),
        )
        off.append(away)
        false.append(rows.filter(pl.col("onset").is_null())["triggered"].mean())
    away = np.concatenate(off)
    print("## Planted stretches\n")
    print(f"{PLANTED_SEEDS} seeds of 48 prompts x 4 rollouts x 500 tokens; 150 tokens in 60 % of")
    print("the rollouts have 0.05 of their KL. Windows lie at 0.28 nat outside and 0.014 inside.\n")
    print("| | |\n|---|---|")
    print(f"| found at a threshold of 0.05 nat, % of {total:,} | {100 * hit / total:.1f} |")
    print(f"| cut within {NEAR} tokens of the first low one, % of those | {100 * near / hit:.1f} |")
    print(f"| cut minus first low token: mean, 5 % and 95 % quantile | {away.mean():.1f}, ", end="")
    print(f"{np.quantile(away, 0.05):.0f}, {np.quantile(away, 0.95):.0f} |")
    print(f"| fires where nothing was planted, % | {100 * np.mean(false):.1f} |")
    for name, flags in seen.items():
        words = f"{name}: interval of observed / shuffled above 1, % of seeds (default threshold)"
        print(f"| {words} | {100 * np.mean(flags):.0f} |")


def power() -> None:
    def stretches(**options: Any) -> Callable[[int], Dataset]:
        return lambda seed: trap_run(prompts=48, tokens=500, seed=seed, **options)

    runs = {
        PLANTED[QUESTIONS[0]].text: PLANTED[QUESTIONS[0]].make,
        PLANTED[QUESTIONS[1]].text: PLANTED[QUESTIONS[1]].make,
        "150 of 500 tokens at 0.05 in 60 % of 4 rollouts, half of them wrong": stretches(),
        "the same, 80 % of them wrong": stretches(degenerate=0.8),
        "the same in 40 %, 80 % of them wrong": stretches(share=0.4, degenerate=0.8),
    }
    print(f"\n## Both questions of planted effects: {PLANTED_SEEDS} seeds\n")
    questions(runs, PLANTED_SEEDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    seeds = parser.parse_args().seeds
    print("# The agreement-trap rule where the truth is known\n")
    print(
        f"`python -m benchmarks.validate_traps`, {date.today()}, Python "
        f"{platform.python_version()}, numpy {np.__version__}, polars {pl.__version__}, "
        f"{os.cpu_count()} CPU cores.\n"
    )
    nulls(seeds)
    null()
    figures()
    planted()
    power()


if __name__ == "__main__":
    main()
