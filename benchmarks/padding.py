"""Share of the tokens of a run's batches that is padding, and what shared prompts could save.

Lengths are drawn (log-normal, cut at the longest allowed); nothing is run. Prints Markdown. Run:
python -m benchmarks.padding > benchmarks/results/padding.md
"""

import argparse
from datetime import date

import numpy as np
from numpy.typing import NDArray

from opd_diag.scoring.parts.batches import plan_batches
from opd_diag.scoring.sequences import plan_parts

SHAPES = (("short", 500, 0.8, 32_768), ("long", 4_000, 0.8, 32_768), ("cut", 8_000, 1.5, 16_384))
BUDGETS = (8_192, 65_536)
PART_TOKENS = 262_144


def padded(lengths: NDArray[np.int64], responses: NDArray[np.int64], budget: int) -> float:
    """Return the share of padding in the batches of all parts."""
    real = whole = 0
    for part in plan_parts(responses, PART_TOKENS):
        own = lengths[part.start : part.stop]
        for batch in plan_batches(own, budget):
            real += int(own[batch].sum())
            whole += int(own[batch].max()) * len(batch)
    return 1 - real / whole


def main() -> None:
    """Print one row for each shape and batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=4_000)
    parser.add_argument("--prompt", type=int, default=150)
    parser.add_argument("--samples", type=int, default=8)
    options = parser.parse_args()
    print("# Padding and shared prompts\n")
    print(
        f"`python -m benchmarks.padding`, {date.today()}: lengths drawn, nothing run. Parts of ",
        end="",
    )
    print(f"{PART_TOKENS:,} response tokens,\nprompts of {options.prompt} tokens with ", end="")
    print(f"{options.samples} responses each. Padding is the most that attention without")
    print(
        "padding could save of the bodies' work, `prompts` the most that a prompt run once could.\n"
    )
    print("| responses | median | longest allowed | batch tokens | padding | prompts |")
    print("|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    for name, median, spread, longest in SHAPES:
        drawn = rng.lognormal(np.log(median), spread, options.rollouts)
        responses = np.clip(drawn, 1, longest).astype(np.int64)
        lengths = responses + options.prompt
        saved = options.prompt * (1 - 1 / options.samples) / lengths.mean()
        for budget in BUDGETS:
            share = padded(lengths, responses, budget)
            print(f"| {name} | {median:,} | {longest:,} | {budget:,} ", end="")
            print(f"| {100 * share:.1f} % | {100 * saved:.1f} % |")


if __name__ == "__main__":
    main()
