"""Rollouts that are longer than a model's context: left out, cut or refused, before any scoring."""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from opd_diag.errors import OptionError, RolloutError
from opd_diag.scoring.models.loading import context_of
from opd_diag.scoring.sequences import Origin
from opd_diag.tables.rollouts import Rollouts, check_rollouts, prompt_halves
from opd_diag.text.model_files import base_of_adapter, check_model_folder, hub_options

CHOICES = ("skip", "error", "cut")
_NAMED = 5
_PER_TOKEN = (
    *("response_token_ids", "loss_mask", "sampled_logp"),
    *("trainer_teacher_logp", "trainer_top_id", "trainer_top_mass"),
)


def fit_rollouts(
    rollouts: Rollouts,
    teachers: Iterable[str],
    students: Mapping[str, str],
    *,
    overlong: str,
    max_response_tokens: int | None,
    origin: Origin,
) -> Rollouts:
    """Leave out or cut the rollouts that do not fit into the context of every model.

    Args:
        rollouts: What `read_rollouts` returns.
        teachers: Folders or hub ids of the teachers.
        students: Folders or hub ids of the students by name.
        overlong: `skip` leaves them out, `cut` cuts their responses and leaves out what has too
            long a prompt, `error` leaves everything as it is, to be refused when models are there.
        max_response_tokens: Only so many tokens of each response will be scored.
        origin: Version of hub ids, and whether their code may run.

    Returns:
        Rollouts that fit, numbered anew, and a report in which `overlong` counts and names those
        that did not; the same rollouts if all fit.

    Raises:
        OptionError: If `overlong` is unknown.
        RolloutError: If none fits.
    """
    if overlong not in CHOICES:
        raise OptionError(f"overlong: {overlong!r}; expected {', '.join(CHOICES)}")
    if overlong == "error":
        return rollouts
    teacher_prompt = pl.coalesce("teacher_prompt_token_ids", "prompt_token_ids")
    room = pl.lit(None, pl.Int64)
    contexts = []
    for prompt, names in (
        (teacher_prompt, teachers),
        (pl.col("prompt_token_ids"), students.values()),
    ):
        known = [c for name in names if (c := _context_before_loading(name, origin)) is not None]
        contexts += known
        if known:
            # The last token of a response is only a target.
            room = pl.min_horizontal(room, min(known) + 1 - prompt.list.len().cast(pl.Int64))
    if not contexts:
        return rollouts
    wanted = pl.col("response_token_ids").list.len().cast(pl.Int64)
    if max_response_tokens is not None:
        wanted = pl.min_horizontal(wanted, max_response_tokens)
    table = check_rollouts(rollouts.table, "rollouts").with_columns(
        _room=room, _long=(wanted > room) & (wanted > 0)
    )
    long = table.filter("_long")
    if long.is_empty():
        return rollouts
    gone = pl.col("_long") if overlong == "skip" else pl.col("_long") & (pl.col("_room") < 1)
    kept = table.filter(~gone)
    if kept.is_empty():
        raise RolloutError(
            f"rollouts: all {table.height:,} are longer than a context of {min(contexts):,} "
            "tokens; expected some that fit"
        )
    cut = kept.filter("_long").height
    told = {
        "context": min(contexts),
        "left_out": table.height - kept.height,
        "cut": cut,
        "first": long["rollout_id"].head(_NAMED).to_list(),
    }
    report = {**rollouts.report, "overlong": told}
    return Rollouts(_renumbered(_cut(kept)), report)


def overlong_line(report: Mapping[str, Any]) -> str | None:
    """Say how many rollouts did not fit into a context, and which; None where all did."""
    told = report.get("overlong")
    if not told:
        return None
    what = [
        f"{told[key]:,} {words}"
        for key, words in (("left_out", "left out"), ("cut", "cut"))
        if told[key]
    ]
    first = ", ".join(told["first"])
    return f"longer than a context of {told['context']:,} tokens: {', '.join(what)}; first {first}"


def _context_before_loading(name: str, origin: Origin) -> int | None:
    """Read the context of a model from its config, None where that cannot be had or told."""
    from transformers import AutoConfig

    try:
        check_model_folder(name)
        source = base_of_adapter(name) or name
        config = AutoConfig.from_pretrained(source, **origin, **hub_options(source))
    except Exception:  # of whatever kind: loading the model says what is wrong
        return None
    return context_of(config)


def _cut(kept: pl.DataFrame) -> pl.DataFrame:
    room = pl.col("_room").clip(0).cast(pl.UInt32)
    return kept.with_columns(
        pl.when("_long").then(pl.col(name).list.head(room)).otherwise(name).alias(name)
        for name in _PER_TOKEN
    ).drop("_room", "_long")


def _renumbered(table: pl.DataFrame) -> pl.DataFrame:
    halves = prompt_halves(table["prompt_id"])
    place = pl.int_range(pl.len(), dtype=pl.UInt32)
    return table.with_columns(
        rollout=place,
        half=pl.col("prompt_id").replace_strict(halves, return_dtype=pl.UInt8),
        sample=place.over("prompt_id", "policy", "step"),
    )
