"""Forward passes: the final hidden states of response tokens, and nothing else."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opd_diag.scoring.batches import Ragged
from opd_diag.scoring.models import LanguageModel


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


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that a batch does not fit into memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The allocator of the CPU raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
