"""The case study of benchmarks/: its problems, its training, and all of it at its smallest."""

import json
import random
from pathlib import Path

import pytest
import torch
from torch.nn.functional import log_softmax
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.case_study.__main__ import Sizes, Study, main
from benchmarks.case_study.models import Text, batches_by_length, kl, response_logits
from benchmarks.case_study.problems import KINDS, draw_problems
from benchmarks.case_study.rollouts import is_right
from benchmarks.case_study.training import Recipe, Trainer

TOKENIZER = Path(__file__).parents[1] / "sample_data" / "teacher"


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=576, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
        )
    )  # fmt: skip


def test_the_verifier_calls_every_worked_solution_right() -> None:
    problems = draw_problems("some", 240, seed=0, without=set())
    assert {problem.kind for problem in problems} == set(KINDS)
    assert all(is_right(problem.solution, problem.answer) for problem in problems)
    assert not any(is_right(p.solution, str(int(p.answer) + 1)) for p in problems)


def test_no_problem_is_in_two_splits(tmp_path: Path) -> None:
    splits = Study(tmp_path, Sizes()).problems
    prompts = [problem.prompt for split in splits.values() for problem in split]
    assert len(set(prompts)) == len(prompts)


def test_logits_are_those_before_each_response_token(model: LlamaForCausalLM) -> None:
    texts = [Text.of([1, 5, 6], [7, 8]), Text.of([1], [9, 3, 4, 2])]
    found = response_logits(model, texts)
    with torch.no_grad():
        alone = [
            model(torch.tensor([[*text.prompt, *text.response]])).logits[
                0, len(text.prompt) - 1 : -1
            ]
            for text in texts
        ]
    torch.testing.assert_close(found, torch.cat(alone), atol=5e-3, rtol=0)  # products in bfloat16


def test_kl_is_the_sum_over_the_vocabulary() -> None:
    p, q = torch.randn(4, 9).double(), torch.randn(4, 9).double()
    log_p, log_q = log_softmax(p, -1), log_softmax(q, -1)
    torch.testing.assert_close(kl(p, q), (log_p.exp() * (log_p - log_q)).sum(-1))


def test_tokens_of_weight_0_have_no_part_in_an_update(model: LlamaForCausalLM) -> None:
    """The arm divides by all tokens, and its gradient is that of the tokens it keeps."""
    whole = Text([1, 5], [7, 8, 9], [1.0, 0.0, 1.0])
    trainer = Trainer(model, Recipe(1, 0.0, 1, 1))
    values = torch.tensor([2.0, 100.0, 4.0])
    assert trainer.update([whole], lambda some, logits: values + 0 * logits.sum()) == 2.0


def test_training_goes_on_where_it_was_stored(model: LlamaForCausalLM, tmp_path: Path) -> None:
    def loss(some, logits):
        return logits.pow(2).mean(-1)

    def trained(stop: int | None) -> torch.Tensor:
        torch.manual_seed(1)
        copy = LlamaForCausalLM(model.config)
        trainer = Trainer(copy, Recipe(1, 1e-2, 2, 4))
        while trainer.done < 4:
            trainer.update([Text.of([1], [trainer.done, 3])], loss)
            if trainer.done == stop:
                trainer.save(tmp_path / "state")
                copy = LlamaForCausalLM(model.config)
                trainer = Trainer(copy, Recipe(1, 1e-2, 2, 4))
                trainer.load(tmp_path / "state")
        return copy.lm_head.weight.detach()

    torch.testing.assert_close(trained(2), trained(None), rtol=0, atol=0)


def test_batches_hold_every_text_once() -> None:
    texts = [Text.of([1], [2] * n) for n in range(10)]
    batches = list(batches_by_length(texts, 4, random.Random(0)))
    assert sorted(len(text.response) for batch in batches for text in batch) == list(range(10))


def test_the_whole_study_runs_and_does_nothing_twice(
    model: LlamaForCausalLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save_pretrained(tmp_path / "pretrained")
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(tmp_path / "pretrained")
    arguments = ["--tiny", "--pretrained", str(tmp_path / "pretrained")]
    arguments += ["--rule", "selector:divergence@50%", "--out", str(tmp_path / "out")]
    arguments += ["--results", str(tmp_path / "results")]
    main(arguments)
    results = tmp_path / "results"
    page = (results / "case_study.md").read_text()
    assert page.count("| the rule's tokens") == 4
    report = (results / "case_study" / "report.html").read_text()
    assert len(report) > 10_000
    assert str(tmp_path) not in report + page
    arms = [json.loads(path.read_text()) for path in (tmp_path / "out/loop/seed0").glob("*.json")]
    kept = {arm["arm"]: arm["tokens"] for arm in arms}
    assert kept["rule"] == kept["control-1"] <= kept["all"] < 1.5 * kept["rule"]
    assert len({arm["updates"] for arm in arms}) == 1
    capsys.readouterr()
    main(arguments)
    again = capsys.readouterr().out
    assert "opd-diag" not in again
    assert "update" not in again
