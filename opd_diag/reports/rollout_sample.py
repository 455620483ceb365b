"""Choose rollouts that are worth reading, and say why each was chosen."""

from collections.abc import Iterator, Mapping
from itertools import zip_longest

import polars as pl

from opd_diag.tables.run import Run
from opd_diag.tables.source import finished_result

MOST_SAMPLES = 8  # rollouts of the one prompt that is shown whole


def choose_rollouts_to_read(run: Run, most: int) -> dict[int, list[str]]:
    """Choose rollouts by several reasons in turn.

    Where a run knows no KL, k1 takes its place: the mean of the student's minus the teacher's
    log-prob of the tokens in the loss.

    Args:
        run: A run with at least one complete checkpoint.
        most: Most rollouts.

    Returns:
        Row numbers of the rollouts with the reasons, in the order in which they were chosen.
    """
    queues = _queues(run)
    every = [reason for reason, _ in queues]
    ranked = zip_longest(*(rows for _, rows in queues))
    chosen: dict[int, list[str]] = {}
    for turn in ranked:
        for reason, row in zip(every, turn, strict=True):
            if row is None:
                continue
            if row in chosen:
                if reason not in chosen[row] and len(chosen[row]) < 3:
                    chosen[row].append(reason)
            elif len(chosen) < most:
                chosen[row] = [reason]
        if len(chosen) >= most:
            break
    return chosen


def _queues(run: Run) -> list[tuple[str, list[int]]]:
    """List rollouts for each reason, the best first."""
    last = run.checkpoints[-1]
    facts = (
        run.tokens(last)
        .filter("in_loss")
        .group_by("rollout")
        .agg(
            pl.col("reverse_kl").mean().alias("kl"),
            (pl.col("student_logp") - pl.col("teacher_logp")).mean().alias("k1"),
        )
        .collect()
        .join(run.rollouts.select("rollout", "prompt_id", "correct"), on="rollout", how="left")
    )
    measure = "KL" if facts["kl"].count() else "k1"
    facts = (
        facts.with_columns(kl=measure.lower())
        .drop_nulls("kl")
        .sort("kl", "rollout", descending=[True, False])
    )
    middle = facts.with_columns(away=(pl.col("kl") - pl.col("kl").median()).abs())
    queues = [
        (f"highest {measure}", _rows(facts)),
        (f"median {measure}", _rows(middle.sort("away", "rollout"))),
    ]
    queues += [
        ("largest release gain", list(_released(run, last))),
        ("longest low-KL stretch", list(_stretches(run, last))),
        (f"correct with high {measure}", _rows(facts.filter(pl.col("correct")))),
        (f"wrong with low {measure}", _rows(facts.filter(~pl.col("correct")).reverse())),
        ("samples of one prompt", _samples_of_one_prompt(facts)),
        ("largest first-order change by an update", updated_rollouts(run)),
    ]
    return [(reason, rows) for reason, rows in queues if rows]


def _rows(facts: pl.DataFrame) -> list[int]:
    return facts["rollout"].to_list()


def _released(run: Run, checkpoint: str) -> Iterator[int]:
    table = finished_result(run, "release_points")
    if table is not None:
        accepted = table.filter(pl.col("checkpoint") == checkpoint, pl.col("accepted"))
        yield from _rows(accepted.sort("gain", "rollout", descending=[True, False]))


def _stretches(run: Run, checkpoint: str) -> Iterator[int]:
    table = finished_result(run, "agreement_traps")
    if table is not None:
        fired = table.filter(pl.col("checkpoint") == checkpoint, pl.col("triggered"))
        yield from _rows(fired.sort("longest_run", "rollout", descending=[True, False]))


def updated_rollouts(run: Run) -> list[int]:
    """Return the rollouts whose derivatives along an update are known, the largest sum first."""
    table = finished_result(run, "update_tokens")
    if table is None:
        return []
    change = pl.col("first_order_reverse_kl").cast(pl.Float64).sum().abs()
    sums = table.group_by("rollout").agg(change=change)
    return _rows(sums.sort("change", "rollout", descending=[True, False]))


def _samples_of_one_prompt(facts: pl.DataFrame) -> list[int]:
    """Return the samples of the prompt whose samples differ most in KL."""
    prompts = (
        facts.group_by("prompt_id")
        .agg(pl.len().alias("samples"), spread=pl.col("kl").max() - pl.col("kl").min())
        .filter(pl.col("samples") > 1)
        .sort("spread", "prompt_id", descending=[True, False])
    )
    if prompts.is_empty():
        return []
    own = facts.filter(pl.col("prompt_id") == prompts["prompt_id"][0])
    return sorted(_rows(own))[:MOST_SAMPLES]


def describe_reasons(reasons: Mapping[int, list[str]]) -> dict[str, int]:
    """Count the rollouts of each reason."""
    counts: dict[str, int] = {}
    for each in reasons.values():
        for reason in each:
            counts[reason] = counts.get(reason, 0) + 1
    return counts
