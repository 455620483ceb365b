"""Cut rollouts into segments, and score each by the margins of its tokens."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.errors import OptionError
from opd_diag.stats.ragged import run_lengths, run_starts, starts_of
from opd_diag.tables.rollouts import SHORTEST_TURN
from opd_diag.tables.source import Source, vocabulary
from opd_diag.text.segments import segment_responses, segmenter_spec

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]


class Segments(NamedTuple):
    """Segments with a scored token in the loss, by rollout and place.

    Attributes:
        lengths: Segments of each rollout. Shape (rollouts,).
        score: log(1 + mean margin), one column for each K. Shape (segments, K).
        tokens: Tokens in the loss. Shape (segments,).
        position: Position of the first of them in the response.
        before: The rollout's tokens in the loss before it.
        spans: Segments of each unbroken span of the rollouts, which ends where others' text
            stands, in order. Shape (spans,).
        owner: Rollout of each span. Shape (spans,).
    """

    lengths: Integers
    score: Floats
    tokens: Integers
    position: Integers
    before: Integers
    spans: Integers
    owner: Integers

    def only(self, place: int, rollouts: npt.NDArray[np.bool_]) -> "Segments":
        """Keep the scores of one K and of some rollouts."""
        inside = np.repeat(rollouts, self.lengths)
        own = rollouts[self.owner]
        number = np.cumsum(rollouts) - 1
        return Segments(
            self.lengths[rollouts],
            self.score[inside, place : place + 1],
            self.tokens[inside],
            self.position[inside],
            self.before[inside],
            self.spans[own],
            number[self.owner[own]],
        )

    def by_span(self) -> "Segments":
        """Take every span for a rollout of its own."""
        return self._replace(lengths=self.spans, owner=np.arange(self.spans.size))


class Segmentation(NamedTuple):
    """Segments of whole responses, cut anew.

    Attributes:
        number: Segment of each response token, one response after the other.
        start: Where each response starts in them.
    """

    number: Integers
    start: Integers


def segmentation(source: Source, rollouts: pl.DataFrame, segmenter: str) -> Segmentation | None:
    """Cut the responses by a segmenter; None for `punkt`, by which the tokens were stored.

    Raises:
        OptionError: If there is no such segmenter, or it reads text and there is no vocabulary.
    """
    if segmenter == "punkt":
        return None
    return cut_again(rollouts, vocabulary(source), segmenter)


def cut_again(
    rollouts: pl.DataFrame, vocabulary: pl.DataFrame | None, segmenter: str
) -> Segmentation:
    """Cut the responses by another segmenter than the one the tokens were stored with.

    Raises:
        OptionError: If there is no such segmenter, or it reads text and there is no vocabulary.
    """
    segmenter_spec(segmenter)
    spelled: list[bytes] = []
    special = np.zeros(0, np.bool_)
    if vocabulary is not None:
        spelled, special = vocabulary["bytes"].to_list(), vocabulary["is_special"].to_numpy()
    elif not segmenter.startswith("block:"):
        raise OptionError(f"segmenter: {segmenter!r} reads text; expected a run with a vocabulary")
    responses = [np.asarray(ids, np.int64) for ids in rollouts["response_token_ids"]]
    masks = None
    if "loss_mask" in rollouts.columns and rollouts["loss_mask"].null_count() < rollouts.height:
        masks = [None if mask is None else mask.to_numpy() for mask in rollouts["loss_mask"]]
    parts = segment_responses(responses, spelled, special, segmenter=segmenter, inside=masks)
    flat = np.concatenate([*parts, np.zeros(0, np.uint32)]).astype(np.int64)
    return Segmentation(flat, starts_of([len(part) for part in parts]))


def batch_segments(
    batch: pl.DataFrame, k_grid: Sequence[int], cut: Segmentation | None
) -> tuple[Segments, pl.DataFrame]:
    """Score the segments of a batch of tokens.

    Args:
        batch: Tokens with row, position, index, n_tokens, segment and the margin of each K.
        k_grid: The K of the margins.
        cut: Segments to use instead of those stored.

    Returns:
        The segments, and `row` and `n_tokens` of their rollouts in the same order.
    """
    row = batch["row"].to_numpy().astype(np.int64)
    position = batch["position"].to_numpy().astype(np.int64)
    if cut is None:
        segment = batch["segment"].to_numpy().astype(np.int64)
    else:
        segment = cut.number[cut.start[row] + position]
    margins = batch.select(f"margin_{k}" for k in k_grid).fill_null(float("nan")).to_numpy()
    starts = run_starts(row)
    local = np.repeat(np.arange(len(starts)), run_lengths(starts, len(row)))
    before = batch["index"].to_numpy()
    segments = score_segments(
        local, segment, position, before, margins.astype(np.float64), len(starts)
    )
    return segments, batch.select("row", "n_tokens")[starts]


def score_segments(
    row: Integers,
    segment: Integers,
    position: Integers,
    before: Integers,
    margins: Floats,
    rows: int,
) -> Segments:
    """Average margins over segments; a segment without any margin is left out.

    Args:
        row: Rollout of each token, rising, below `rows`. Shape (tokens,).
        segment: Its segment.
        position: Its position in the response.
        before: Tokens in the loss before it in its rollout.
        margins: Its margin for each K in nat, NaN where not measured. Shape (tokens, K).
        rows: Number of rollouts.

    Source: arXiv 2605.13643, segment score with K = 4: log1p after the mean.
    """
    if not len(row):
        empty = np.zeros(0, np.int64)
        no_scores = np.zeros((0, margins.shape[1]))
        nothing = np.zeros(rows, np.int64)
        return Segments(nothing, no_scores, empty, empty, empty, nothing, np.arange(rows))
    # Others' text between two tokens ends a span, and a segment with it.
    span = np.cumsum(np.append(True, (np.diff(row) != 0) | (np.diff(position) > SHORTEST_TURN))) - 1
    starts = run_starts(row, segment, span)
    size = run_lengths(starts, len(row))
    measured = np.logical_and.reduce(np.isfinite(margins), axis=1)
    if measured.all():
        known = size
        total = np.add.reduceat(margins, starts, axis=0)
    else:
        known = np.add.reduceat(measured.astype(np.int64), starts)
        total = np.add.reduceat(np.where(measured[:, None], margins, 0), starts, axis=0)
    kept = np.flatnonzero(known)
    return Segments(
        np.bincount(row[starts[kept]], minlength=rows),
        np.log1p(total[kept] / known[kept, None]),
        size[kept],
        position[starts[kept]],
        before[starts[kept]],
        np.bincount(span[starts[kept]], minlength=int(span[-1]) + 1),
        row[run_starts(span)],
    )
