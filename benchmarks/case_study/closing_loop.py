"""Does a rule help? Short continuations of the training on what it keeps, on controls and on all.

For each seed the last checkpoint answers the training problems once more, the answers are scored,
and the rule and its control are exported. Then the checkpoint is trained in three ways on these
answers, one pass each, from the same state, with as many updates and as many tokens in the loss: on
what the rule keeps, on the control's tokens, and on all tokens of some of the rollouts.
"""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from benchmarks.case_study.models import Text, load_model
from benchmarks.case_study.problems import Problem
from benchmarks.case_study.rollouts import judge, read_texts, write_rollouts
from benchmarks.case_study.training import Recipe, distil_given
from opd_diag.stats.bootstrap import mean, ratio_difference
from opd_diag.tables.files import atomic_path

RULE, CONTROL, ALL = ARMS = ("rule", "control-1", "all")
WARMUP = 4  # updates
WHAT = {
    RULE: "the rule's tokens",
    CONTROL: "the control's tokens",
    ALL: "all tokens of fewer rollouts",
}


class Loop(NamedTuple):
    """What the continuations share.

    Attributes:
        folder: Where they go.
        teacher: Folder of the teacher.
        student: Folder of the checkpoint that is trained on.
        rule: Rule, as `opd-diag export` takes it.
        seeds: Number of seeds.
        samples: Answers to each problem.
        longest: Most tokens of an answer.
        batch: Rollouts of an update.
        rate: Learning rate.
    """

    folder: Path
    teacher: Path
    student: Path
    rule: str
    seeds: int
    samples: int
    longest: int
    batch: int
    rate: float


def run_loop(
    loop: Loop,
    problems: Sequence[Problem],
    held_out: Sequence[Problem],
    opd_diag: Callable[..., str],
    log: Callable[[str], None],
) -> None:
    """Do what is not done yet: dumps, exports, continuations and what they answer."""
    before = loop.folder / "before.json"
    if not before.exists():
        student, tokenizer = load_model(loop.student)
        teacher, _ = load_model(loop.teacher)
        found = _judged(loop, student, teacher, tokenizer, held_out)
        with atomic_path(before) as unfinished:
            unfinished.write_text(json.dumps(found))
    for seed in range(loop.seeds):
        folder = loop.folder / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        dump = folder / "rollouts.jsonl"
        if not dump.exists():
            student, tokenizer = load_model(loop.student)
            asked = problems[seed * len(problems) // loop.seeds :][: len(problems) // loop.seeds]
            write_rollouts(
                student,
                tokenizer,
                asked,
                dump,
                samples=loop.samples,
                longest=loop.longest,
                seed=1000 + seed,
            )
        if not (folder / "export" / "export.json").exists():
            opd_diag(
                "score", dump, "--teacher", loop.teacher, "--student", f"last={loop.student}",
                "--out", folder / "run", "--dtype", "bfloat16", "--noise-floor", "off",
            )  # fmt: skip
            opd_diag("analyze", "all", folder / "run")
            opd_diag(
                "export", folder / "run", "--rule", loop.rule, "--to", "parquet", "--control", 1,
                "--keep", "tokens", "--seed", seed, "--out", folder / "export",
            )  # fmt: skip
        for arm in ARMS:
            result = folder / f"{arm}.json"
            if not result.exists():
                _continue(loop, seed, arm, folder, held_out, result, log)


def _continue(
    loop: Loop,
    seed: int,
    arm: str,
    folder: Path,
    held_out: Sequence[Problem],
    result: Path,
    log: Callable[[str], None],
) -> None:
    texts = read_texts(folder / "rollouts.jsonl")
    updates = len(texts) // loop.batch
    kept = _weighted(texts, folder / "export" / (RULE if arm == ALL else arm))
    texts = _some(texts, _tokens(kept), seed) if arm == ALL else kept
    student, tokenizer = load_model(loop.student)
    teacher, _ = load_model(loop.teacher)
    recipe = Recipe(-(-len(texts) // updates), loop.rate, WARMUP, updates)
    losses = list(distil_given(student, teacher, texts, recipe, seed=seed))
    found = _judged(loop, student, teacher, tokenizer, held_out)
    record = {"arm": arm, "seed": seed, "tokens": _tokens(texts), "rollouts": len(texts)} | {
        "updates": len(losses),
        "held_out": found,
    }
    with atomic_path(result) as unfinished:
        unfinished.write_text(json.dumps(record))
    log(
        f"seed {seed}, {arm}: {record['tokens']:,} tokens, held-out reverse KL "
        f"{sum(found['kl']) / sum(found['tokens']):.4f}, "
        f"right {sum(found['right']) / sum(found['answers']):.1%}"
    )


def _judged(
    loop: Loop,
    student: LlamaForCausalLM,
    teacher: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    held_out: Sequence[Problem],
) -> dict[str, list[float]]:
    """Let a student answer each held-out problem once, with the same random numbers as others."""
    return judge(student, teacher, tokenizer, held_out, samples=1, longest=loop.longest, seed=77)


def _weighted(texts: Sequence[Text], export: Path) -> list[Text]:
    """Take the weights of an exported arm, whose rollouts stand in the order of the dump."""
    weights = pl.read_parquet(
        export / "rollouts.parquet", columns=["response_token_ids", "weights"]
    )
    merged = []
    for text, (ids, values) in zip(texts, weights.iter_rows(), strict=True):
        if ids != text.response:
            raise SystemExit(f"{export}: other rollouts than those of the dump")
        merged.append(Text(text.prompt, text.response, values))
    return merged


def _tokens(texts: Sequence[Text]) -> int:
    """Count the tokens that weigh something."""
    return sum(weight > 0 for text in texts for weight in text.weights)


def _some(texts: Sequence[Text], tokens: int, seed: int) -> list[Text]:
    """Draw rollouts that hold a number of tokens together."""
    order = random.Random(seed).sample(range(len(texts)), len(texts))
    sums = np.cumsum([len(texts[i].response) for i in order])
    return [texts[i] for i in order[: int(np.searchsorted(sums, tokens)) + 1]]


def loop_table(loop: Loop) -> list[str]:
    """Write the outcome as lines of Markdown: each arm, and the rule against each other arm."""
    before = json.loads((loop.folder / "before.json").read_text())
    records = {
        arm: [
            json.loads((loop.folder / f"seed{seed}" / f"{arm}.json").read_text())
            for seed in range(loop.seeds)
        ]
        for arm in ARMS
    }
    lines = [
        "| trained on | tokens in the loss | updates | share of the reverse KL | held-out reverse "
        "KL (nat a token), by seed | right, by seed | tokens an answer | ended |",
        "|---|---|---|---|---|---|---|---|",
        f"| nothing: the checkpoint before | 0 | 0 | - | {_kl(before):.4f} | {_right(before):.1%} "
        f"| {_share(before, 'tokens'):.0f} | {_share(before, 'ended'):.1%} |",
    ]
    for arm, rows in records.items():
        tokens = ", ".join(f"{row['tokens']:,}" for row in rows)
        values = ", ".join(f"{_kl(row['held_out']):.4f}" for row in rows)
        right = ", ".join(f"{_right(row['held_out']):.1%}" for row in rows)
        kept = ", ".join(_kl_kept(loop, seed, arm) for seed in range(loop.seeds))
        lengths = ", ".join(f"{_share(row['held_out'], 'tokens'):.0f}" for row in rows)
        ended = ", ".join(f"{_share(row['held_out'], 'ended'):.1%}" for row in rows)
        lines.append(
            f"| {WHAT[arm]} | {tokens} | {rows[0]['updates']} | {kept} | {values} | {right} "
            f"| {lengths} | {ended} |"
        )
    lines += [
        "",
        "| difference, over held-out prompts and all seeds | reverse KL (nat a token) "
        "| 95 % | right (points) | 95 % | by seed: KL; right |",
        "|---|---|---|---|---|---|",
    ]
    pairs = [(RULE, CONTROL), (RULE, ALL), *((arm, "before") for arm in ARMS)]
    for one, other in pairs:
        left = [row["held_out"] for row in records[one]]
        right = [before] * len(left) if other == "before" else [
            row["held_out"] for row in records[other]
        ]  # fmt: skip
        lines.append(_difference_row(f"{WHAT[one]} − {WHAT.get(other, 'before')}", left, right))
    return lines


def _difference_row(
    name: str, left: Sequence[dict[str, list[float]]], right: Sequence[dict[str, list[float]]]
) -> str:
    a, b = _sums(left), _sums(right)
    kl = ratio_difference(a["kl"], a["tokens"], b["kl"], b["tokens"])
    share = mean((a["right"] - b["right"]) / a["answers"])
    seeds = "; ".join(
        ", ".join(f"{value:{form}}" for value in values)
        for form, values in (
            ("+.4f", [_kl(x) - _kl(y) for x, y in zip(left, right, strict=True)]),
            ("+.1f", [100 * (_right(x) - _right(y)) for x, y in zip(left, right, strict=True)]),
        )
    )
    return (
        f"| {name} | {kl.estimate:+.4f} | {kl.low:+.4f} to {kl.high:+.4f} "
        f"| {100 * share.estimate:+.1f} | {100 * share.low:+.1f} to {100 * share.high:+.1f} "
        f"| {seeds} |"
    )


def _sums(records: Sequence[dict[str, list[float]]]) -> dict[str, np.ndarray]:
    return {name: np.sum([record[name] for record in records], axis=0) for name in records[0]}


def _kl(record: dict[str, list[float]]) -> float:
    return sum(record["kl"]) / sum(record["tokens"])


def _right(record: dict[str, list[float]]) -> float:
    return _share(record, "right")


def _share(record: dict[str, list[float]], name: str) -> float:
    return sum(record[name]) / sum(record["answers"])


def _kl_kept(loop: Loop, seed: int, arm: str) -> str:
    """Say what share of the dump's reverse KL an exported arm keeps."""
    export = json.loads((loop.folder / f"seed{seed}" / "export" / "export.json").read_text())
    found = [row["reverse_kl_share"] for row in export["arms"] if row["arm"] == arm]
    return f"{found[0]:.1%}" if found else "-"
