"""The rollouts table, out of checked rollouts and their token ids."""

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import PurePath
from typing import Any

import polars as pl

from opd_diag.errors import RolloutError, faults
from opd_diag.rollouts.encode import Encoded
from opd_diag.rollouts.raw_rollout import Ids, RawRollout
from opd_diag.tables.columns.rollouts import ROLLOUTS
from opd_diag.tables.rollouts import prompt_halves
from opd_diag.tables.schema import check_table, polars_schema


def to_table(records: Sequence[RawRollout], encoded: Encoded) -> pl.DataFrame:
    """Make the rollouts table.

    Raises:
        RolloutError: If two rollouts have one id.
    """
    prompt_ids = [
        record.prompt_id if record.prompt_id is not None else _hash(ids)
        for record, ids in zip(records, encoded.prompts, strict=True)
    ]
    halves = prompt_halves(prompt_ids)
    schema = polars_schema(ROLLOUTS)
    data: dict[str, Sequence[Any]] = {
        "rollout": range(len(records)),
        "rollout_id": _rollout_ids(records),
        "prompt_id": prompt_ids,
        "half": [halves[prompt_id] for prompt_id in prompt_ids],
        "prompt_token_ids": encoded.prompts,
        "response_token_ids": encoded.responses,
        "teacher_prompt_token_ids": encoded.teacher_prompts,
        "token_exact": encoded.token_exact,
    }
    for name in ("step", "policy", "loss_mask", "sampled_logp", "finish_reason", "reward"):
        data[name] = [getattr(record, name) for record in records]
    for name in ("correct", "source", "source_row"):
        data[name] = [getattr(record, name) for record in records]
    frame = pl.DataFrame([_column(name, values, schema[name]) for name, values in data.items()])
    group = ("prompt_id", "policy", "step")
    frame = frame.with_columns(sample=pl.int_range(pl.len(), dtype=pl.UInt32).over(group))
    return check_table(frame, ROLLOUTS, "rollouts")


def _column(name: str, values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    if isinstance(dtype, pl.List):
        # Arrays of equal length would become a column of fixed width.
        values = [None if value is None else pl.Series(value) for value in values]
    return pl.Series(name, values, dtype=dtype)


def _hash(ids: Ids) -> str:
    return blake2b(ids.astype("<i4").tobytes(), digest_size=8).hexdigest()


def _rollout_ids(records: Sequence[RawRollout]) -> list[str]:
    """Take the dump's ids; make the others of file and line, and refuse ids that come twice."""
    files = {record.source for record in records}
    names = Counter(PurePath(file).name for file in files)
    short = {
        file: PurePath(file).name if names[PurePath(file).name] == 1 else file for file in files
    }
    made = []
    first: dict[str, str] = {}
    doubled = []
    for record in records:
        place = f"{short[record.source]}:{record.source_row}"
        part = "" if record.part is None else f".{record.part}"
        rollout_id = record.rollout_id if record.rollout_id is not None else place + part
        if rollout_id in first:
            doubled.append(f"{place}: id {rollout_id!r} is that of {first[rollout_id]} too")
        first.setdefault(rollout_id, place)
        made.append(rollout_id)
    if doubled:
        raise RolloutError(
            faults("rollouts", [f"{fault}; expected unique ids" for fault in doubled])
        )
    return made
