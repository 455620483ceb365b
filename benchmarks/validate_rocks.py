"""Measure what `rock_tokens` says where there is nothing to find, and where rocks are planted.

Prints Markdown. Run: python -m benchmarks.validate_rocks or, with the others, make validate
"""

import datetime
import platform
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from opd_diag.analyses.rock_tokens import rock_tokens
from opd_diag.analyses.rock_tokens.context import FEWEST_MEMBERS, recurring_contexts
from opd_diag.analyses.rock_tokens.gradients import type_gradients
from opd_diag.analyses.rock_tokens.null import lift_p
from opd_diag.analyses.rock_tokens.occurrences import Occurrences, read_occurrences
from opd_diag.analyses.rock_tokens.persistence import (
    GROUPS,
    choose_groups,
    group_changes,
    label,
    type_changes,
)
from opd_diag.analyses.rock_tokens.selectors import eligible_types
from opd_diag.analyses.rock_tokens.sums import Sums, prompt_sums, total
from opd_diag.analyses.rock_tokens.types import trusted, type_intervals
from opd_diag.datasets import Dataset, equal_gradients, null_run, rock_run, unchanged_run
from opd_diag.tables.source import as_source

SEEDS = 200
PLANTED_SEEDS = 60
BINS = ((2, 9), (10, 29), (30, 99), (100, 10**9))
SHAPE: Mapping[str, int] = {"prompts": 40, "samples": 2, "tokens": 100}
# Occurrences of a type, and how many types have so many.
FREQUENCIES = {2: 60, 6: 60, 20: 40, 100: 20, 1000: 5, 5000: 2}


def percent(hits: float, of: float) -> str:
    rate = hits / of
    return f"{100 * rate:.1f} ± {100 * np.sqrt(rate * (1 - rate) / of):.1f}"


def mean(values: Sequence[float], digits: int = 3) -> str:
    known = np.asarray(values)[np.isfinite(values)]
    if not known.size:
        return "null"
    return f"{known.mean():.{digits}f} ± {known.std() / np.sqrt(known.size):.{digits}f}"


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def header(*names: str) -> None:
    row(*names)
    row(*["---"] * len(names))


def read(data: Dataset) -> Occurrences:
    source = as_source(data.tokens, data.rollouts)
    return read_occurrences(source, source.checkpoints, source.rollouts, "reverse_kl")


def bound_to_prompts(seed: int) -> Dataset:
    """Noise in which every prompt has types of its own: lift then differs, for its prompts do."""
    data = null_run(types=200, seed=seed, **SHAPE)
    shift = 17 * (pl.col("rollout") // SHAPE["samples"])
    ids = ((pl.col("token_id") + shift) % 200).cast(pl.Int32)
    return data._replace(tokens=data.tokens.with_columns(token_id=ids))


def alike(seed: int) -> Dataset:
    return null_run(types=200, seed=seed, **SHAPE)


def lifts() -> None:
    print("\n## All types with one loss distribution: does lift differ from 1?\n")
    print("Types whose p, or whose 95 % interval, calls lift different from 1, in %, by")
    print("occurrences. The permutation p asks inside prompts; the interval asks over prompts,")
    print("and not of types with fewer than 10 occurrences or in fewer than 5 prompts. Types bound")
    print("to prompts stand mostly in a few of them, which narrows intervals; `-`: under 50 types.")
    print("Last: runs in which any adjusted p is below 0.05.\n")
    header("data", "test", *(f"n {a}-{b if b < 10**9 else ''}" for a, b in BINS), "any, adjusted")
    for name, make in {"types alike": alike, "types bound to prompts": bound_to_prompts}.items():
        hits = np.zeros((2, len(BINS)))
        asked = np.zeros((2, len(BINS)))
        found = 0
        for seed in range(SEEDS):
            occurrences = read(make(seed))
            sums = prompt_sums(occurrences)
            n = total(sums.n[0])
            p, adjusted = lift_p(sums, occurrences, seed)
            found += bool((adjusted < 0.05).any())
            eligible = eligible_types(n, 2, 0)
            items = np.flatnonzero(eligible & trusted(sums.n[0]))
            lift = type_intervals(sums, items, eligible, signed=False, seed=seed).lift
            for i, (low, high) in enumerate(BINS):
                inside = (n >= low) & (n <= high)
                hits[0, i] += (p[inside] < 0.05).sum()
                asked[0, i] += inside.sum()
                known = inside[items] & np.isfinite(lift.low)
                hits[1, i] += ((lift.low > 1) | (lift.high < 1))[known].sum()
                asked[1, i] += known.sum()
        for test, one, of in zip(("permutation p < 0.05", "interval"), hits, asked, strict=True):
            rates = (percent(a, b) if b > 50 else "-" for a, b in zip(one, of, strict=True))
            row(name, test, *rates, percent(found, SEEDS) if test[0] == "p" else "-")


def chosen_groups(sums: Sums, top: int, seed: int) -> np.ndarray:
    eligible = eligible_types(total(sums.n[0]), 2, 0)
    shared = {"top": top, "min_count": 2, "next_ranks": False, "seed": seed}
    return np.stack([choose_groups(sums, half, eligible, **shared) for half in (0, 1)])  # type: ignore[arg-type]


def changes() -> None:
    print("\n## No change between two checkpoints: what do groups show?\n")
    print("Relative change of 60 types chosen on one half of the prompts, measured on the other")
    print("(honest) or on the same (naive), and runs whose 95 % interval excludes 0. 1,000 types;")
    print("they are alike, or their means differ (standard deviation 0.5 of the logarithm).\n")
    header(
        "types", "group", "honest change, %", "excludes 0, %", "naive change, %", "excludes 0, %"
    )
    wrong = of = 0
    for name, spread in {"alike": 0.0, "differ": 0.5}.items():
        estimates, outside = [], []
        for seed in range(SEEDS):
            sums = prompt_sums(read(unchanged_run(spread=spread, types=1000, seed=seed, **SHAPE)))
            chosen = chosen_groups(sums, 60, seed)
            relative = group_changes(sums, chosen, signed=False, seed=seed)[-1].relative
            estimates.append(100 * relative.estimate)
            outside.append((relative.low > 0) | (relative.high < 0))
            items = np.flatnonzero(total(sums.n[0]) >= 10)
            single = type_changes(sums, items, chosen[:, 0], signed=False, seed=seed)
            labels = [text for text in label(single.relative, single.usable) if text]
            wrong, of = wrong + labels.count("changed"), of + len(labels)
        change, excluded = np.array(estimates), np.array(outside)
        for i, group in enumerate(GROUPS):
            cells = []
            for j in (i, i + len(GROUPS)):
                cells += [mean(change[:, j], 1), percent(excluded[:, j].sum(), SEEDS)]
            row(name, group, *cells)
    print(
        f"\nLabels of single types: {percent(wrong, of)} % of {of:,} are `changed`; 5 % are said."
    )


def gradients() -> None:
    print("\n## Equal gradient distributions, n from 2 to 5,000\n")
    print("Mean over types of the figures in the hidden state; the planted squared norm is 1. A")
    print("type needs 2 occurrences in either half. Contribution: its share over n / N.\n")
    counts = [n for n, types in FREQUENCIES.items() for _ in range(types)]
    group = np.array(counts)
    header("prompt effect", "n", "norm2_raw", "norm2_cross", "norm2_iid", "cosine", "alignment",
           "contribution")  # fmt: skip
    for effect in (0.0, 1.0):
        figures: dict[str, list[list[float]]] = {}
        for seed in range(SEEDS):
            planted = equal_gradients(
                counts, norm2=1.0, noise=2.0, prompts=40, prompt_noise=effect, seed=seed
            )
            found = type_gradients(planted.sums, np.arange(group.size, dtype=np.int32))._asdict()
            found["contribution_share"] = found["contribution_share"] / (group / group.sum())
            for name, values in found.items():
                means = [values[(group == n) & np.isfinite(values)] for n in FREQUENCIES]
                figures.setdefault(name, []).append(
                    [one.mean() if one.size else np.nan for one in means]
                )
        table = {name: np.array(values) for name, values in figures.items()}
        names = ("norm2_raw", "norm2_cross", "norm2_iid", "cosine", "alignment")
        for i, n in enumerate(FREQUENCIES):
            cells = [mean(table[name][:, i]) for name in (*names, "contribution_share")]
            row(effect, f"{n:,}", *cells)


def contexts() -> None:
    print("\n## Contexts of members that are hard at random\n")
    print("Types whose recurring share exceeds its null, the largest of 20 draws: by chance 1 in")
    print("21, 4.8 %, or fewer where shares are tied.\n")
    header("types asked", "exceed, %")
    above = of = 0
    for seed in range(SEEDS):
        data = null_run(types=64, prompts=20, samples=2, tokens=60, seed=seed)
        ids = (pl.col("token_id") % 12).cast(pl.Int32)
        occurrences = read(data._replace(tokens=data.tokens.with_columns(token_id=ids)))
        found = recurring_contexts(occurrences, np.arange(12), tau="own", eta=0.2, seed=seed)
        known = [one for one in found if one.members >= FEWEST_MEMBERS]
        above += sum(one.kept / one.members > one.null_share + 1e-9 for one in known)
        of += len(known)
    row(f"{of:,}", percent(above, of))


def planted() -> None:
    print(f"\n## Planted types, {PLANTED_SEEDS} seeds\n")
    print("5 types stay and 5 learn; both start at so many times the loss of the others.\n")
    header("height", "prompts", "planted", "in the list of 20, %", "lift above 1, %",
           "stagnant, %", "changed, %", "context above its null, %")  # fmt: skip
    for height, prompts in ((2.0, 24), (4.0, 24), (4.0, 96)):
        rows = []
        for seed in range(PLANTED_SEEDS):
            data = rock_run(height=height, prompts=prompts, tokens=100, seed=seed)
            found = rock_tokens(data.tokens, data.rollouts, top=20, detail=20).rock_tokens
            kinds = {kind: data.truth[kind] for kind in ("rocks", "learned")}
            rows += [
                found.filter(pl.col("token_id").is_in(ids)).select(
                    "is_rock",
                    kind=pl.lit(kind),
                    lift=(pl.col("lift") > 1) & (pl.col("lift_p_adjusted") < 0.05),
                    stagnant=(pl.col("label") == "stagnant").fill_null(False),
                    changed=(pl.col("label") == "changed").fill_null(False),
                    context=(pl.col("recurring_share") > pl.col("recurring_share_null")).fill_null(
                        False
                    ),
                )
                for kind, ids in kinds.items()
            ]
        every = pl.concat(rows)
        for kind, own in every.group_by("kind", maintain_order=True):
            measures = ("is_rock", "lift", "stagnant", "changed", "context")
            row(height, prompts, kind[0], *(percent(own[m].sum(), own.height) for m in measures))


def main() -> None:
    print("# Rock tokens where nothing is there, and where something is\n")
    versions = (
        f"Python {platform.python_version()}, numpy {np.__version__}, polars {pl.__version__}"
    )
    print(f"`python -m benchmarks.validate_rocks`, {datetime.date.today()}, {versions},")
    print(f"2 CPU cores. {SEEDS} seeds, ± one standard error; types of one seed count as")
    print("independent, which they nearly are.")
    for study in (lifts, changes, gradients, contexts, planted):
        study()


if __name__ == "__main__":
    main()
