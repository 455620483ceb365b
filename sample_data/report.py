"""Write the README of the sample data from measured figures, and check them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from problems import KINDS
from recipes import Settings

TOTAL_LIMIT, FILE_LIMIT = 15_000_000, 6_000_000
GAP_LIMIT = 1e-4

TEMPLATE = """# Sample data: a small on-policy distillation run

Everything in this folder but the scripts was made by one seeded run of

```
python sample_data/make_sample.py
```

in {total:.1f} minutes{how}, on {threads} CPU threads for the
training of the teacher and on one for the rest. The script also wrote this file; every figure below
is one it measured in that run. `--quick --out FOLDER` runs every stage at a tiny scale.
The same seed on another processor or library version can give other weights and figures.
{warning}
## What was done

The task is generated word problems of {kinds} kinds ({kind_names}) with a
worked solution whose boxed number is the answer; `reward` is 1.0 if the last boxed number of a
response is right.
Teacher and student are Qwen3 models over one byte-level BPE tokenizer, in which every digit is a
token; their logits are padded to different widths. The padding ids are cut off in training, in
sampling and in all log-probabilities.

1. The teacher is trained on worked solutions ({teacher_steps} steps of {teacher_batch}).
2. The student is trained on them briefly ({student_steps} steps of {student_batch}): step 0.
3. The student is distilled on-policy ({opd_steps} steps of {opd_batch} rollouts): it samples at
   temperature 1, and the mean over the sampled tokens of the full-vocabulary reverse KL,
   KL(student || teacher), is lowered (learning rate {opd_rate:g}, no policy-gradient term).
4. Checkpoints are stored in bfloat16. All figures and rollouts come from the stored weights, read
   back and evaluated in float32.

Responses are limited to {limit} tokens, the {quantile:.0%} quantile of the worked solutions
(rounded up to a multiple of 4), so that some are cut. The {held_out}
problems of the accuracy and the {asked} problems of the rollouts are distinct, and no training saw
their prompts.

## Models

| | {model_header} |
|---|{model_rule}|
{model_rows}

The tokenizer has {tokenizer} ids. Accuracy is over {held_out} held-out problems; the reverse KL is
the mean over all response tokens of `rollouts_step0.jsonl`, the same contexts for every checkpoint.
What is trained is the student at temperature 1; the greedy accuracy need not rise at every step.

## Rollouts

| | {rollout_header} |
|---|{rollout_rule}|
{rollout_rows}

Quantiles are at 0, 5, 25, 50, 75, 95 and 100 %. Segments are counted by line ends and by sentence
ends before a capital letter. The largest difference is that between the stored `sampled_logp` and
a second scoring, one rollout at a time.

Each line of a file is one rollout: `id`, `prompt_id`, `prompt`, `response` (without special
tokens), `prompt_token_ids` (with the chat template), `response_token_ids` (with the end token if
`finish_reason` is "stop"), `sampled_logp` (nat, temperature 1), `policy`, `step` (null for the
teacher), `finish_reason` ("stop" or "length"), `reward` and `correct`.

`problems.jsonl` holds all problems with their answers: those of the rollouts by their `prompt_id`,
then those of the accuracy.

## Time and size

| Stage | Minutes |
|---|---|
{time_rows}
| **all stages** | **{total:.2f}** |

| File | Bytes |
|---|---|
{size_rows}
| **all outputs** | **{bytes:,}** |
"""


def _outputs(out: Path) -> list[Path]:
    """List the files that the run made, but for the README."""
    folders = (path for name in ("teacher", "students") for path in (out / name).rglob("*"))
    return sorted(path for path in (*folders, *out.glob("*.jsonl")) if path.is_file())


def _table(columns: dict[str, dict[str, Any]], rows: dict[str, tuple[str, str]]) -> dict[str, str]:
    """Lay out columns of figures; ``rows`` maps a label to a key and a format."""
    lines = []
    for label, (key, form) in rows.items():
        cells = []
        for figures in columns.values():
            value = figures.get(key, "-")
            if isinstance(value, list):
                cells.append(", ".join(map(str, value)))
            else:
                cells.append(value if value == "-" else format(value, form))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return {
        "header": " | ".join(columns),
        "rule": "|".join("---" for _ in columns),
        "rows": "\n".join(lines),
    }


def _tables(figures: dict[str, Any], settings: Settings) -> dict[str, str]:
    """Lay out the tables of models and of rollouts."""
    names = ["teacher", *(f"step{step}" for step in settings.kept_steps)]
    models = _table(
        {name: figures[name] for name in names},
        {
            "Parameters": ("parameters", ","),
            "Logit width": ("width", "d"),
            "Accuracy, greedy": ("greedy", ".1%"),
            "Accuracy, temperature 1": ("sampled", ".1%"),
            "Mean reverse KL (nat/token)": ("reverse_kl", ".4f"),
        },
    )
    rollouts = _table(
        {f"`{name}`": value for name, value in figures["rollouts"].items()},
        {
            "Rollouts": ("rollouts", "d"),
            "Correct": ("accuracy", ".1%"),
            "Cut at the limit": ("cut", ".1%"),
            "Token length, quantiles": ("length_quantiles", ""),
            "With 150-400 tokens": ("length_150_400", ".1%"),
            "Segments, quantiles": ("segment_quantiles", ""),
            "With 10 segments or more": ("segments_10", ".1%"),
            "Mean -log p of a sampled token (nat)": ("surprise", ".4f"),
            "Largest difference on rescoring (nat)": ("gap", ".1e"),
        },
    )
    laid_out = {f"model_{key}": value for key, value in models.items()}
    return laid_out | {f"rollout_{key}": value for key, value in rollouts.items()}


def write_readme(
    out: Path, figures: dict[str, Any], minutes: dict[str, float], settings: Settings
) -> None:
    """Write the README with the figures of this run."""
    files, names = _outputs(out), " and ".join(figures["reused"])
    how = f" (the supervised {names} came from `--reuse`; its minutes are counted)"
    how = how if names else ""
    quick = "\n**This was a run with `--quick`: its figures mean nothing.**\n"
    sizes = [
        f"| `{path.relative_to(out).as_posix()}` | {path.stat().st_size:,} |" for path in files
    ]
    text = TEMPLATE.format(
        **_tables(figures, settings),
        threads=figures["threads"],
        total=figures["total"],
        limit=figures["limit"],
        tokenizer=figures["tokenizer"],
        how=how,
        warning=quick if settings.name == "quick" else "",
        kinds=len(KINDS),
        kind_names=", ".join(KINDS),
        quantile=settings.limit_quantile,
        held_out=settings.held_out,
        asked=settings.asked,
        teacher_steps=settings.teacher.steps,
        teacher_batch=settings.teacher.batch,
        student_steps=settings.student.steps,
        student_batch=settings.student.batch,
        opd_steps=settings.distillation.steps,
        opd_batch=settings.distillation.batch,
        opd_rate=settings.distillation.rate,
        time_rows="\n".join(f"| {name} | {value:.2f} |" for name, value in minutes.items()),
        size_rows="\n".join(sizes),
        bytes=sum(path.stat().st_size for path in files),
    )
    (out / "README.md").write_text(text, encoding="utf-8")


def unmet_bars(out: Path, figures: dict[str, Any], settings: Settings) -> list[str]:
    """Return a line for every bar that the run did not meet."""
    steps = [figures[f"step{step}"] for step in settings.kept_steps]
    pairs = list(pairwise(steps))
    first, rollouts = figures["rollouts"]["rollouts_step0.jsonl"], figures["rollouts"].values()
    sizes = [path.stat().st_size for path in _outputs(out)]
    bars = {
        "the teacher solves 80 % greedily": figures["teacher"]["greedy"] >= 0.80,
        "step 0 solves at most 45 % greedily": steps[0]["greedy"] <= 0.45,
        "greedy accuracy ends higher": steps[0]["greedy"] < steps[-1]["greedy"],
        "sampled accuracy rises": all(a["sampled"] < b["sampled"] for a, b in pairs),
        "the reverse KL falls": all(a["reverse_kl"] > b["reverse_kl"] for a, b in pairs),
        "2 to 15 % of the step-0 rollouts are cut": 0.02 <= first["cut"] <= 0.15,
        "most rollouts have 150-400 tokens": all(r["length_150_400"] > 0.5 for r in rollouts),
        "most rollouts have 10 segments": all(r["segments_10"] > 0.5 for r in rollouts),
        "stored log-probabilities are reproduced": all(r["gap"] < GAP_LIMIT for r in rollouts),
        "no file is over 6 MB": max(sizes) < FILE_LIMIT,
        "all files are at most 15 MB": sum(sizes) <= TOTAL_LIMIT,
        "the whole run takes at most 60 minutes": figures["total"] <= 60,
    }
    return [name for name, met in bars.items() if not met]
