"""Intervals, bans and common random numbers on the sample student.

    python -m benchmarks.validate_interventions RUN > benchmarks/results/interventions.md

RUN is the sample run (`make demo`), on which all commands of `opd-diag intervene` have been run.
Without the responses of the A/A study (--pool) it takes some minutes more to generate them.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

import opd_diag as od
from benchmarks.machine import machine
from opd_diag.analyses.prompts import Prompts
from opd_diag.interventions import Continuation, Replacement, summary_lines
from opd_diag.interventions.generation import Decoding, Request, TransformersEngine
from opd_diag.interventions.outcomes import difference
from opd_diag.interventions.replacements import difference_p
from opd_diag.interventions.verifiers import judge_all, load_verifier
from opd_diag.scoring.models.loading import load_model
from opd_diag.tables.columns.interventions import UNMASKED
from opd_diag.text.tokenizers import encode_prompt, load_tokenizer

SAMPLE = Path(__file__).parents[1] / "sample_data"
STUDENT = SAMPLE / "students" / "step300"
PROBLEMS = SAMPLE / "problems.jsonl"
OF_THE_RUN = 96  # problems
SAMPLES = 24  # responses to each
REPEATS = 4000
MOST_TOKENS = 292
REPLACED, PROMPTS, TYPES, REPLACEMENTS = 168, 60, 45, 2000

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def pool(path: Path | None) -> pl.DataFrame:
    """Generate responses without a ban, or read those of an earlier call."""
    if path is not None and path.exists():
        return pl.read_parquet(path)
    problems = [json.loads(line) for line in PROBLEMS.read_text().splitlines()[:OF_THE_RUN]]
    tokenizer = load_tokenizer(str(STUDENT))
    decoding = Decoding(len(tokenizer), (tokenizer.eos_token_id,), 1.0, MOST_TOKENS, 0)
    engine = TransformersEngine(load_model(str(STUDENT)), decoding, batch_size=128)
    prompts = [encode_prompt(tokenizer, one["prompt"]) for one in problems]
    requests = [
        Request(one["prompt_id"], sample, prompt)
        for sample in range(SAMPLES)
        for one, prompt in zip(problems, prompts, strict=True)
    ]
    texts = tokenizer.batch_decode(
        [one.token_ids for one in engine.generate(requests)], skip_special_tokens=True
    )
    answers = {one["prompt_id"]: one["answer"] for one in problems}
    names = [one.problem for one in requests]
    frame = pl.DataFrame(
        {
            "problem": names,
            "sample": [one.sample for one in requests],
            "correct": judge_all("boxed", load_verifier("boxed"), texts, names, answers),
        }
    )
    if path is not None:
        frame.write_parquet(path)
    return frame


def unmasked_against_unmasked(responses: pl.DataFrame) -> None:
    """Print how often the interval of a difference that is 0 covers it."""
    right = responses.sort("problem", "sample")["correct"].cast(pl.Float64).to_numpy()
    right = right.reshape(-1, SAMPLES)
    print("\n## Unmasked against unmasked, other random numbers\n")
    print(
        f"{SAMPLES} responses to each of {len(right)} problems, {right.mean():.1%} right. Each of "
        f"{REPEATS:,} repeats draws problems, and for each of them responses for two arms, none "
        "of them twice: the true difference is 0. `covers` has to lie between 93 and 97 %, "
        "`p <= 0.05` at or below 5 %.\n"
    )
    print("| problems | responses of an arm to each | covers 0 | p <= 0.05 | mean width (points) |")
    print("|---|---|---|---|---|")
    for problems, samples in ((24, 3), (48, 1), (48, 3), (96, 1), (96, 3), (96, 12)):
        rng = np.random.default_rng([problems, samples])
        covered, low_p, widths = 0, 0, []
        for repeat in range(REPEATS):
            chosen = right[rng.permutation(len(right))[:problems]]
            drawn = rng.permuted(chosen, axis=1)[:, : 2 * samples]
            one, other = drawn[:, :samples].sum(axis=1), drawn[:, samples:].sum(axis=1)
            found = difference(one, other, np.full(problems, float(samples)), seed=repeat)
            covered += found.low <= 0 <= found.high
            low_p += found.p <= 0.05
            widths.append(found.high - found.low)
        error = 100 * np.sqrt(0.05 * 0.95 / REPEATS)
        print(
            f"| {problems} | {samples} | {100 * covered / REPEATS:.1f} ± {error:.1f} % | "
            f"{100 * low_p / REPEATS:.1f} ± {error:.1f} % | {100 * np.mean(widths):.1f} |"
        )


def replaced_without_effect() -> None:
    """Print how often the p of replaced tokens is low where rocks and others do the same."""
    print("\n## Replaced tokens, rocks and others with the same changes\n")
    print(
        f"{REPLACED} tokens a group of {PROMPTS} prompts and {TYPES} types, {REPLACEMENTS:,} "
        "repeats a row. Heavy: 60 % of the changes are not 0, of lognormal size (sigma 2.5), a "
        "quarter of them upwards. Sparse: 5 % are not 0, exponential of 5 nat.\n"
    )
    print("| changes | p <= 0.05 | p <= 0.01 |")
    print("|---|---|---|")
    for number, (name, draw) in enumerate(CHANGES.items()):
        p = np.empty(REPLACEMENTS)
        for repeat in range(REPLACEMENTS):
            rng = np.random.default_rng([number, repeat])
            prompt = rng.integers(PROMPTS, size=2 * REPLACED)
            values, rock = draw(rng, prompt), np.arange(2 * REPLACED) < REPLACED
            prompts = Prompts(pl.Series([f"{label:03}" for label in prompt]), seed=0)
            parts = (values * rock, rock * 1.0, values * ~rock, ~rock * 1.0)
            p[repeat] = difference_p([prompts.sums(part)[:, None] for part in parts], seed=0)
        rates = (
            f"{100 * share:.1f} ± {100 * np.sqrt(share * (1 - share) / REPLACEMENTS):.1f} %"
            for share in ((p <= level).mean() for level in (0.05, 0.01))
        )
        print(f"| {name} | {' | '.join(rates)} |")


def _heavy(rng: np.random.Generator, prompt: Integers) -> Floats:
    size = 0.02 * np.exp(rng.normal(0, 2.5, prompt.size)) * (rng.random(prompt.size) < 0.6)
    return np.where(rng.random(prompt.size) < 0.25, size, -size)


def _of_prompts(rng: np.random.Generator, prompt: Integers) -> Floats:
    return _heavy(rng, prompt) * np.exp(rng.normal(size=PROMPTS))[prompt]


def _of_types(rng: np.random.Generator, prompt: Integers) -> Floats:
    often = 1 / np.arange(1, TYPES + 1)
    types = rng.choice(TYPES, prompt.size, p=often / often.sum())
    types[REPLACED:] += TYPES  # no type is in both groups
    return _of_prompts(rng, prompt) * np.exp(rng.normal(size=2 * TYPES))[types]


def _sparse(rng: np.random.Generator, prompt: Integers) -> Floats:
    return np.where(rng.random(prompt.size) < 0.05, -rng.exponential(5, prompt.size), 0.0)


CHANGES = {
    "normal": lambda rng, prompt: rng.normal(size=prompt.size),
    "heavy": _heavy,
    "heavy, prompts differ": _of_prompts,
    "heavy, prompts and types differ": _of_types,
    "sparse": _sparse,
}


def arms(run: Path) -> None:
    """Print the arms of the run's knock-out."""
    table = od.open_run(run).result("knock_out")
    first = table.row(0, named=True)
    print("\n## Bans on the sample student\n")
    print(
        f"{first['checkpoint']}, {first['n_problems']} problems, three repeats; differences in "
        "points of accuracy, with 95 % intervals over problems. `would show`: smallest difference "
        "that a study as wide shows in 80 % of cases. `variance saved`: variance of a problem's "
        "difference with other random numbers over that with common ones.\n"
    )
    print(
        "| arm | types | right | minus no ban | p | minus control | p | would show | differ | "
        "variance saved |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in table.iter_rows(named=True):
        print(
            f"| {row['arm']} | {row['n_types']} | {row['accuracy']:.1%} | "
            f"{points(row, 'difference')} | {number(row['p'], '.2g')} | "
            f"{points(row, 'control_difference')} | {number(row['control_p'], '.2g')} | "
            f"{number(row['smallest'] and 100 * row['smallest'], '.1f')} | "
            f"{number(row['changed'], '.0%')} | {number(row['variance_saved'], '.2f')} |"
        )
    unmasked = table.filter(kind=UNMASKED)["accuracy"]
    apart = 100 * (max(unmasked) - min(unmasked))
    print(f"\nRepeats without a ban differ by up to {apart:.1f} points.")
    for row in od.findings(run).filter(pl.col("question") == "rocks-needed").iter_rows(named=True):
        print(f"\n{row['text']} **{row['answer']}**: {row['what_it_means']} ({row['reason']}.)")


def others(run: Path) -> None:
    """Print what continuations and replaced tokens showed, where the run has them."""
    opened = od.open_run(run)
    print("\n## Continuations and replaced tokens\n\n```")
    for kind in (Continuation, Replacement):
        (name,) = kind._fields
        if name in opened.results():
            print("\n".join(summary_lines(kind(opened.result(name)))))
    print("```")
    for row in od.findings(run).filter(pl.col("question") == "cut-is-lost").iter_rows(named=True):
        print(f"\n{row['text']} **{row['answer']}**: {row['what_it_means']} ({row['reason']}.)")


def points(row: dict[str, float | None], name: str) -> str:
    """Write a difference in points with its interval."""
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return ""
    ends = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * value:+.1f}{ends}"


def number(value: float | None, form: str) -> str:
    """Write a number, or nothing where there is none."""
    return "" if value is None else format(value, form)


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--pool", type=Path, help="where the responses of the A/A study are kept")
    options = parser.parse_args()
    start = time.perf_counter()
    print("# Interventions on the sample student\n")
    print("Written by `python -m benchmarks.validate_interventions`.", machine())
    unmasked_against_unmasked(pool(options.pool))
    replaced_without_effect()
    arms(options.run)
    others(options.run)
    print(
        f"\nTook {(time.perf_counter() - start) / 60:.0f} minutes, responses that were there apart."
    )


if __name__ == "__main__":
    main()
