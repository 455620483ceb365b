"""Rollouts for the tiny models."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from opd_diag.tables.rollouts import Rollouts
from tests.scoring.threads import torch_threads


@pytest.fixture(scope="session")
def rollouts(make_rollouts: Callable[..., Rollouts], ids: int) -> Rollouts:
    """Nine rollouts of different lengths, one of them empty, one with another teacher prompt."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, ids, rng.integers(1, 9)).tolist() for _ in range(9)]
    lengths = [40, 1, 0, 17, 25, 3, 33, 12, 8]
    responses = [rng.integers(3, ids, length).tolist() for length in lengths]
    responses[6] = (responses[6][:7] * 5)[:33]
    teacher_prompts = [None] * 9
    teacher_prompts[3] = rng.integers(3, ids, 11).tolist()
    masks = [None] * 9
    masks[4] = (rng.random(25) < 0.5).tolist()
    return make_rollouts(
        prompts, responses, teacher_prompt_token_ids=teacher_prompts, loss_mask=masks
    )


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Calculate with as many threads as each of two workers has."""
    with torch_threads(1):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"
