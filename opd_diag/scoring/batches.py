"""Which rollouts are scored together: parts of the run, and batches inside a part."""

import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from opd_diag.scoring.models import LanguageModel

_MOST_TOKENS = {"cpu": 8_192, "cuda": 65_536}
_FEWEST_TOKENS = 512
_ENOUGH_TOKENS = 8_192  # taken to keep a device busy: larger batches must not cost padding
_LIKE = 0.9
_SHARE_OF_FREE_MEMORY = 0.25


class Part(NamedTuple):
    """Whole rollouts with consecutive numbers.

    Attributes:
        start: First rollout.
        stop: One past the last rollout.
        rows: Number of response tokens that are scored.
    """

    start: int
    stop: int
    rows: int


@dataclass(frozen=True)
class Ragged:
    """Lists of token ids, one after the other.

    Attributes:
        values: All ids, int32.
        offsets: Where each list starts, and where the last one ends. Shape (lists + 1,), int64.
    """

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __getitem__(self, number: int) -> NDArray[np.int32]:
        return self.values[self.offsets[number] : self.offsets[number + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of every list."""
        return np.diff(self.offsets)


class Sequences(NamedTuple):
    """What the models read.

    Attributes:
        prompts: Prompt of every rollout for the students.
        teacher_prompts: Prompt of every rollout for the teacher.
        responses: Response of every rollout, cut to what is scored.
    """

    prompts: Ragged
    teacher_prompts: Ragged
    responses: Ragged

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens that the longer of both models' inputs has. Shape (rollouts,)."""
        prompts = np.maximum(self.prompts.lengths, self.teacher_prompts.lengths)
        # The last token of a response is only a target.
        return prompts + self.responses.lengths - 1


def ragged(lists: pl.Series) -> Ragged:
    """Turn a column of lists into one array."""
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum(lists.list.len().to_numpy(), out=offsets[1:])
    return Ragged(lists.list.explode(empty_as_null=False).to_numpy(), offsets)


def sequences(table: pl.DataFrame, max_response_tokens: int | None = None) -> Sequences:
    """Take what the models read from a rollouts table.

    Args:
        table: Rollouts.
        max_response_tokens: Only so many tokens of each response are scored.
    """
    responses = table["response_token_ids"]
    if max_response_tokens is not None:
        responses = responses.list.head(max_response_tokens)
    teacher = table.select(pl.coalesce("teacher_prompt_token_ids", "prompt_token_ids")).to_series()
    return Sequences(ragged(table["prompt_token_ids"]), ragged(teacher), ragged(responses))


def plan_parts(tokens: NDArray[np.int64], part_tokens: int) -> list[Part]:
    """Cut rollouts into parts of about `part_tokens` response tokens.

    Args:
        tokens: Response tokens of every rollout, at least one in all. Shape (rollouts,).
        part_tokens: A rollout that starts beyond the n-th multiple of it opens a new part.
    """
    # Empty responses at the end go with the rollout before them, so that every part has rows.
    before = np.cumsum(tokens) - tokens
    before = np.minimum(before, before[np.flatnonzero(tokens)[-1]])
    starts = np.unique(before // part_tokens, return_index=True)[1]
    stops = np.append(starts[1:], len(tokens))
    rows = np.add.reduceat(tokens, starts)
    return [Part(*map(int, part)) for part in zip(starts, stops, rows, strict=True)]


def plan_batches(lengths: NDArray[np.int64], batch_tokens: int) -> list[NDArray[np.int64]]:
    """Group sequences of like length, longest first.

    A batch of 8,192 tokens or more takes only sequences of at least 0.9 of its longest one.

    Args:
        lengths: Number of tokens of each sequence. Shape (n,).
        batch_tokens: Most tokens of a batch, padding counted; a longer sequence goes alone.

    Returns:
        Indices of the sequences of each batch.
    """
    order = np.argsort(-lengths, kind="stable")
    falling = -lengths[order]
    batches = []
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        like = int(np.searchsorted(falling, -_LIKE * longest, side="right")) - start
        size = min(max(1, batch_tokens // longest), max(like, -(-_ENOUGH_TOKENS // longest)))
        batches.append(order[start : start + size])
        start += size
    return batches


def default_batch_tokens(models: list[LanguageModel], free: int | None = None) -> int:
    """Size a batch from the free memory of the device that the first model is on.

    Args:
        models: The models that run on a batch.
        free: Free bytes; asked of the device by default.
    """
    device = models[0].model.device
    if free is None:
        free = free_memory(device)
    # While a layer runs, a token needs a few hidden states and the inner activations of the MLP;
    # the final hidden states of all models stay.
    per_token = sum(4 * model.hidden for model in models) + max(
        model.model.dtype.itemsize * (12 * model.hidden + 3 * _inner_width(model))
        for model in models
    )
    most = _MOST_TOKENS.get(device.type, _MOST_TOKENS["cpu"])
    return int(np.clip(_SHARE_OF_FREE_MEMORY * free / per_token, _FEWEST_TOKENS, most))


def _inner_width(model: LanguageModel) -> int:
    inner = getattr(model.model.config.get_text_config(), "intermediate_size", None)
    return inner if isinstance(inner, int) else 4 * model.hidden


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a GPU, or half of the machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return total_memory(device) // 2


def total_memory(device: torch.device) -> int:
    """Return the bytes of a GPU, or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def chunk_rows(ids: int, device: str) -> int:
    """Return how many rows go through the output heads at a time.

    It depends on nothing but the vocabulary and the kind of device, so that a run that goes on
    elsewhere multiplies the same matrices.
    """
    most = 2**28 if torch.device(device).type == "cuda" else 2**24
    return int(np.clip(most // ids, 256, 1024))
