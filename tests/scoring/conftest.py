"""Tiny models over the tiny tokenizer, and rollouts for them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from opd_diag.tables.columns.rollouts import ROLLOUTS
from opd_diag.tables.rollouts import Rollouts
from opd_diag.tables.schema import polars_schema

TEACHER_WIDTH, STUDENT_WIDTH = 352, 336  # padded differently over the same ids

Save = Callable[..., str]


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> Iterator[None]:
    """One thread, no progress bars, and a digest cache of our own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def ids(tiny_tokenizer: PreTrainedTokenizerFast) -> int:
    """The number of decodable ids."""
    return len(tiny_tokenizer)


@pytest.fixture(scope="session")
def save_model(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Save:
    """Save a model with the tiny tokenizer, and return the folder."""

    def save(model: Any, name: str = "model") -> str:
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return str(folder)

    return save


def build(width: int, seed: int, hidden: int) -> Qwen3ForCausalLM:
    """A random Qwen3 model whose logits are sharp enough to be interesting."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=width,
        hidden_size=hidden,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.3,
    )
    return Qwen3ForCausalLM(config)


@pytest.fixture(scope="session")
def teacher(save_model: Save) -> str:
    return save_model(build(TEACHER_WIDTH, 1, 48), "teacher")


@pytest.fixture(scope="session")
def student(save_model: Save) -> str:
    return save_model(build(STUDENT_WIDTH, 2, 32), "student")


@pytest.fixture(scope="session")
def later(save_model: Save) -> str:
    """Another checkpoint of the student."""
    model = build(STUDENT_WIDTH, 2, 32)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return save_model(model, "later")


@pytest.fixture(scope="session")
def make_rollouts() -> Callable[..., Rollouts]:
    """Make rollouts from lists of ids; the halves take turns."""

    def make(prompts: list[list[int]], responses: list[list[int]], **columns: Any) -> Rollouts:
        n = len(prompts)
        base = {
            "rollout": range(n),
            "rollout_id": [f"r{i}" for i in range(n)],
            "prompt_id": [f"p{i}" for i in range(n)],
            "half": [i % 2 for i in range(n)],
            "sample": [0] * n,
            "prompt_token_ids": prompts,
            "response_token_ids": responses,
            "token_exact": [True] * n,
            "source": ["made.jsonl"] * n,
            "source_row": range(1, n + 1),
        }
        schema = polars_schema(ROLLOUTS)
        absent = {name: [None] * n for name in schema if name not in base}
        table = pl.DataFrame({**base, **absent, **columns}, schema=schema)
        return Rollouts(table, {"source": "made"})

    return make


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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"
