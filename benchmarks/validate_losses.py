"""How often the finding of the loss audit errs and finds, on tokens that their student sampled.

Every run has 48 prompts x 2 rollouts x 40 tokens with whole random distributions of 30 ids, so that
exact KL and estimators are known. Asked is about k1, which is no bias, and about k1 cut at 3 nat.

Run: python -m benchmarks.validate_losses [--seeds N]
"""

import argparse

import polars as pl
from scipy.stats import binomtest

from opd_diag.analyses.findings import answer
from opd_diag.analyses.loss_audit import loss_audit
from opd_diag.analyses.loss_audit.findings import findings
from tests.analyses.loss_audit.on_policy import K_GRID, on_policy_run

FIRST_SEED = 1_000
ROWS = 30  # for which p is adjusted


def study(seeds: range) -> dict[str, int]:
    """Count what is said of every run."""
    counts = dict.fromkeys(("interval covers 1", "k1: yes", "k1: no", "k1 cut at 3: yes"), 0)
    for seed in seeds:
        data = on_policy_run(seed, prompts=48, samples=2, tokens=40)
        table = loss_audit(*data, k_grid=K_GRID, clamp=(3.0,), top_k=()).loss_audit
        table = table.with_columns(sampled_here=pl.lit(True))
        whole = table.row(by_predicate=pl.col("estimator") == "k1", named=True)
        cut = table.row(by_predicate=pl.col("estimator") == "k1_clamp_3", named=True)
        said = answer(findings(table), ["s"])["answer"][0]
        counts["interval covers 1"] += whole["relative_low"] <= 1 <= whole["relative_high"]
        counts["k1: yes"] += said == "yes"
        counts["k1: no"] += said == "no"
        counts["k1 cut at 3: yes"] += cut["p"] * ROWS <= 0.05
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    seeds = parser.parse_args().seeds
    print("# The loss audit on tokens that their student sampled\n")
    print("48 prompts x 2 rollouts x 40 tokens per run. k1 has no bias: yes is wrong, no is right.")
    print(f"k1 cut at 3 nat holds 0.7 of the exact KL: yes with p at most 0.05 / {ROWS}.\n")
    print("| what | runs | 95 % |\n|---|---|---|")
    for what, count in study(range(FIRST_SEED, FIRST_SEED + seeds)).items():
        ends = binomtest(count, seeds).proportion_ci()
        print(f"| {what} | {count} of {seeds} | {100 * ends.low:.1f} to {100 * ends.high:.1f} % |")


if __name__ == "__main__":
    main()
