"""Input that is long, short, wide, empty, or no text."""

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from itertools import islice, product

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from opd_diag.analyses.agreement_traps import agreement_traps
from opd_diag.analyses.release_points import release_points
from opd_diag.analyses.rock_tokens import rock_tokens
from opd_diag.analyses.teachability import teachability
from opd_diag.datasets import null_run
from opd_diag.errors import RolloutError
from opd_diag.rollouts import read_rollouts
from opd_diag.scoring.models.heads import Head
from opd_diag.scoring.parts.batches import chunk_rows
from opd_diag.scoring.preflight.check import check
from opd_diag.scoring.score import score
from opd_diag.tables.columns import RESULTS
from opd_diag.tables.schema import check_table
from opd_diag.text.vocabulary import token_bytes
from tests.conftest import STUDENT_WIDTH, build
from tests.faults.conftest import make_rollouts


def assert_analyses_answer(run) -> None:
    """Run the four analyses; every table passes its schema."""
    for analysis in (release_points, agreement_traps, rock_tokens, teachability):
        for name, table in analysis(run)._asdict().items():
            check_table(table, RESULTS[name], name)


@pytest.fixture
def scored(teacher, student, later, tmp_path):
    """Score responses with the tiny models."""

    def with_responses(responses, **options):
        students = {"a": student, "b": later}
        made = make_rollouts(responses)
        return score(made, teacher=teacher, students=students, out=tmp_path / "run", **options)

    return with_responses


def test_responses_of_one_token_and_of_none(scored):
    run = scored([[9], [], [12], [], [40], [9]])
    table = run.tokens("a").collect()
    assert table["rollout"].to_list() == [0, 2, 4, 5]
    assert table["position"].sum() == 0
    assert_analyses_answer(run)


def test_text_of_every_kind(scored, tiny_tokenizer, ids):
    """Emoji joined by nothing, right-to-left, combining marks, zero width, and broken bytes."""
    texts = [
        "👩‍🔬🏳️‍🌈",
        "שלום עולם",
        "مرحبا ﷽ \u202eabc",
        "Z͑ͫ̓ͪ̂ͫ̽͏̴̙",
        "\u200b\u200d\ufeff",
        "\0\x1b[31m",
        "𒐫",
    ]
    responses = [tiny_tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    spelled = token_bytes(tiny_tokenizer)
    loose = [spelled.index(bytes([byte])) for byte in (0x80, 0xC3, 0xFF, 0xF0, 0x9F)]
    run = scored([*responses, loose, [0, 1, 2, 1, 0], [ids - 1] * 7])
    for number, text in enumerate(texts):
        tokens = run.tokens("a").filter(run.tokens("a").collect()["rollout"] == number).collect()
        found = b"".join(spelled[i] for i in tokens["token_id"])
        assert found.decode() == text
    vocab = run.vocab.filter(run.vocab["token_id"].is_in(loose))
    assert set(vocab["text"]) == {r"\x80", r"\xc3", r"\xff", r"\xf0", r"\x9f"}
    assert_analyses_answer(run)


def test_tokens_that_decode_to_nothing(scored, save_model, teacher, tiny_tokenizer, tmp_path):
    """Ids between the vocabulary and an added token have no piece: they spell nothing."""
    vocabulary = json.loads(tiny_tokenizer.backend_tokenizer.to_str())
    top = max(vocabulary["model"]["vocab"].values())
    letter = next(p for p, i in vocabulary["model"]["vocab"].items() if i == top)
    vocabulary["model"]["vocab"][letter] = top + 9
    vocabulary["added_tokens"] = [t for t in vocabulary["added_tokens"] if t["id"] <= top]
    gapped = deepcopy(tiny_tokenizer)
    gapped._tokenizer = Tokenizer.from_str(json.dumps(vocabulary))
    folders = []
    for name, seed in (("t", 1), ("a", 2), ("b", 3)):
        build(STUDENT_WIDTH, seed, 32).save_pretrained(tmp_path / name)
        gapped.save_pretrained(tmp_path / name)
        folders.append(str(tmp_path / name))
    assert token_bytes(gapped)[top] == b""
    made = make_rollouts([[top, top, 9, top], [top], [10, top + 9]])
    students = {"a": folders[1], "b": folders[2]}
    run = score(made, teacher=folders[0], students=students, out=tmp_path / "run")
    assert run.vocab.filter(run.vocab["text"] == "").height >= 8
    assert_analyses_answer(run)


@pytest.mark.parametrize("in_prompt", [True, False])
def test_rollouts_longer_than_a_context_are_refused_by_name(teacher, student, tmp_path, in_prompt):
    """The tiny models have 512 positions; the last token of a response is only a target."""
    long = [7] * 513
    prompts = [[5], long if in_prompt else [5], [5]]
    responses = [[6], [6] if in_prompt else long, [6]]
    made = make_rollouts(responses, prompt_token_ids=prompts)
    with pytest.raises(RolloutError, match=r"made\.jsonl:2: prompt of .* at most 512") as caught:
        score(
            made, teacher=teacher, students={"a": student}, out=tmp_path / "run", overlong="error"
        )
    assert "\n" not in str(caught.value)
    found = check(made, teacher=teacher, students=student, out=tmp_path, overlong="error")
    assert found[-1].level == "red"
    assert "at most 512" in found[-1].detail
    if not in_prompt:
        students = {"a": student}
        cut = score(
            made, teacher=teacher, students=students, out=tmp_path / "cut", max_response_tokens=512
        )
        assert cut.tokens("a").collect().height == 514


def test_a_context_that_is_stretched_counts(teacher, student, tmp_path):
    """YaRN: the config's positions are those before the stretch."""
    models_ = []
    for name, path in (("t", teacher), ("s", student)):
        shutil.copytree(path, tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        config["rope_parameters"] = {
            **config["rope_parameters"],
            "rope_type": "yarn",
            "factor": 2.0,
            "original_max_position_embeddings": 512,
        }
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        models_.append(str(tmp_path / name))
    made = make_rollouts([[7] * 1023])
    run = score(made, teacher=models_[0], students=models_[1], out=tmp_path / "run")
    assert run.tokens("s").collect().height == 1023
    with pytest.raises(RolloutError, match="all 1 are longer than a context of 1,024 tokens"):
        score(
            make_rollouts([[7] * 1030]),
            teacher=models_[0],
            students=models_[1],
            out=tmp_path / "other",
        )


def test_k_beyond_the_vocabulary_is_cut(scored, ids):
    run = scored([[9, 10, 11] * 9] * 4, k_grid=(2, 16, 10_000))
    assert run.k_grid == (2, 16)
    assert run.tokens("a").collect()["margin"].dtype.size == 2
    assert 16 < ids < 10_000


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Callable[[int], tuple[str, str]]:
    """Make a teacher and a student with so many ids and a context of 131,072 tokens."""

    def make(size: int) -> tuple[str, str]:
        signs = sorted(pre_tokenizers.ByteLevel.alphabet())
        words = ("".join(four) for four in product(signs, signs, signs[:30], signs[:30]))
        pieces = [*signs, *islice(words, size - len(signs))]
        vocab = {piece: number for number, piece in enumerate(pieces)}
        raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
        config = Qwen3Config(
            vocab_size=size,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=131_072,
            tie_word_embeddings=True,
            initializer_range=0.3,
        )
        folders = [str(tmp_path_factory.mktemp(name)) for name in ("teacher", "student")]
        for folder in folders:
            Qwen3ForCausalLM(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folders[0], folders[1]

    return make


@pytest.mark.parametrize("size", [70_000, pytest.param(250_000, marks=pytest.mark.slow)])
def test_a_large_vocabulary(wide, tmp_path, monkeypatch, size):
    """No more rows of logits exist at a time than a chunk has, however long the response."""
    plain, heights = Head.logits, []

    def logits(head, hidden, **options):
        heights.append(len(hidden))
        return plain(head, hidden, **options)

    monkeypatch.setattr(Head, "logits", logits)
    teacher, student = wide(size)
    made = make_rollouts([[size - 1, 0, size // 2] * 150])
    run = score(made, teacher=teacher, students={"s": student}, out=tmp_path / "run")
    assert run.tokens("s").collect().height == 450
    assert run.vocab.height == size
    assert max(heights) == chunk_rows(size, "cpu") == 256


LONG = """
import json, resource, sys
import torch
from opd_diag.rollouts import read_rollouts
from opd_diag.scoring.score import score

torch.set_num_threads(1)
dump, teacher, student, out = sys.argv[1:]
run = score(read_rollouts(dump), teacher=teacher, students={"s": student}, out=out)
assert run.tokens("s").collect().height == json.loads(open(dump).readline())["n"]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_is_flat_in_the_length_of_a_rollout(wide, tmp_path):
    """A hundred thousand tokens take little more than a thousand: never response x vocabulary."""
    peaks, models_ = {}, wide(30_000)
    for n in (2_000, 100_000):
        dump = tmp_path / f"{n}.jsonl"
        tokens = np.random.default_rng(n).integers(0, 30_000, n).tolist()
        row = {"prompt_token_ids": [1], "response_token_ids": tokens, "n": n}
        dump.write_text(json.dumps(row) + "\n")
        arguments = [sys.executable, "-c", LONG, dump, *models_, tmp_path / str(n)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        peaks[n] = 1024 * int(done.stdout)
    # 100,000 rows of 30,000 logits would be 12 GB for each model.
    assert peaks[100_000] - peaks[2_000] < 1e9


@pytest.mark.slow
def test_two_hundred_thousand_short_rollouts(tmp_path):
    """Reading takes memory in proportion; the analyses answer."""
    dump = tmp_path / "short.jsonl"
    rng = np.random.default_rng(0)
    with dump.open("w") as lines:
        for number, tokens in enumerate(rng.integers(3, 300, (200_000, 5)).tolist()):
            row = {"prompt_id": f"p{number // 4}", "prompt_token_ids": [1]}
            lines.write(json.dumps(row | {"response_token_ids": tokens}) + "\n")
    read = read_rollouts(dump)
    assert read.table.height == 200_000
    assert read.table["prompt_id"].n_unique() == 50_000
    run = null_run(prompts=50_000, samples=4, tokens=5, checkpoints=("a", "b"))
    for analysis in (release_points, agreement_traps, rock_tokens, teachability):
        for name, table in analysis(run.tokens, run.rollouts)._asdict().items():
            check_table(table, RESULTS[name], name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8e6  # kB
