"""The rollouts table, out of checked rollouts and their token ids."""

from collections import Counter, defaultdict
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

_FROM_DUMP = (
    *("step", "policy", "sampled_logp", "finish_reason"),
    *("reward", "correct", "source", "source_row"),
    *("answer", "group", "trained"),
    *("trainer_teacher_logp", "trainer_top_id", "trainer_top_mass"),
)


def to_table(
    rollouts: Sequence[RawRollout], encoded: Encoded
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Make the rollouts table.

    Returns:
        The table, and counts of the prompt ids that do not stand for one prompt each.

    Raises:
        RolloutError: If two rollouts have one id.
    """
    prompt_ids, counts = cluster_prompts([r.prompt_id for r in rollouts], encoded.prompts)
    halves = prompt_halves(prompt_ids)
    schema = polars_schema(ROLLOUTS)
    data: dict[str, Sequence[Any]] = {
        "rollout": range(len(rollouts)),
        "rollout_id": _rollout_ids(rollouts),
        "prompt_id": prompt_ids,
        "half": [halves[prompt_id] for prompt_id in prompt_ids],
        "prompt_token_ids": encoded.prompts,
        "response_token_ids": encoded.responses,
        "teacher_prompt_token_ids": encoded.teacher_prompts,
        "loss_mask": encoded.loss_masks,
        "token_exact": encoded.token_exact,
        **{name: [getattr(rollout, name) for rollout in rollouts] for name in _FROM_DUMP},
    }
    frame = pl.DataFrame([_column(name, values, schema[name]) for name, values in data.items()])
    group = ("prompt_id", "policy", "step")
    frame = frame.with_columns(sample=pl.int_range(pl.len(), dtype=pl.UInt32).over(group))
    return check_table(frame, ROLLOUTS, "rollouts"), counts


def repeated_rollouts(rollouts: Sequence[RawRollout], encoded: Encoded) -> list[tuple[str, str]]:
    """Find the rollouts that an earlier file has too, as where a file was copied.

    They have the same id, or none, and the same step and token ids. Equal ones of one file are
    samples that came out alike.

    Returns:
        Where each of them stands, and where the earlier one does: `file:line`.
    """
    first: dict[tuple[object, ...], RawRollout] = {}
    pairs = []
    for rollout, *ids in zip(rollouts, encoded.prompts, encoded.responses, strict=True):
        key = (rollout.rollout_id, rollout.step, *map(_hash, ids))
        earlier = first.setdefault(key, rollout)
        if earlier.source != rollout.source:
            pairs.append((_place(rollout), _place(earlier)))
    return pairs


def _place(rollout: RawRollout) -> str:
    return f"{rollout.source}:{rollout.source_row}"


def cluster_prompts(
    told: Sequence[str | None], prompts: Sequence[Ids]
) -> tuple[list[str], dict[str, int]]:
    """Give every prompt one id: the dump's own, unless it gives one prompt several.

    Prompt ids are the clusters of every interval and the halves of every cross-check, so rollouts
    of one prompt must share one. Ids that stand for the same token ids become the first of them.
    An id that stands for several prompts is left as it is: it makes intervals wider, not wrong.

    Args:
        told: The dump's prompt ids, None where it has none.
        prompts: Token ids of the prompts.

    Returns:
        The prompt ids, and counts: `merged` ids of the dump that became another's, `shared` ids
        that stand for several prompts.
    """
    hashes = [_hash(ids) for ids in prompts]
    names = [
        name if name is not None else digest for name, digest in zip(told, hashes, strict=True)
    ]
    leader: dict[str, str] = {}

    def first_of(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    first_with: dict[str, str] = {}
    for name, digest in zip(names, hashes, strict=True):
        first = first_of(first_with.setdefault(digest, name))
        own = first_of(name)
        if own != first:
            leader[own] = first
    by_name: defaultdict[str, set[str]] = defaultdict(set)
    for name, digest in zip(names, hashes, strict=True):
        by_name[name].add(digest)
    counts = {
        "merged": sum(first_of(name) != name for name in set(told) if name is not None),
        "shared": sum(len(digests) > 1 for digests in by_name.values()),
    }
    return [first_of(name) for name in names], counts


def _column(name: str, values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    if isinstance(dtype, pl.List):
        # Arrays of equal length would become a column of fixed width.
        values = [None if value is None else _series(value) for value in values]
    return pl.Series(name, values, dtype=dtype)


def _series(values: Any) -> pl.Series:
    series = pl.Series(values)
    return series.fill_nan(None) if series.dtype.is_float() else series


def _hash(ids: Ids) -> str:
    return blake2b(ids.astype("<i4").tobytes(), digest_size=8).hexdigest()


def _rollout_ids(rollouts: Sequence[RawRollout]) -> list[str]:
    """Take the dump's ids, with their file where several files use one; make those it lacks.

    Raises:
        RolloutError: If an id comes twice in a file.
    """
    files = {rollout.source for rollout in rollouts}
    names = Counter(PurePath(file).name for file in files)
    short = {
        file: PurePath(file).name if names[PurePath(file).name] == 1 else file for file in files
    }
    of_file = {(r.rollout_id, r.source) for r in rollouts if r.rollout_id is not None}
    in_several = len({name for name, _ in of_file}) < len(of_file)
    made = []
    first: dict[str, str] = {}
    doubled = []
    for rollout in rollouts:
        file = short[rollout.source]
        place = f"{file}:{rollout.source_row}"
        part = "" if rollout.part is None else f".{rollout.part}"
        name = rollout.rollout_id
        rollout_id = place + part
        if name is not None:
            rollout_id = f"{file}:{name}" if in_several else name
        if rollout_id in first:
            doubled.append(f"{place}: id {name or rollout_id!r} is that of {first[rollout_id]} too")
        first.setdefault(rollout_id, place)
        made.append(rollout_id)
    if doubled:
        raise RolloutError(
            faults("rollouts", [f"{fault}; expected unique ids" for fault in doubled])
        )
    return made
