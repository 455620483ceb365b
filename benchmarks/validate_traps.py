"""Hold `agreement_traps` against runs of known truth, and print Markdown.

In the null run KL is drawn anew for every token around a level of its prompt: whatever the rule
finds there it finds without persistence, so observed / shuffled should cover 1 and the difference
to shuffled cuts should cover 0. Run: python benchmarks/validate_traps.py
"""

import numpy as np
import polars as pl

from opd_diag.analyses.agreement_traps import AgreementTraps, agreement_traps
from opd_diag.datasets import null_run, trap_run

SEEDS = 200
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
    print("| observed / shuffled | mean | interval covers 1, % |\n|---|---|---|")
    for name in MEASURES:
        print(f"| {name} | {np.mean(ratios[name]):.3f} | {100 * covered[name] / SEEDS:.1f} |")
    print("\n| signal per token kept, minus shuffled cuts | interval covers 0, % |")
    print("|---|---|")
    for name in SIGNALS:
        print(f"| {name} | {100 * covered[name] / SEEDS:.1f} |")
    print("\nAgainst random cuts, which do not see KL, the same noise gives a difference whose")
    print("interval leaves 0 out in % of the seeds:", end=" ")
    print(", ".join(f"{name} {100 * np.mean(biased[name]):.0f}" for name in SIGNALS) + ".")
    print(
        f"A cut at low KL keeps {100 * np.mean(enriched):.1f} % more KL per token, by selection.\n"
    )


def figures() -> None:
    print("## What a rule of this kind shows, by what is in the run\n")
    print("Means over 10 seeds of 48 prompts x 4 rollouts x 500 tokens.\n")
    print("| run | fires, % of rollouts | tokens saved, % | stay below | shuffled ", end="")
    print("| longest run | shuffled |\n|---|---|---|---|---|---|---|")
    for label, make in (("no persistence", null_run), ("planted stretches", trap_run)):
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
        print(f"| {label} | {a:.0f} | {b:.0f} | {c:.2f} | {d:.2f} | {e:.0f} | {f:.0f} |")


def main() -> None:
    print("# The agreement-trap rule where the truth is known\n")
    null()
    figures()


if __name__ == "__main__":
    main()
