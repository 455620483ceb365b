"""Compare the arms of a knock-out: accuracy, what a ban costs, exposure, what numbers saved."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.stats import false_discovery_control

from opd_diag.interventions.lists import Arm, BestTokens
from opd_diag.interventions.outcomes import NONE, difference, share_right, variance_saved
from opd_diag.tables.columns.interventions import LISTED, RANDOM, ROCK, SINGLE, UNMASKED

Floats = npt.NDArray[np.float64]

NO_BEST = "the engine does not tell likeliest tokens: exposure is that of the run's rollouts"
NO_COMMON = "no common random numbers"


def compare_arms(
    arms: Sequence[Arm],
    frames: Mapping[str, pl.DataFrame],
    judged: Mapping[str, Floats],
    best: BestTokens,
    problems: int,
    repeats: int,
    samples: int,
    *,
    seed: int,
    common: bool,
) -> pl.DataFrame:
    """Compare every arm with the unmasked one, and rocks with their control.

    Args:
        arms: The arms that ban something.
        frames: Responses by arm, `unmasked` among them, in the same order.
        judged: Whether each is right. Shape (samples of all repeats, problems).
        best: The student's likeliest tokens in the run's rollouts.
        problems: Number of problems.
        repeats: Number of unmasked arms.
        samples: Responses of each problem and repeat.
        seed: Seed of the intervals.
        common: Whether arms share random numbers.

    Returns:
        Columns of `knock_out`, one row for each arm.
    """
    base = judged["unmasked"].reshape(repeats, samples, problems).sum(axis=1)
    n = np.full(problems, float(repeats * samples))
    rows = []
    for repeat in range(repeats):
        others = np.delete(base, repeat, axis=0).mean(axis=0)
        apart = difference(base[repeat], others, np.full(problems, float(samples)), seed=seed)
        part = frames["unmasked"].slice(repeat * samples * problems, samples * problems)
        right = judged["unmasked"][repeat * samples : (repeat + 1) * samples]
        rows.append(
            _about(part, right, seed)
            | apart.columns("difference")
            | {
                "arm": f"unmasked-{repeat + 1}",
                "kind": UNMASKED,
                "n_types": 0,
                "p": apart.p,
                "smallest": apart.smallest,
                "reason": apart.reason,
            }
        )
    control = judged.get("control")
    whole = base.sum(axis=0)
    for arm in arms:
        right = judged[arm.name]
        total = right.sum(axis=0)
        apart = difference(total, whole, n, seed=seed)
        against = NONE
        if arm.kind == ROCK and control is not None:
            against = difference(total, control.sum(axis=0), n, seed=seed)
        exposure = _exposure(frames["unmasked"], arm) if common else None
        notes = [arm.note, "" if common else f"{NO_COMMON}; {NO_BEST}", apart.reason]
        of_run = best.exposure(arm.token_ids)
        changed = (
            frames[arm.name]["response_token_ids"] != frames["unmasked"]["response_token_ids"]
        ).mean()
        rows.append(
            _about(frames[arm.name], right, seed)
            | apart.columns("difference")
            | against.columns("control_difference")
            | {
                "arm": arm.name,
                "kind": arm.kind,
                "text": arm.text,
                "n_types": len(arm.token_ids),
                "p": apart.p,
                "control_p": against.p,
                "smallest": (against if np.isfinite(against.value) else apart).smallest,
                "exposure": exposure[0] if exposure else of_run.rollouts,
                "exposed_positions": exposure[1] if exposure else of_run.positions,
                "changed": changed,
                "variance_saved": _saved(right, base) if common else np.nan,
                "reason": "; ".join(note for note in notes if note),
            }
        )
    for row in rows:
        row["n_problems"] = problems
    return _adjusted(rows)


def _saved(right: Floats, base: Floats) -> float:
    """Compare variances of a problem's difference in one repeat, with common numbers and others.

    Args:
        right: Responses of the arm that are right. Shape (samples of all repeats, problems).
        base: Number of unmasked responses that are right. Shape (repeats, problems).
    """
    own = right.reshape(len(base), -1, base.shape[1]).sum(axis=1)
    others = [own - np.roll(base, turn, axis=0) for turn in range(1, len(base))]
    return variance_saved((own - base).ravel(), np.stack(others).ravel())


def _about(frame: pl.DataFrame, right: Floats, seed: int) -> dict[str, Any]:
    """Describe an arm: accuracy, number and length of its responses."""
    problem = np.tile(np.arange(right.shape[1]), right.shape[0])
    accuracy = share_right(right.ravel(), problem, seed=seed)
    return {
        "n": frame.height,
        **accuracy.columns("accuracy"),
        "n_tokens": frame["response_token_ids"].list.len().mean(),
        "unended": (frame["finish"] == "length").mean(),
    }


def _exposure(unmasked: pl.DataFrame, arm: Arm) -> tuple[float, float]:
    """Share of unmasked responses, and of positions, whose likeliest token is banned."""
    ids = unmasked["best_token_ids"].list.explode(empty_as_null=False).to_numpy()
    lengths = unmasked["best_token_ids"].list.len().to_numpy()
    banned = np.isin(ids, arm.token_ids)
    response = np.repeat(np.arange(lengths.size), lengths)
    ever = np.unique(response[banned]).size / max(lengths.size, 1)
    return float(ever), float(banned.sum() / max(ids.size, 1))


def _adjusted(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Adjust p over the arms of each kind, and make the frame."""
    for kind in (SINGLE, LISTED, RANDOM):
        own = [row for row in rows if row["kind"] == kind and np.isfinite(row["p"])]
        if own:
            adjusted = false_discovery_control([row["p"] for row in own])
            for row, p in zip(own, adjusted, strict=True):
                row["p_adjusted"] = float(p)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pl.DataFrame({name: [row.get(name) for row in rows] for name in names}, strict=False)
