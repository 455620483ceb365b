"""Make the sample data: a small on-policy distillation run, from tokenizer to rollouts.

Run from the root of the repository: ``python sample_data/make_sample.py``.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from cache import StageCache
from nets import Shape, build_model, count_parameters, load_model, save_model
from problems import Problem, make_held_out, stream_problems
from recipes import FULL, QUICK, SEED, Settings
from report import unmet_bars, write_readme
from rollouts import (
    Policy,
    describe,
    draw_rollouts,
    grade,
    read_rollouts,
    rescoring_gap,
    tokens_of,
    write_rollouts,
)
from sampling import Decoding, mean_reverse_kl
from train import Recipe, distill_on_policy, train_supervised
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging
from vocab import encode_pair, train_tokenizer


@dataclass
class Run:
    """Hold what the stages share: settings, data, tokenizer, decoding and figures."""

    settings: Settings
    out: Path
    held_out: list[Problem]
    asked: list[Problem]
    tokenizer: PreTrainedTokenizerFast
    decoding: Decoding
    cache: StageCache
    figures: dict[str, Any] = field(default_factory=dict)
    minutes: dict[str, float] = field(default_factory=dict)

    @property
    def exclude(self) -> set[str]:
        """Return the prompts that no training may see."""
        return {problem.prompt for problem in (*self.held_out, *self.asked)}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and say when it starts and ends."""
        log(f"{name} ...")
        began = time.perf_counter()
        yield
        self.minutes[name] = (time.perf_counter() - began) / 60
        log(f"{name}: {self.minutes[name]:.2f} minutes")

    def student_folder(self, step: int) -> Path:
        """Return the folder of a student checkpoint."""
        return self.out / "students" / f"step{step}"


def log(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def prepare(settings: Settings, out: Path, cache: StageCache) -> Run:
    """Draw the held-out problems, train the tokenizer and choose the length limit."""
    problems = make_held_out(settings.held_out + settings.asked, SEED)
    exclude = {problem.prompt for problem in problems}
    corpus = list(islice(stream_problems(SEED + 1, exclude), settings.corpus))
    tokenizer = train_tokenizer([f"{p.prompt}\n{p.solution}" for p in corpus], settings.vocabulary)
    lengths = sorted(len(encode_pair(tokenizer, problem)[1]) for problem in corpus)
    limit = -(-lengths[int(settings.limit_quantile * (len(lengths) - 1))] // 4) * 4
    decoding = Decoding(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, limit)
    held_out, asked = problems[: settings.held_out], problems[settings.held_out :]
    return Run(
        settings,
        out,
        held_out,
        asked,
        tokenizer,
        decoding,
        cache,
        {"tokenizer": len(tokenizer), "limit": limit},
    )


def grade_both(run: Run, folder: Path) -> dict[str, float]:
    """Grade a stored model greedily and at temperature 1 on the held-out problems."""
    model = load_model(folder)
    greedy = grade(model, run.tokenizer, run.held_out, run.decoding, None)
    sampled = grade(model, run.tokenizer, run.held_out, run.decoding, SEED + 20)
    log(f"  {folder.name}: accuracy {greedy:.3f} greedy, {sampled:.3f} at temperature 1")
    return {
        "greedy": greedy,
        "sampled": sampled,
        "parameters": count_parameters(model),
        "width": model.config.vocab_size,
    }


def supervise(run: Run, name: str, shape: Shape, recipe: Recipe, start: int, folder: Path) -> None:
    """Train one model on worked solutions and store it, or take it from the cache."""
    stage, key = f"{name}, supervised", repr((SEED, start, shape, recipe, run.decoding))
    kept = run.cache.restore(name, key, folder)
    if kept is not None:
        run.minutes[stage] = kept
        log(f"{stage}: taken from the cache ({kept:.2f} minutes)")
        return
    with run.stage(stage):
        model = build_model(shape, run.tokenizer, start)
        train_supervised(model, run.tokenizer, recipe, run.exclude, log)
        save_model(model, run.tokenizer, folder)
    run.cache.keep(name, key, folder, run.minutes[stage])


def train_both(run: Run) -> None:
    """Train the teacher and, briefly, the student; store both."""
    settings, folder = run.settings, run.out / "teacher"
    torch.set_num_threads(run.figures["threads"])
    supervise(
        run, "teacher", settings.teacher_shape, settings.teacher, settings.teacher_start, folder
    )
    # Small models and single positions gain nothing from threads that wait for each other.
    torch.set_num_threads(1)
    supervise(
        run,
        "student",
        settings.student_shape,
        settings.student,
        settings.student_start,
        run.student_folder(0),
    )
    with run.stage("accuracy of teacher and step 0"):
        run.figures["teacher"] = grade_both(run, folder)
        run.figures["step0"] = grade_both(run, run.student_folder(0))


def distill(run: Run) -> None:
    """Distil on-policy from the stored step 0 and store the middle and the last step."""
    teacher, student = load_model(run.out / "teacher"), load_model(run.student_folder(0))

    def store(step: int) -> None:
        """Store the student at the steps that are kept."""
        if step in run.settings.kept_steps:
            save_model(student, run.tokenizer, run.student_folder(step))

    with run.stage("on-policy distillation"):
        distill_on_policy(
            student,
            teacher,
            run.tokenizer,
            run.settings.distillation,
            run.decoding,
            run.exclude,
            store,
            log,
        )
    with run.stage("accuracy of the later steps"):
        for step in run.settings.kept_steps[1:]:
            run.figures[f"step{step}"] = grade_both(run, run.student_folder(step))


def write_problems(run: Run) -> None:
    """Write the problems of the rollouts and those of the accuracy, with their answers."""
    named = [(f"p{number:03d}", problem) for number, problem in enumerate(run.asked)]
    named += [(f"held-out-{number:03d}", problem) for number, problem in enumerate(run.held_out)]
    rows = [
        {"prompt_id": name, "prompt": problem.prompt, "answer": str(problem.answer)}
        for name, problem in named
    ]
    write_rollouts(rows, run.out / "problems.jsonl")


def make_rollouts(run: Run) -> None:
    """Draw the rollouts from the stored weights and measure them."""
    first, *_, last = run.settings.kept_steps
    plan = (
        (f"step{first}", first, run.student_folder(first), "rollouts_step0.jsonl", 4),
        (f"step{last}", last, run.student_folder(last), "rollouts_last.jsonl", 4),
        ("teacher", None, run.out / "teacher", "rollouts_teacher.jsonl", 1),
    )
    run.figures["rollouts"] = {}
    with run.stage("rollouts"):
        for index, (name, step, folder, file, copies) in enumerate(plan):
            model, seed = load_model(folder), SEED + 30 + index
            rows = draw_rollouts(
                model, run.tokenizer, run.asked, run.decoding, Policy(name, step), copies, seed
            )
            write_rollouts(rows, run.out / file)
            stored = read_rollouts(run.out / file)
            gap = rescoring_gap(model, stored, run.decoding.size)
            run.figures["rollouts"][file] = {**describe(stored), "gap": gap}
            log(f"  {file}: {run.figures['rollouts'][file]}")


def measure_divergence(run: Run) -> None:
    """Measure each checkpoint's reverse KL on the contexts of the step-0 rollouts."""
    teacher = load_model(run.out / "teacher")
    contexts = tokens_of(read_rollouts(run.out / "rollouts_step0.jsonl"))
    with run.stage("reverse KL on fixed contexts"):
        for step in run.settings.kept_steps:
            student = load_model(run.student_folder(step))
            value = mean_reverse_kl(student, teacher, *contexts, run.decoding.size)
            run.figures[f"step{step}"]["reverse_kl"] = value
            log(f"  step{step}: {value:.4f} nat/token")


def clear(out: Path) -> None:
    """Remove the outputs of an earlier run, and nothing else."""
    for folder in (out / "teacher", out / "students"):
        shutil.rmtree(folder, ignore_errors=True)
    for file in out.glob("*.jsonl"):
        file.unlink()


def main() -> int:
    """Run every stage and return 0 if the full run met its bars."""
    parser = argparse.ArgumentParser(description="Make the sample data of opd-diag.")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent,
        help="folder to write to (default: the folder of this script)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="run everything at a tiny scale, to test the script"
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="CPU threads of the teacher's training (default: 2)"
    )
    parser.add_argument(
        "--reuse",
        type=Path,
        metavar="FOLDER",
        help="keep the supervised models in this folder, and take them from "
        "there if it holds them for the same settings",
    )
    options = parser.parse_args()
    if options.quick and options.out.resolve() == Path(__file__).parent.resolve():
        parser.error("--quick needs --out, so that it does not replace the sample data")
    began = time.perf_counter()
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    random.seed(SEED)
    torch.manual_seed(SEED)
    options.out.mkdir(parents=True, exist_ok=True)
    clear(options.out)
    cache = StageCache(options.reuse)
    run = prepare(QUICK if options.quick else FULL, options.out, cache)
    run.figures["threads"] = options.threads
    run.minutes["problems and tokenizer"] = (time.perf_counter() - began) / 60
    write_problems(run)
    for stage in (train_both, distill, make_rollouts, measure_divergence):
        stage(run)
    run.figures["total"] = sum(run.minutes.values())
    run.figures["reused"] = cache.reused
    unmet = unmet_bars(run.out, run.figures, run.settings)
    write_readme(run.out, run.figures, run.minutes, run.settings)
    log(f"all stages: {run.figures['total']:.2f} minutes")
    for line in unmet:
        log(f"bar not met: {line}")
    return 1 if unmet and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
