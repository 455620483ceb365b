"""Count false answers where nothing is there, and find planted effects; print Markdown.

Every null of `opd_diag.datasets.NULLS` is a run in which the true answer to each question is not
yes, but for what `NOT_NULL` names. A run errs if any of its rows says yes: Holm's adjustment should
keep that below 5 % of runs, whatever the null. Then each question is asked of runs in which its
effect is planted on a null.

Run: python -m benchmarks.validate_findings [--seeds N] [--kinds KIND ...] [--power-seeds N]
     [--questions QUESTION ...] [--analyses ANALYSIS ...] [--processes N] [--keep FOLDER]

With `--keep`, what an analysis said of a run is kept in the folder and not asked again: after a
change of one analysis, delete its files there.
"""

import argparse
import importlib
import itertools
import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import polars as pl

import opd_diag as od
from benchmarks.planted_effects import PLANTED
from opd_diag.analyses.answers import LEVEL, Finding
from opd_diag.analyses.findings import ANSWERED_BY, answer, needed_tables
from opd_diag.analyses.questions import QUESTIONS
from opd_diag.datasets import NULLS, Dataset, ugly_run
from opd_diag.stats.intervals import cluster_counts

SEEDS = 200
POWER_SEEDS = 40
PROCESSES = 2
DRAWS = 99
IN_TURN = 10  # runs of one null before those of the next
ROWS = 30  # of a run with three checkpoints, at most, where no null is asked
FAR = 100_000
LEVELS = (0.05, 0.01, 0.001)
CHECKPOINTS = ("step0", "step150", "step300")
# What makes tables and rows that no question reads, by the module of analyses that names it.
UNREAD: Mapping[str, Sequence[str]] = {
    "release_points": ("curves_table", "budgets_table", "_example"),
    "release_points.summary": ("_late_over_early",),
    "rock_tokens": (
        *("type_table", "group_table", "cutoff_table", "selector_table"),
        *("output_table", "example_table", "persistence_table", "composition_table"),
    ),
    "agreement_traps": (
        *("per_rollout", "trap_phases", "trap_summary", "trap_cuts"),
        *("trap_sensitivity", "trap_map", "trap_trace"),
    ),
    "teachability": ("models_table", "overlap_table", "support_table"),
}
# Shuffles and permutations that describe a control, without a part in any p.
DRAWN_FOR_COLUMNS = (
    ("release_points.scan", "SHUFFLES"),
    ("teachability.contrast", "NULL_DRAWS"),
    ("teachability.contrast", "Q3_DRAWS"),
)
# Of the loss audit nothing is asked here, as its tokens have to be sampled: `validate_losses`.
ANALYSES = tuple(name for name in ANSWERED_BY if name != "loss_audit")
PLANTABLE = tuple(question for question in QUESTIONS if question in PLANTED)
# With a trend KL and margin do move along the response; KL that falls everywhere falls.
NOT_NULL: Mapping[str, Sequence[str]] = {
    "falling": ("reverse-kl-fell", "forward-kl-fell"),
    "trend": ("margin-falls", "margin-drops", "cut-drops-poor", "low-kl-stretches"),
}


class Job(NamedTuple):
    """One analysis of one run.

    Attributes:
        name: A null, or the question whose effect is planted.
        seed: Seed of the run and of the analysis.
        analysis: Whose questions are asked.
    """

    name: str
    seed: int
    analysis: str


Ask: TypeAlias = Callable[[Job], list[Finding]]
Map: TypeAlias = Callable[[Ask, Iterable[Job]], Iterable[list[Finding]]]


def ask(run: Dataset, job: Job) -> list[Finding]:
    """Analyse a run in memory and ask the questions of one analysis."""
    questions = ANSWERED_BY[job.analysis]
    tables = getattr(od, job.analysis)(run.tokens, run.rollouts, seed=job.seed)._asdict()
    return questions(**{name: tables[name] for name in needed_tables(questions)})


def ask_null(job: Job) -> list[Finding]:
    seed = job.seed + FAR * list(NULLS).index(job.name)  # no two nulls share a draw
    return ask(ugly_run(seed=seed, checkpoints=CHECKPOINTS, **NULLS[job.name]), job)


def ask_planted(job: Job) -> list[Finding]:
    said = ask(PLANTED[job.name].make(job.seed), job)
    return [one for one in said if one.question == job.name]


def answer_only(draws: int) -> None:
    """Make no table that no question reads, and intervals, which only `no` reads, of few draws.

    No p depends on either: tests draw for themselves.
    """
    cluster_counts.__kwdefaults__["draws"] = draws
    for module, names in UNREAD.items():
        for name in names:
            _replace(module, name, _no_table)
    for module, name in DRAWN_FOR_COLUMNS:
        _replace(module, name, 1)


def _replace(module: str, name: str, value: object) -> None:
    opened = importlib.import_module(f"opd_diag.analyses.{module}")
    getattr(opened, name)  # an error where nothing is of that name any more
    setattr(opened, name, value)


def _no_table(*_: object, **__: object) -> pl.DataFrame:
    return pl.DataFrame()


@contextmanager
def workers(processes: int) -> Iterator[Map]:
    """Start some processes and give a map over jobs that keeps their order; 1: in this one."""
    if processes == 1:
        answer_only(DRAWS)
        yield map
        return
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
        os.environ[name] = "1"  # read by the new processes, which share the cores
    with multiprocessing.get_context("spawn").Pool(processes, answer_only, (DRAWS,)) as pool:
        yield pool.imap


class Study:
    """Ask analyses of many runs, in some processes.

    Args:
        run_jobs: Does jobs, in order.
        keep: Folder of what was said before; None: kept in memory only.
    """

    def __init__(self, run_jobs: Map, keep: Path | None) -> None:
        self._run_jobs, self._keep = run_jobs, keep
        self._known: dict[str, dict[str, list[dict[str, object]]]] = {}

    def ask_nulls(
        self,
        kinds: Sequence[str],
        seeds: Sequence[int],
        analyses: Sequence[str],
        minutes: float,
    ) -> Sequence[int]:
        """Ask of a few runs of every kind in turn, and return the seeds asked of all in time."""
        end = time.monotonic() + 60 * minutes
        for first in range(0, len(seeds), IN_TURN):
            if time.monotonic() > end:
                return seeds[:first]
            for kind, analysis in itertools.product(kinds, analyses):
                self.said(ask_null, kind, analysis, seeds[first : first + IN_TURN])
        return seeds

    def said(
        self, ask: Ask, name: str, analysis: str, seeds: Sequence[int]
    ) -> dict[int, list[Finding]]:
        """Return what one analysis says of the runs of some seeds."""
        file = f"{name}.{analysis}.json"
        path = None if self._keep is None else self._keep / file
        if file not in self._known:
            kept = path is not None and path.exists()
            self._known[file] = json.loads(path.read_text()) if kept else {}  # type: ignore[union-attr]
        known = self._known[file]
        jobs = [Job(name, seed, analysis) for seed in seeds if str(seed) not in known]
        for job, findings in zip(jobs, self._run_jobs(ask, jobs), strict=True):
            known[str(job.seed)] = [asdict(one) for one in findings]
        if path is not None and jobs:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(known))
        return {seed: [Finding(**one) for one in known[str(seed)]] for seed in seeds}  # type: ignore[arg-type]


def with_error(count: int, n: int) -> str:
    """Write a share of n runs in percent with its standard error."""
    rate = count / n
    return f"{100 * rate:.1f} ± {100 * np.sqrt(rate * (1 - rate) / n):.1f}"


def is_null(kind: str, question: str) -> bool:
    """Tell whether nothing is there that the question could find."""
    return question not in NOT_NULL.get(kind, ())


def false_answers(kind: str, asked: Sequence[Finding]) -> set[str]:
    """Return the questions that one null run answers with yes, adjusted for all rows."""
    table = answer(asked, CHECKPOINTS)
    return {name for name in table.filter(answer="yes")["question"] if is_null(kind, name)}


def study_nulls(
    study: Study, kinds: Sequence[str], seeds: Sequence[int], analyses: Sequence[str]
) -> int:
    """Print how often a null is answered with yes; return the most rows that a run was asked.

    Args:
        study: Asks.
        kinds: Names of the nulls.
        seeds: Seeds of the runs; at least one.
        analyses: Whose questions are asked.
    """
    print(f"### Nothing is there: {len(seeds)} runs of each null\n")
    print("48 prompts x 2 rollouts x about 150 tokens, three snapshots of one student.")
    print("Share of runs with a false yes, in percent, and the questions that gave one (runs).\n")
    print("| null | any false yes | by question | tests of a run |\n|---|---|---|---|")
    most = 1
    p: dict[tuple[str, str], list[float]] = {}
    for kind in kinds:
        said = [study.said(ask_null, kind, analysis, seeds) for analysis in analyses]
        runs = [[one for part in said for one in part[seed]] for seed in seeds]
        false = [false_answers(kind, asked) for asked in runs]
        counts = {name: sum(name in names for names in false) for name in QUESTIONS}
        by_question = ", ".join(f"{name} {n}" for name, n in counts.items() if n) or "none"
        rows = [sum(one.p is not None for one in asked) for asked in runs]
        share = with_error(sum(map(bool, false)), len(seeds))
        print(f"| {kind} | {share} | {by_question} | {np.mean(rows):.1f} |", flush=True)
        most = max(most, *rows)
        for one in (one for asked in runs for one in asked):
            if one.p is not None and is_null(kind, one.question):
                p.setdefault((one.question, kind), []).append(one.p)
    print("\nThe tests one by one: percent of rows with p at most 0.05, 0.01 and 0.001.\n")
    print(f"| question | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}")
    for question in QUESTIONS:
        if any((question, kind) in p for kind in kinds):
            cells = [_rates(p.get((question, kind), [])) for kind in kinds]
            print(f"| {question} | {' | '.join(cells)} |")
    print(flush=True)
    return most


def _rates(p: Sequence[float]) -> str:
    return " / ".join(f"{100 * np.mean(np.array(p) <= x):.1f}" for x in LEVELS) if p else "-"


def study_power(
    study: Study,
    questions: Sequence[str],
    seeds: Sequence[int],
    analyses: Sequence[str],
    rows: int,
) -> None:
    """Print how often each question finds what is planted."""
    print(f"### Planted effects: {len(seeds)} runs each\n")
    print(f"Found: yes with p at most {LEVEL} / {rows}, stricter than Holm over {rows} tests.")
    print(f"Alone: p at most {LEVEL} under some checkpoint.")
    print("No: the answer is no, which is wrong, under some checkpoint.\n")
    print("| question | planted | found, % | alone, % | no, % |\n|---|---|---|---|---|")
    for question in questions:
        analysis = QUESTIONS[question].analysis
        if analysis in analyses:
            said = study.said(ask_planted, question, analysis, seeds)
            p = [min((_p_of_yes(one) for one in said[seed]), default=1.0) for seed in seeds]
            counts = [sum(one <= level for one in p) for level in (LEVEL / rows, LEVEL)]
            counts += [sum(any(_says_no(one) for one in said[seed]) for seed in seeds)]
            cells = " | ".join(with_error(count, len(seeds)) for count in counts)
            print(f"| {question} | {PLANTED[question].text} | {cells} |", flush=True)
    print()


def _p_of_yes(one: Finding) -> float:
    """The p of a finding that says yes if it alone is asked, else 1."""
    return one.p if one.p is not None and one.answer(one.p) == "yes" else 1.0


def _says_no(one: Finding) -> bool:
    return one.p is not None and one.answer(1.0) == "no"


def main() -> None:
    parser = argparse.ArgumentParser(description="Count false answers, and find planted effects.")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="null runs of each kind")
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--kinds", nargs="*", choices=list(NULLS), default=list(NULLS))
    parser.add_argument("--power-seeds", type=int, default=POWER_SEEDS)
    parser.add_argument("--questions", nargs="*", choices=PLANTABLE, default=PLANTABLE)
    parser.add_argument("--analyses", nargs="*", choices=ANALYSES, default=ANALYSES)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="ask no more nulls after so long"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="what was said, kept here")
    given = parser.parse_args()
    print("## Findings: false answers under the null, and planted effects that are detected\n")
    print(f"{date.today().isoformat()}. Analyses: {', '.join(given.analyses)}.\n")
    first, rows = given.first_seed, ROWS
    with workers(given.processes) as run_jobs:
        study = Study(run_jobs, given.keep)
        if given.seeds and given.kinds:
            seeds = study.ask_nulls(
                given.kinds, range(first, first + given.seeds), given.analyses, given.minutes
            )
            rows = study_nulls(study, given.kinds, seeds, given.analyses)
        if given.power_seeds and given.questions:
            seeds = range(first, first + given.power_seeds)
            study_power(study, given.questions, seeds, given.analyses, rows)


if __name__ == "__main__":
    main()
