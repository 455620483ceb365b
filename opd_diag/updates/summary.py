"""Sum first-order changes by phase, release, rock, selector and outcome, beside their controls."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.reasons import first
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.analyses.teachability.features import teachability_features
from opd_diag.errors import OpdDiagError
from opd_diag.stats.ragged import run_lengths, run_starts, starts_of
from opd_diag.tables.run import Run
from opd_diag.tables.source import finished_result

Mask: TypeAlias = npt.NDArray[np.bool_]
Integers: TypeAlias = npt.NDArray[np.int64]

SHIFTS = 20
BUDGET = 0.1  # share of the tokens that the selector D_learn takes
KLS = ("reverse_kl", "forward_kl")
NO_DECREASE = "no first-order decrease to share"


def label_tokens(run: Run, tokens: pl.DataFrame, checkpoint: str) -> pl.DataFrame:
    """Give every token its group in each split, null where the results do not tell.

    Args:
        run: The run, with the results that are there.
        tokens: rollout and position, sorted.
        checkpoint: Checkpoint that the update starts from.

    Returns:
        in_loss, prompt_id, and one column for each split: all, phase, release, rock, selector,
        correct, group.
    """
    scored = run.tokens(checkpoint).select("rollout", "position", "token_id", "in_loss").collect()
    about = run.rollouts.select("rollout", "prompt_id", "correct", "half", "group")
    frame = tokens.select("rollout", "position")
    frame = frame.join(scored, on=["rollout", "position"], how="left", maintain_order="left")
    frame = frame.join(about, on="rollout", how="left", maintain_order="left")
    correct = (
        pl.when("correct").then(pl.lit("correct")).when(~pl.col("correct")).then(pl.lit("wrong"))
    )
    frame = frame.with_columns(pl.lit("all").alias("all"), correct=correct)
    position = pl.col("position").cast(pl.Int64)
    own = pl.col("checkpoint") == checkpoint
    frame = frame.with_columns(
        pl.lit(None, pl.String).alias(name) for name in ("phase", "release", "rock", "selector")
    )
    traps = finished_result(run, "agreement_traps")
    if traps is not None and traps.filter(own).height:
        cut = traps.filter(own).select("rollout", "triggered", "cut_token", "stretch_end_token")
        phase = (
            pl.when(pl.col("triggered").is_null())
            .then(None)
            .when(~pl.col("triggered"))
            .then(pl.lit("no stretch"))
            .when(position < pl.col("cut_token"))
            .then(pl.lit("before the stretch"))
            .when(position <= pl.col("stretch_end_token"))
            .then(pl.lit("in the stretch"))
            .otherwise(pl.lit("after the stretch"))
        )
        frame = frame.join(cut, on="rollout", how="left", maintain_order="left")
        frame = frame.with_columns(phase=phase)
    points = finished_result(run, "release_points")
    if points is not None and points.filter(own).height:
        release = points.filter(own).select("rollout", "accepted", "release_token")
        side = (
            pl.when(pl.col("accepted").is_null())
            .then(None)
            .when(~pl.col("accepted"))
            .then(pl.lit("no release"))
            .when(position < pl.col("release_token"))
            .then(pl.lit("before release"))
            .otherwise(pl.lit("after release"))
        )
        frame = frame.join(release, on="rollout", how="left", maintain_order="left")
        frame = frame.with_columns(release=side)
    rocks = finished_result(run, "rock_tokens")
    if rocks is not None:
        ids = rocks.filter("is_rock")["token_id"].to_list()
        rock = pl.when(pl.col("token_id").is_in(ids)).then(pl.lit("rock"))
        frame = frame.with_columns(rock=rock.otherwise(pl.lit("not rock")))
    try:
        features = teachability_features(run, checkpoint=run.checkpoints[0])
        score = features.select("rollout", "position", "d_learn").collect()
    except OpdDiagError:  # no features, no selector
        score = None
    if score is not None:
        frame = frame.join(score, on=["rollout", "position"], how="left", maintain_order="left")
        least = score["d_learn"].quantile(1 - BUDGET)
        picked = pl.when(pl.col("d_learn") >= least).then(pl.lit("highest D_learn, 10 %"))
        frame = frame.with_columns(selector=picked.otherwise(pl.lit("lower D_learn")))
    return frame.select(
        "rollout", "position", "in_loss", "prompt_id", "half",
        *SPLITS,
    )  # fmt: skip


SPLITS = ("all", "phase", "release", "rock", "selector", "correct", "group")


def summarise(
    tokens: pl.DataFrame, labels: pl.DataFrame, *, later: pl.DataFrame | None = None, seed: int
) -> pl.DataFrame:
    """Sum the first-order changes of one pair of checkpoints by group.

    Args:
        tokens: Rows of `UPDATE_TOKENS` of one pair, sorted by (rollout, position).
        labels: What `label_tokens` returns, row by row.
        later: Rows of the same tokens under the next pair, row by row, or None.
        seed: Seed of the intervals and of the shifts.

    Returns:
        Rows of `UPDATE_ALIGNMENT`.
    """
    known = labels["in_loss"].to_numpy()
    tokens, labels = tokens.filter(known), labels.filter(known)
    later = None if later is None else later.filter(known)
    prompts = Prompts(labels["prompt_id"], seed=seed)
    rollout = labels["rollout"].to_numpy()
    lengths = run_lengths(run_starts(rollout), rollout.size)
    random = tokens["random_reverse_kl"].to_numpy().astype(np.float64)
    frames = []
    for split in SPLITS:
        column = labels[split]
        for group in column.drop_nulls().unique().sort():
            member = (column == group).fill_null(value=False).to_numpy()
            frames += [
                _group(tokens, labels, later, member, kl, prompts, lengths, random, seed)
                | {"split": split, "group": group}
                for kl in KLS
            ]
    pair = {name: tokens[name][0] for name in ("checkpoint", "checkpoint_from")}
    return pl.concat([result_table("update_alignment", row, **pair) for row in frames])


def _group(
    tokens: pl.DataFrame,
    labels: pl.DataFrame,
    later: pl.DataFrame | None,
    member: Mask,
    kl: str,
    prompts: Prompts,
    lengths: Integers,
    random: npt.NDArray[np.float64],
    seed: int,
) -> dict[str, object]:
    known = tokens[f"first_order_{kl}"].is_not_null().to_numpy()
    moved = _shifted(member, lengths, seed)
    member = member & known
    change = tokens[f"first_order_{kl}"].cast(pl.Float64).fill_null(0).to_numpy()
    realised = tokens[f"realised_{kl}"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    x = prompts.sums(change * member)[:, None]
    n = prompts.sums(member)[:, None]
    whole = prompts.sums(change)[:, None]
    mean = prompts.ratio(x, n)
    shifted = prompts.sums(change * moved)[:, None]
    real_x, real_n = prompts.sums_and_counts(np.where(member, realised, np.nan))
    realised_mean = prompts.ratio(real_x[:, None], real_n[:, None])
    decreases = whole.sum() < 0
    nothing = np.full(1, np.nan)
    shares: dict[str, object] = {}
    reasons = first(mean)
    if decreases:
        share = prompts.ratio(-x, -whole)
        difference = prompts.difference(-x, -whole, -shifted, -whole)
        shares = interval_columns("share", share) | interval_columns("share_difference", difference)
        shares["shifted_share"] = [float(shifted.sum() / whole.sum())]
    else:
        reasons = np.where(reasons == "", NO_DECREASE, reasons)
    shares |= _later_update(later, member, kl, prompts)
    each = random[member].sum(axis=0) / max(int(member.sum()), 1) if kl == "reverse_kl" else nothing
    inside = labels.filter(member)
    return {
        "kl": kl,
        "n": [int(member.sum())],
        "n_rollouts": inside["rollout"].n_unique(),
        "n_prompts": inside["prompt_id"].n_unique(),
        "token_share": float(member.sum() / max(int(known.sum()), 1)),
        "sum": float(x.sum()),
        **interval_columns("mean", mean),
        **shares,
        **interval_columns("realised", realised_mean),
        "random_mean": float(each.mean()),
        "random_sd": float(each.std(ddof=1)) if each.size > 1 else np.nan,
        "reason": reasons.tolist(),
    }


def _later_update(
    later: pl.DataFrame | None,
    member: Mask,
    kl: str,
    prompts: Prompts,
) -> dict[str, object]:
    """Say what the next update does for the same tokens: it was trained on others."""
    if later is None:
        return {}
    change = later[f"first_order_{kl}"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    x, n = (one[:, None] for one in prompts.sums_and_counts(np.where(member, change, np.nan)))
    whole = prompts.sums(np.nan_to_num(change))[:, None]
    columns: dict[str, object] = interval_columns("later_mean", prompts.ratio(x, n))
    if whole.sum() < 0:
        columns |= interval_columns("later_share", prompts.ratio(-x, -whole))
    return columns


def _shifted(member: Mask, lengths: Integers, seed: int) -> npt.NDArray[np.float64]:
    """Move a group circularly inside each rollout, and average over shifts. Shape (tokens,)."""
    rng = np.random.default_rng(seed)
    moved = np.zeros(member.size)
    for start, length in zip(starts_of(lengths).tolist(), lengths.tolist(), strict=True):
        own = member[start : start + length]
        for by in rng.integers(length, size=SHIFTS).tolist():
            moved[start : start + length] += np.roll(own, by)
    return moved / SHIFTS
