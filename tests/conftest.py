"""Fixtures that several parts share."""

import os
import shutil

# Before the first import of tokenizers: its threads and forked test processes do not mix.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Small products gain nothing from threads, and on a busy machine lose a factor of ten.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Before the first import of triton: without a GPU its kernels are interpreted.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from opd_diag.tables.columns.rollouts import ROLLOUTS
from opd_diag.tables.rollouts import Rollouts
from opd_diag.tables.schema import polars_schema

# A slow machine is no fault; `make fuzz` looks at other examples every time, the suite does not.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize="OPD_DIAG_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")

CORPUS = [
    "The answer is 12. Then we add 3 + 4 = 7, and so on.",
    "Let us think step by step.\n\nFirst, a naïve café. 中文 text, привет, 👩‍🔬!",
    "def f(x):\n    return x ** 2  # e.g. a function",
]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)

TEACHER_WIDTH, STUDENT_WIDTH = 352, 336  # padded differently over the same ids

Save = Callable[..., str]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run tests that take minutes, too")
    parser.addoption("--real-model", metavar="PATH", help="run tests of a pretrained model, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for marker in ("slow", "real_model"):
            if item.get_closest_marker(marker) and not config.getoption(marker):
                option = f"--{marker.replace('_', '-')}"
                item.add_marker(pytest.mark.skip(reason=f"runs with {option}"))


@pytest.fixture(scope="session")
def real_model(pytestconfig: pytest.Config) -> str:
    """Folder of a pretrained model, from --real-model."""
    return str(pytestconfig.getoption("real_model"))


def _train_bpe(corpus: list[str] | None = None, size: int = 320) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with three special tokens and one added token that is none."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|pad|>", "<|start|>", "<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(corpus or CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|start|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens(["<think>"])
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="session")
def train_bpe():
    """The function that trains a tiny byte-level BPE, on a corpus of one's own or the usual one."""
    return _train_bpe


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with a chat template; specials <|pad|> 0, <|start|> 1, <|end|> 2."""
    return _train_bpe()


@pytest.fixture(scope="session")
def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """A SentencePiece-like tokenizer: ▁ for a space, <0xNN> for bytes outside the vocabulary."""
    letters = "▁abcdefghijklmnopqrstuvwxyzT."
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    raw = Tokenizer(
        models.BPE(
            vocab={piece: n for n, piece in enumerate([*pieces, "▁t", "▁th"])},
            merges=[("▁", "t"), ("▁t", "h")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


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


def rollouts_of(prompts: list[list[int]], responses: list[list[int]], **columns: Any) -> Rollouts:
    """Make rollouts from lists of ids, each of its own prompt; the halves take turns."""
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


@pytest.fixture(scope="session")
def make_rollouts() -> Callable[..., Rollouts]:
    """The function `rollouts_of`."""
    return rollouts_of
