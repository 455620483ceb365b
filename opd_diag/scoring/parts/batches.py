"""Which rollouts of a part are scored together, and what becomes of a batch that is too large."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from opd_diag.errors import ModelError
from opd_diag.scoring.models.forward import LanguageModel, is_out_of_memory

T = TypeVar("T")

_MOST_TOKENS = {"cpu": 8_192, "cuda": 65_536}
_FEWEST_TOKENS = 512
_ENOUGH_TOKENS = 8_192  # taken to keep a device busy: larger batches must not cost padding
_LIKE = 0.9
_SHARE_OF_FREE_MEMORY = 0.25


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
    """Return the free bytes of a GPU, or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def total_memory(device: torch.device) -> int:
    """Return the bytes of a GPU, or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return int(psutil.virtual_memory().total)


def with_smaller_batches(
    attempt: Callable[[int], T], size: int, longest: int, smaller: Callable[[int], None]
) -> T:
    """Call something with a size of batches, and with half of it whenever memory runs out.

    Args:
        attempt: Called with a number of tokens.
        size: Most tokens of a batch at first.
        longest: Tokens of the longest sequence: no batch can be smaller.
        smaller: Told the new size before the next attempt.

    Raises:
        ModelError: If one rollout does not fit into memory alone.
    """
    while True:
        try:
            return attempt(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size <= longest:
                raise ModelError(
                    f"rollouts: one of {longest} tokens does not fit into memory alone; "
                    "expected more memory, or fewer response tokens"
                ) from error
        size //= 2
        smaller(size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def chunk_rows(ids: int, device: str) -> int:
    """Return how many rows go through the output heads at a time.

    It depends on nothing but the vocabulary and the kind of device, so that a run that goes on
    elsewhere multiplies the same matrices.
    """
    most = 2**28 if torch.device(device).type == "cuda" else 2**24
    return int(np.clip(most // ids, 256, 1024))
