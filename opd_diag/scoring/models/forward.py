"""A model ready for scoring: its hidden states of response tokens, and a check of its head."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opd_diag.errors import ModelError
from opd_diag.scoring.models.heads import Head
from opd_diag.scoring.token_lists import Ragged

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Largest difference, in units of the largest logit, between our logits and the model's own,
# which are rounded to its dtype.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class HeadOnly:
    """What stands for a model of which only norm and head are here.

    Attributes:
        config: The model's config.
        dtype: Dtype of the hidden states.
        device: Where the norm is.
        size: Bytes of norm and head.
    """

    config: Any
    dtype: torch.dtype
    device: torch.device
    size: int

    def get_memory_footprint(self) -> int:
        """Return the bytes of norm and head."""
        return self.size


@dataclass(frozen=True)
class LanguageModel:
    """A model ready for scoring.

    Attributes:
        name: Folder or hub id.
        model: The whole model, or what stands for it where only norm and head are here.
        body: What turns ids into final hidden states; of norm and head alone the norm, or nothing.
        head: The whole output head, on the device where logits are compared.
    """

    name: str
    model: "PreTrainedModel"
    body: torch.nn.Module
    head: Head

    @property
    def width(self) -> int:
        """Number of logits, padding ids included."""
        return len(self.head.weight)

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""
        return int(self.head.weight.shape[1])

    @property
    def state_bytes(self) -> int:
        """Bytes of the hidden state of one token."""
        return int(self.hidden * self.model.dtype.itemsize)

    def hidden_states(self, ids: Tensor) -> Tensor:
        """Run the body. Shape (batch, tokens) -> (batch, tokens, hidden).

        Neither a mask nor positions are given: attention is causal and rows start at the left, so
        that no real token sees the padding after it, and no mask has to be held in memory.
        """
        ids = ids.to(self.model.device)
        states: Tensor = self.body(input_ids=ids, use_cache=False).last_hidden_state
        return states


def response_states(
    model: LanguageModel, prompts: Ragged, responses: Ragged, rollouts: Sequence[int]
) -> Tensor:
    """Compute the hidden states that predict the tokens of some responses.

    The row of a response token is the model's output at the token before it.

    Args:
        model: The model.
        prompts: Prompts of all rollouts.
        responses: Responses of all rollouts, as far as they are scored.
        rollouts: Which to run, in one batch.

    Returns:
        One row per response token, rollout after rollout, on the device of the model's head.
        Shape (rows, hidden).
    """
    inputs = [np.concatenate((prompts[i], responses[i][:-1])) for i in rollouts]
    width = max(map(len, inputs))
    ids = np.zeros((len(inputs), width), np.int64)
    wanted: list[NDArray[np.int64]] = []
    for number, (rollout, row) in enumerate(zip(rollouts, inputs, strict=True)):
        ids[number, : len(row)] = row
        first = number * width + len(prompts[rollout]) - 1
        wanted.append(np.arange(first, first + len(responses[rollout])))
    states = model.hidden_states(torch.from_numpy(ids)).flatten(0, 1)
    rows = torch.from_numpy(np.concatenate(wanted)).to(states.device)
    return states[rows].to(model.head.weight.device)


@torch.inference_mode()
def through_norm(model: LanguageModel, states: Tensor) -> Tensor:
    """Take given hidden states through the norm of a model whose layers are not here.

    Args:
        model: Norm and head.
        states: As they were written. Shape (rows, hidden).

    Returns:
        In the dtype of the model, on the device of its head. Shape (rows, hidden).
    """
    states = states.to(device=model.model.device, dtype=model.model.dtype)
    normed: Tensor = model.body(states)
    return normed.to(model.head.weight.device)


@torch.inference_mode()
def verify_head(model: LanguageModel, ids: Tensor) -> float:
    """Compare the logits of our head with the model's own.

    Args:
        model: The model.
        ids: A few tokens of a real sequence. Shape (tokens,).

    Returns:
        The largest difference, over logits that are finite on both sides; 0 if none is.

    Raises:
        ModelError: If they differ by more than the rounding of the model's dtype, or that is none
            of float32, bfloat16 and float16.
    """
    ids = ids[None]
    own = model.model(input_ids=ids.to(model.model.device), use_cache=False).logits[0]
    tolerance = _TOLERANCE.get(own.dtype)
    if tolerance is None:
        raise ModelError(
            f"{model.name}: logits in {str(own.dtype).removeprefix('torch.')}; expected float32, "
            "bfloat16 or float16 (dtype, --dtype)"
        )
    ours = model.head.logits(model.hidden_states(ids)[0].to(model.head.weight.device))
    size = min(own.shape[1], ours.shape[1])
    own, ours = own[:, :size].to(device=ours.device), ours[:, :size]
    finite = own.isfinite() & ours.isfinite()
    if not finite.any():
        return 0.0
    difference = float((ours - own.float())[finite].abs().max())
    largest = float(own[finite].float().abs().max())
    if difference > tolerance * max(largest, 1.0):
        raise ModelError(
            f"{model.name}: logits differ from the model's own by up to {difference:.3g}; expected "
            "an output head made of a weight, a bias, a scale and a soft cap"
        )
    return difference


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that a batch does not fit into memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The allocator of the CPU raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
