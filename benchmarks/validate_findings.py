"""Count false answers where nothing is there, and find planted effects; print Markdown.

Every null of `opd_diag.datasets.NULLS` is a run in which the true answer to each question is not
yes, but for what `NOT_NULL` names. A run errs if any of its rows says yes: Holm's adjustment should
keep that below 5 % of runs, whatever the null. Then each question is asked of runs in which its
effect is planted on a null.

Run: python -m benchmarks.validate_findings [--seeds N] [--kinds KIND ...] [--power-seeds N]
     [--questions QUESTION ...] [--analyses ANALYSIS ...] [--processes N]
"""

import argparse
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import polars as pl

import opd_diag as od
from benchmarks.planted_effects import PLANTED
from opd_diag.analyses.findings import ANSWERED_BY, answer, needed_tables
from opd_diag.analyses.questions import QUESTIONS
from opd_diag.datasets import NULLS, Dataset, ugly_run
from opd_diag.stats import bootstrap, medians, ranks

SEEDS = 200
POWER_SEEDS = 40
PROCESSES = 2
DRAWS = 99
ROWS = 30  # of a run with three checkpoints, at most, where no null is asked
LEVELS = (0.05, 0.01, 0.001)
# With a trend KL and margin do move along the response.
NOT_NULL: Mapping[str, Sequence[str]] = {
    "trend": ("margin-falls", "margin-drops", "cut-drops-poor", "low-kl-stretches"),
}
COLUMNS = ("checkpoint", "question", "answer", "p", "p_adjusted", "difference", "reason")

Rows: TypeAlias = list[dict[str, Any]]
Map: TypeAlias = Callable[[Callable[["Job"], Rows], Iterable["Job"]], Iterable[Rows]]


class Job(NamedTuple):
    """One run to make and to ask."""

    name: str  # a null, or the question whose effect is planted
    seed: int
    analyses: tuple[str, ...]


def few_draws(draws: int) -> None:
    """Draw intervals with few draws: only `no` reads them, and tests draw for themselves."""
    for function in (
        bootstrap.mean,
        bootstrap.ratio,
        bootstrap.ratio_difference,
        bootstrap.ratio_of_ratios,
        medians.cluster_median,
        ranks.rank_intervals,
    ):
        function.__kwdefaults__["draws"] = draws


def ask(run: Dataset, seed: int, analyses: Sequence[str]) -> pl.DataFrame:
    """Analyse a run in memory and answer the questions of some analyses, as `findings` does."""
    asked = []
    for analysis in analyses:
        question = ANSWERED_BY[analysis]
        tables = getattr(od, analysis)(run.tokens, run.rollouts, seed=seed)._asdict()
        asked += question(**{name: tables[name] for name in needed_tables(question)})
    return answer(asked, run.tokens["checkpoint"].unique(maintain_order=True).to_list())


def do_null(job: Job) -> Rows:
    run = ugly_run(seed=job.seed, **NULLS[job.name])
    return ask(run, job.seed, job.analyses).select(COLUMNS).to_dicts()


def do_planted(job: Job) -> Rows:
    run = PLANTED[job.name].make(job.seed)
    table = ask(run, job.seed, job.analyses).filter(question=job.name)
    return table.select(COLUMNS).to_dicts()


@contextmanager
def workers(processes: int) -> Iterator[Map]:
    """Start some processes and give a map over jobs that keeps their order; 1: in this one."""
    if processes == 1:
        few_draws(DRAWS)
        yield map
        return
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
        os.environ[name] = "1"  # read by the new processes, which share the cores
    with multiprocessing.get_context("spawn").Pool(processes, few_draws, (DRAWS,)) as pool:
        yield pool.imap


def with_error(count: int, n: int) -> str:
    """Write a share of n runs in percent with its standard error."""
    rate = count / n
    return f"{100 * rate:.1f} ± {100 * np.sqrt(rate * (1 - rate) / n):.1f}"


def is_null(kind: str, question: str) -> bool:
    """Tell whether nothing is there that the question could find."""
    return question not in NOT_NULL.get(kind, ())


def study_nulls(
    kinds: Sequence[str], seeds: range, analyses: tuple[str, ...], run_jobs: Map
) -> int:
    """Print how often a null is answered with yes; return the rows that a run was asked."""
    print(f"### Nothing is there: {len(seeds)} runs of each null\n")
    print("48 prompts x 2 rollouts x about 150 tokens, three snapshots of one student.")
    print("Share of runs with a false yes, in percent, and the questions that gave one (runs).\n")
    print("| null | any false yes | by question | rows asked |\n|---|---|---|---|")
    most = 1
    seen: dict[str, dict[str, list[float]]] = {}
    for kind in kinds:
        false: dict[str, int] = {}
        wrong = 0
        asked = []
        jobs = [Job(kind, seed, analyses) for seed in seeds]
        for rows in run_jobs(do_null, jobs):
            judged = [row for row in rows if is_null(kind, row["question"])]
            said = {row["question"] for row in judged if row["answer"] == "yes"}
            wrong += bool(said)
            asked.append(sum(row["p"] is not None for row in rows))
            for question in said:
                false[question] = false.get(question, 0) + 1
            for row in judged:
                if row["p"] is not None:
                    seen.setdefault(row["question"], {}).setdefault(kind, []).append(row["p"])
        names = ", ".join(f"{name} {count}" for name, count in sorted(false.items())) or "none"
        share = with_error(wrong, len(seeds))
        print(f"| {kind} | {share} | {names} | {np.mean(asked):.1f} |", flush=True)
        most = max(most, *asked)
    print("\nThe tests one by one: percent of rows with p at most 0.05, 0.01 and 0.001.\n")
    print(f"| question | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}")
    for question in QUESTIONS:
        if question not in seen:
            continue
        cells = []
        for kind in kinds:
            values = np.array(seen[question].get(kind, []))
            rates = [f"{100 * np.sum(values <= p) / max(values.size, 1):.1f}" for p in LEVELS]
            cells.append(" / ".join(rates) if values.size else "-")
        print(f"| {question} | {' | '.join(cells)} |")
    print(flush=True)
    return most


def study_power(
    questions: Sequence[str],
    seeds: range,
    analyses: tuple[str, ...],
    rows_asked: int,
    run_jobs: Map,
) -> None:
    print(f"### Planted effects: {len(seeds)} runs each\n")
    print(
        f"Found: yes with p at most 0.05 / {rows_asked}, which Holm never asks more than, with "
        f"{rows_asked} rows in a run. Alone: p at most 0.05.\n"
    )
    print("| question | planted | found, % | alone, % |\n|---|---|---|---|")
    for question in questions:
        mine = tuple(a for a in analyses if a == QUESTIONS[question].analysis)
        if not mine:
            continue
        jobs = [Job(question, seed, analyses) for seed in seeds]
        found = small = 0
        for rows in run_jobs(do_planted, jobs):
            p = min((row["p"] for row in rows if row["answer"] == "yes"), default=1.0)
            found += p <= LEVELS[0] / rows_asked
            small += any(row["p"] <= LEVELS[0] for row in rows if row["p"] is not None)
        shares = f"{with_error(found, len(seeds))} | {with_error(small, len(seeds))}"
        print(f"| {question} | {PLANTED[question].text} | {shares} |", flush=True)
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, default=SEEDS, help="null runs of each kind")
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--kinds", nargs="*", choices=list(NULLS), default=list(NULLS))
    parser.add_argument("--power-seeds", type=int, default=POWER_SEEDS)
    parser.add_argument("--questions", nargs="*", choices=list(PLANTED), default=list(PLANTED))
    parser.add_argument(
        "--analyses", nargs="*", choices=list(ANSWERED_BY), default=list(ANSWERED_BY)
    )
    parser.add_argument("--processes", type=int, default=PROCESSES)
    given = parser.parse_args()
    analyses = tuple(given.analyses)
    print("## Findings: what is said where nothing is, and what is found where it is\n")
    print(f"{date.today().isoformat()}. Analyses asked: {', '.join(analyses)}.\n")
    first = given.first_seed
    rows_asked = ROWS
    with workers(given.processes) as run_jobs:
        if given.seeds and given.kinds:
            seeds = range(first, first + given.seeds)
            rows_asked = study_nulls(given.kinds, seeds, analyses, run_jobs)
        if given.power_seeds and given.questions:
            seeds = range(first, first + given.power_seeds)
            study_power(given.questions, seeds, analyses, rows_asked, run_jobs)


if __name__ == "__main__":
    main()
