"""Read the tokens in the loss, whole rollouts at a time: memory does not grow with the run."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.errors import OptionError
from opd_diag.tables.source import Source
from opd_diag.text.segments import segment_responses, segmenter_spec

Integers: TypeAlias = npt.NDArray[np.int64]

BATCH_TOKENS = 2_000_000


def token_batches(
    source: Source, checkpoint: str, rollouts: pl.DataFrame, columns: Sequence[pl.Expr | str]
) -> Iterator[pl.DataFrame]:
    """Give the tokens in the loss, batch by batch.

    Args:
        source: Where they come from.
        checkpoint: Name of the checkpoint.
        rollouts: The rollouts wanted, sorted by `rollout`.
        columns: What is wanted beside the keys.

    Yields:
        row (index into `rollouts`), position, index (0-based among the rollout's tokens in the
        loss), n_tokens (number of these), and the columns. Sorted by (row, position).
    """
    tokens = source.tokens(checkpoint)
    wanted = rollouts.select("rollout").with_row_index("row")
    sizes = tokens.group_by("rollout").len().collect()
    sizes = wanted.join(sizes, on="rollout", how="inner", maintain_order="left")
    batch = (sizes["len"].cum_sum() - 1) // BATCH_TOKENS
    for part in sizes.with_columns(batch=batch).partition_by("batch", maintain_order=True):
        ours = pl.col("rollout").is_between(part["rollout"][0], part["rollout"][-1])
        frame = (
            tokens.filter(ours & pl.col("in_loss"))
            .select("rollout", "position", *columns)
            .collect()
            .join(part.select("rollout", "row"), on="rollout", how="inner", maintain_order="left")
        )
        key = frame["row"].to_numpy().astype(np.int64) << 32 | frame["position"].to_numpy()
        if (key[1:] < key[:-1]).any():
            frame = frame[np.argsort(key, kind="stable")]
        rows = frame["row"].to_numpy()
        starts = run_starts(rows)
        n = np.diff(np.append(starts, len(rows)))
        yield frame.with_columns(
            index=np.arange(len(rows)) - np.repeat(starts, n), n_tokens=np.repeat(n, n)
        )


def run_starts(*keys: npt.NDArray[np.generic]) -> Integers:
    """Find where a run of equal keys starts. Shape (runs,)."""
    new = np.zeros(len(keys[0]), np.bool_)
    new[:1] = True
    for key in keys:
        new[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(new)


def segments_again(
    rollouts: pl.DataFrame, vocabulary: pl.DataFrame | None, segmenter: str
) -> tuple[Integers, Integers]:
    """Segment the responses by another segmenter than the one the tokens were stored with.

    Returns:
        Segment numbers of all response tokens, one response after the other, and where each
        response starts in them.

    Raises:
        OptionError: If there is no such segmenter, or it reads text and there is no vocabulary.
    """
    try:
        segmenter_spec(segmenter)
    except ValueError as error:
        raise OptionError(str(error)) from None
    spelled: list[bytes] = []
    special = np.zeros(0, np.bool_)
    if vocabulary is not None:
        spelled, special = vocabulary["bytes"].to_list(), vocabulary["is_special"].to_numpy()
    elif not segmenter.startswith("block:"):
        raise OptionError(f"segmenter: {segmenter!r} reads text; expected a run with a vocabulary")
    responses = [np.asarray(ids, np.int64) for ids in rollouts["response_token_ids"]]
    parts = segment_responses(responses, spelled, special, segmenter=segmenter)
    sizes = np.array([len(part) for part in parts], np.int64)
    flat = np.concatenate([*parts, np.zeros(0, np.uint32)]).astype(np.int64)
    return flat, np.cumsum(sizes) - sizes
