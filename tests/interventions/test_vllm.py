"""The optional engine against a stand-in of vLLM: what it is asked for, and what is made of it."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from opd_diag.interventions.generation import LENGTH, STOP, Decoding, Request
from opd_diag.interventions.vllm_engine import BIAS, VllmEngine
from opd_diag.tables.run import Run
from tests.interventions.test_knock_out import knock_out


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in that writes the tokens 20, 21, ... it may write, then ends in every other one."""
    seen = SimpleNamespace(calls=[])

    class LLM:
        def __init__(self, **options: Any) -> None:
            seen.options = options

        def generate(self, prompts: list[Any], parameters: list[Any], *, use_tqdm: bool) -> Any:
            seen.calls.append((prompts, parameters))
            outputs = []
            for number, one in enumerate(parameters):
                bias = one.logit_bias or {}
                ids = [i for i in range(20, 60) if bias.get(i, 0) > -100][: one.max_tokens]
                if number % 2:
                    ids = [*ids[: one.max_tokens - 1], one.stop_token_ids[0]]
                outputs.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids)]))
            return outputs

    module = ModuleType("vllm")
    module.LLM = LLM  # type: ignore[attr-defined]
    module.SamplingParams = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return seen


def test_bans_are_biases_and_prompts_are_ids(vllm: SimpleNamespace) -> None:
    decoding = Decoding(100, (2, 3), 0.7, 8, 5, suppressed=(50,))
    engine = VllmEngine("folder", decoding)
    told: list[int] = []
    requests = [Request("p", 0, [9, 8], (20,)), Request("p", 1, [9])]
    responses = engine.generate(requests, [21, 22], advance=told.append)
    prompts, parameters = vllm.calls[0]
    assert prompts == [{"prompt_token_ids": [9, 8, 20]}, {"prompt_token_ids": [9]}]
    assert parameters[0].logit_bias == {50: BIAS, 21: BIAS, 22: BIAS}
    assert [one.max_tokens for one in parameters] == [7, 8]
    assert {one.temperature for one in parameters} == {0.7}
    assert parameters[0].seed != parameters[1].seed
    assert parameters[0].stop_token_ids == [2, 3]
    assert responses[0].token_ids == [20, 20, *range(23, 29)]
    assert [one.finish for one in responses] == [LENGTH, STOP]
    assert told == [7, 8]
    assert not engine.shares_numbers
    assert vllm.options == {
        "model": "folder", "dtype": "auto", "trust_remote_code": False, "seed": 5
    }  # fmt: skip


def test_a_study_with_it_says_that_it_has_no_common_random_numbers(
    run: Run, vllm: SimpleNamespace
) -> None:
    result = knock_out(run, engine="vllm", random_lists=0)
    bans = result.knock_out.filter(result.knock_out["kind"] != "unmasked")
    assert bans["reason"].str.contains("no common random numbers").all()
    assert bans["variance_saved"].null_count() == bans.height
    assert set(result.knock_out["engine"]) == {"vllm"}
    # Every arm was generated as a whole.
    assert [len(prompts) for prompts, _ in vllm.calls] == [24] * (1 + bans.height)
