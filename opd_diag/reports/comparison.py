"""Two runs side by side: their answers, and their KL on the prompts that both hold."""

from typing import Any

import numpy as np
import polars as pl

from opd_diag.analyses import wording
from opd_diag.analyses.findings import findings
from opd_diag.analyses.prompts import Prompts
from opd_diag.stats.intervals import Interval
from opd_diag.tables.run import Run

COLUMNS = (
    ("reverse_kl", "KL(student ‖ teacher)", "nat"),
    ("forward_kl", "KL(teacher ‖ student)", "nat"),
    ("student_entropy", "Student's entropy", "nat"),
    ("grad_logits", "Gradient norm", "nat/logit"),
)


def compare_findings(run: Run, other: Run) -> list[dict[str, Any]]:
    """Put the answers of two runs side by side, each under its last checkpoint."""
    sides = []
    for one in (run, other):
        last = findings(one).filter(pl.col("answer") != "not asked")
        sides.append({row["question"]: row for row in last.iter_rows(named=True)})
    questions = list(dict.fromkeys([*sides[0], *sides[1]]))
    rows = []
    for question in questions:
        pair = [side.get(question) for side in sides]
        rows.append(
            {
                "text": next(row["text"] for row in pair if row is not None),
                "answers": [row["answer"] if row else "not asked" for row in pair],
                "numbers": [
                    wording.estimate(row, "estimate", row["unit"]) if row else wording.MISSING
                    for row in pair
                ],
            }
        )
    return rows


def compare_means(run: Run, other: Run, *, seed: int = 0) -> dict[str, Any]:
    """Compare means over tokens in the loss, on the prompts that both runs hold.

    Prompts are the same where their ids are equal, whatever they are called. Each run is taken
    under its last checkpoint. Runs that share no prompt are described by the means of all of their
    rollouts, without a difference.

    Returns:
        `prompts` (how many both hold) and `rows`: label, the mean of each run, and the difference
        of the second from the first, paired by prompt; each with its interval.
    """
    frames = [_sums(one) for one in (run, other)]
    both = frames[0].join(frames[1], on="prompt", how="inner", suffix="_other").sort("prompt")
    prompts = Prompts(both["prompt"], seed=seed)
    sides = [(both, ""), (both, "_other")] if both.height else [(frame, "") for frame in frames]
    rows = []
    for name, label, unit in COLUMNS:
        means = [
            _estimate(_mean(frame, name, end, seed), unit, "no token has a value")
            for frame, end in sides
        ]
        x, m, x0, m0 = (
            both[column].cast(pl.Float64).to_numpy()
            for column in (f"{name}_other", f"{name}_n_other", name, f"{name}_n")
        )
        apart = prompts.difference(*(v[:, None] for v in (x, m, x0, m0)))
        text = _estimate(apart, unit, "no values on shared prompts")
        rows.append({"label": label, "means": means, "difference": text})
    return {"prompts": both.height, "rows": rows}


def _mean(frame: pl.DataFrame, name: str, end: str, seed: int) -> Interval:
    """Average a column over the tokens of a run, from the sums of prompts."""
    columns = (f"{name}{end}", f"{name}_n{end}")
    x, n = (frame[column].cast(pl.Float64).to_numpy() for column in columns)
    return Prompts(frame["prompt"], seed=seed).ratio(x[:, None], n[:, None])


def _estimate(interval: Interval, unit: str, without: str) -> str:
    """Write an estimate with its interval; `without` says why where there is no estimate."""
    ends = {
        f"value{end}": None if not values.size or np.isnan(values[0]) else float(values[0])
        for end, values in zip(("", "_low", "_high"), interval[:3], strict=True)
    }
    reason = without if ends["value"] is None else str(interval.reason[0])
    return wording.estimate({**ends, "reason": reason or None}, unit=unit)


def _sums(run: Run) -> pl.DataFrame:
    """Sum the columns over the tokens in the loss of each prompt, told by its ids."""
    names = [name for name, *_ in COLUMNS]
    rollouts = run.rollouts.select("rollout", prompt=pl.col("prompt_token_ids").hash(seed=0))
    return (
        run.tokens(run.checkpoints[-1])
        .filter("in_loss")
        .select("rollout", *names)
        .join(rollouts.lazy(), on="rollout")
        .group_by("prompt")
        .agg(
            *(pl.col(name).cast(pl.Float64).sum() for name in names),
            *(pl.col(name).count().alias(f"{name}_n") for name in names),
        )
        .sort("prompt")
        .collect()
    )
