"""Hold `agreement_traps` against runs of known truth, and print Markdown.

In the null run KL is drawn anew for every token around a level of its prompt: whatever the rule
finds there it finds without persistence, so observed / shuffled should cover 1 and the difference
to shuffled cuts should cover 0. Run: python -m benchmarks.validate_traps
"""

import os
import platform
from collections.abc import Callable
from datetime import date

import numpy as np
import polars as pl

from opd_diag.analyses.agreement_traps import AgreementTraps, agreement_traps
from opd_diag.datasets import null_run, trap_run
from opd_diag.datasets.base import Dataset

SEEDS = 200
PLANTED_SEEDS = 40
NEAR = 32  # tokens: half a window
MEASURES = (
    "prevalence",
    "onset",
    "tokens_saved",
    "stretch_tokens",
    "windows_below_after",
    "longest_run",
    "kl_per_token_kept",
)
SIGNALS = ("reverse_kl", "grad_logits", "gain", "grad_logits_other", "correct")


def measures(found: AgreementTraps) -> dict[str, dict[str, float]]:
    rows = found.trap_summary.filter(pl.col("measure").is_in(MEASURES), group="all")
    return {row["measure"]: row for row in rows.iter_rows(named=True)}


def null() -> None:
    covered = dict.fromkeys((*MEASURES, *SIGNALS), 0)
    ratios: dict[str, list[float]] = {name: [] for name in MEASURES}
    biased: dict[str, list[float]] = {name: [] for name in SIGNALS}
    enriched = []
    for seed in range(SEEDS):
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
    print(f"## No persistence: {SEEDS} seeds of 48 prompts x 4 rollouts x 300 tokens\n")
    print("The standard error of a share is 1.5 at 95 %.\n")
    print("| observed / shuffled | mean | interval covers 1, % |\n|---|---|---|")
    for name in MEASURES:
        print(f"| {name} | {np.mean(ratios[name]):.3f} | {100 * covered[name] / SEEDS:.1f} |")
    print("\n| signal per token kept, minus shuffled cuts | interval covers 0, % |")
    print("|---|---|")
    for name in SIGNALS:
        print(f"| {name} | {100 * covered[name] / SEEDS:.1f} |")
    print(
        "\nThe first two signals place the cut: the shuffled rule is fitted to keep as many tokens,"
    )
    print("which the bootstrap does not repeat, so their intervals are wide.")
    print("\nRandom cuts do not see KL. The rule cuts most where the level of a prompt is low, and")
    print("all signals but `correct` share that level or are made from KL: on the same noise the")
    print("interval of the difference to random cuts leaves 0 out in % of the seeds:", end=" ")
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
# Fires and saved in %, windows that stay below and shuffled, longest run and shuffled.
EXPECTED = {
    "no persistence": "57, 40, -, -, -, -",
    "planted stretches": "-, -, 0.47, 0.16, 131, 27",
    "KL falls evenly": "-",
}


def figures() -> None:
    print("## What a rule of this kind shows, by what is in the run\n")
    print("Means over 10 seeds of 48 prompts x 4 rollouts x 500 tokens. The last column is what")
    print("the methods expect, on runs of another make.\n")
    print("| run | fires, % of rollouts | tokens saved, % | stay below | shuffled ", end="")
    print("| longest run | shuffled | methods |\n|---|---|---|---|---|---|---|---|")
    for label, make in RUNS.items():
        seen = []
        for seed in range(10):
            data = make(prompts=48, tokens=500, seed=seed)
            found = measures(agreement_traps(data.tokens, data.rollouts, checkpoint="step0"))
            stay, run = found["windows_below_after"], found["longest_run"]
            seen.append(
                [
                    100 * found["prevalence"]["value"],
                    100 * found["tokens_saved"]["value"],
                    stay["observed"],
                    stay["shuffled"],
                    run["observed"],
                    run["shuffled"],
                ]
            )
        a, b, c, d, e, f = np.mean(seen, axis=0)
        cells = f"{a:.0f} | {b:.0f} | {c:.2f} | {d:.2f} | {e:.0f} | {f:.0f}"
        print(f"| {label} | {cells} | {EXPECTED[label]} |", flush=True)
    print("\nA KL that falls evenly has no stretch in it and yet stays below: a ratio above 1 says")
    print("that KL is not scattered, not that anything went wrong.\n")


def planted() -> None:
    hit, near, off, false = 0, 0, [], []
    seen: dict[str, list[bool]] = {name: [] for name in ("windows_below_after", "longest_run")}
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


def main() -> None:
    print("# The agreement-trap rule where the truth is known\n")
    print(
        f"`python -m benchmarks.validate_traps`, {date.today()}, Python "
        f"{platform.python_version()}, numpy {np.__version__}, polars {pl.__version__}, "
        f"{os.cpu_count()} CPU cores.\n"
    )
    null()
    figures()
    planted()


if __name__ == "__main__":
    main()
