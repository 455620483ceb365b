"""Generation: against a plain loop in float64, and laws of random numbers, batches and bans."""

from collections.abc import Sequence
from itertools import takewhile

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from opd_diag.interventions.generation import (
    LENGTH,
    STOP,
    Decoding,
    Request,
    TransformersEngine,
    choose,
)
from opd_diag.interventions.uniforms import uniforms
from opd_diag.scoring.models.forward import LanguageModel
from opd_diag.scoring.models.loading import Loading, load_model
from tests.conftest import Save
from tests.scoring.cuda_stand_in import cuda_stand_in

END = 2


@pytest.fixture(scope="module")
def model(student: str) -> LanguageModel:
    return load_model(student)


@pytest.fixture(scope="module")
def decoding(ids: int) -> Decoding:
    return Decoding(ids, (END, 5), 0.9, 24, 3, suppressed=(7,))


@pytest.fixture(scope="module")
def requests(ids: int) -> list[Request]:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(8, ids, length).tolist() for length in (3, 9, 1, 17, 6, 12)]
    return [Request(f"p{i}", sample, prompts[i]) for sample in range(2) for i in range(6)]


@pytest.fixture(scope="module")
def plain(model: LanguageModel, decoding: Decoding, requests: list[Request]) -> list[list[int]]:
    return [
        r.token_ids for r in TransformersEngine(model, decoding, batch_size=5).generate(requests)
    ]


def test_random_numbers_belong_to_problem_sample_and_position() -> None:
    whole = uniforms(0, "p", 1, 2000)
    assert np.array_equal(whole[:50], uniforms(0, "p", 1, 50))
    for other in ((1, "p", 1), (0, "q", 1), (0, "p", 2)):
        assert not np.isin(uniforms(*other, 50), whole).any()
    assert not np.isin(uniforms(0, "p", 1, 50, stream="again"), whole).any()
    assert kstest(whole, "uniform").pvalue > 1e-4
    # The first number of many problems is uniform as well, and neighbours are not alike.
    first = np.array([uniforms(0, f"p{i}", 0, 2) for i in range(2000)])
    assert kstest(first[:, 0], "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(first.T)[0, 1]) < 0.1


def test_a_choice_inverts_the_cumulative_distribution_in_the_order_of_the_ids() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log().repeat(6, 1)
    u = torch.tensor([[0.05, 0], [0.11, 0], [0.49, 0], [0.51, 0], [0.71, 0], [0.999, 0]]).double()
    every = torch.ones(4, dtype=torch.bool)
    chosen, margin = choose(logits, u, (every, every), 1.0)
    assert chosen.tolist() == [0, 1, 1, 2, 3, 3]
    assert margin.tolist() == pytest.approx([0.05, 0.01, 0.01, 0.01, 0.01, 0.299], abs=1e-6)


def test_a_ban_has_the_distribution_of_logits_at_minus_infinity() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 12)
    allowed = torch.ones(12, dtype=torch.bool)
    allowed[[2, 7, 8]] = False
    u = torch.from_numpy(np.random.default_rng(1).random((20_000, 2)))
    chosen, _ = choose(
        logits.expand(len(u), -1), u, (torch.ones(12, dtype=torch.bool), allowed), 0.7
    )
    counts = np.bincount(chosen.numpy(), minlength=12)
    p = torch.softmax((logits[0] / 0.7).double().masked_fill(~allowed, -torch.inf), 0).numpy()
    assert not counts[~allowed.numpy()].any()
    here = allowed.numpy()
    assert chisquare(counts[here], p[here] / p[here].sum() * len(u)).pvalue > 1e-4


def reference(
    folder: str, request: Request, decoding: Decoding, banned: Sequence[int]
) -> list[int]:
    """One response, one token after the other: the whole text again each time, in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    u, again = (
        uniforms(decoding.seed, request.problem, request.sample, decoding.max_new_tokens, stream=s)
        for s in ("choice", "again")
    )
    tokens: list[int] = []
    for position in range(decoding.max_new_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([[*request.prompt, *tokens]])).logits[0, -1]
        z = logits[: decoding.ids].numpy() / decoding.temperature
        z[list(decoding.suppressed)] = -np.inf
        for number, barred in ((u[position], []), (again[position], list(banned))):
            z[barred] = -np.inf
            p = np.exp(z - z.max())
            token = int(np.flatnonzero(np.cumsum(p / p.sum()) > number)[0])
            if token not in banned:
                break
        tokens.append(token)
        if token in decoding.end_ids:
            break
    return tokens


def test_responses_are_those_of_a_plain_loop(
    student: str, decoding: Decoding, requests: list[Request], plain: list[list[int]],
    model: LanguageModel,
) -> None:  # fmt: skip
    for place in (0, 1, 8):
        assert plain[place] == reference(student, requests[place], decoding, ())
    banned = sorted({token for ids in plain for token in ids[3:6]} - set(decoding.end_ids))
    engine = TransformersEngine(model, decoding)
    (other,) = engine.generate([requests[1]], banned)
    assert other.token_ids == reference(student, requests[1], decoding, banned)


@pytest.mark.parametrize("batch_size", [1, 2, 12])
def test_responses_do_not_depend_on_the_batch(
    model: LanguageModel, decoding: Decoding, requests: list[Request], plain: list[list[int]],
    batch_size: int,
) -> None:  # fmt: skip
    engine = TransformersEngine(model, decoding, batch_size=batch_size)
    turned = [*requests[4:], *requests[:4]]
    found = [one.token_ids for one in engine.generate(turned)]
    assert found == [*plain[4:], *plain[:4]]


def test_responses_end_at_an_end_token_or_the_budget(
    model: LanguageModel, decoding: Decoding, requests: list[Request]
) -> None:
    responses = TransformersEngine(model, decoding).generate(requests)
    for one in responses:
        ended = one.token_ids[-1] in decoding.end_ids
        assert one.finish == (STOP if ended else LENGTH)
        assert not set(one.token_ids[:-1]) & set(decoding.end_ids)
        assert len(one.best_ids) == len(one.token_ids) <= decoding.max_new_tokens
        assert ended or len(one.token_ids) == decoding.max_new_tokens
        assert 7 not in one.token_ids
        assert max(one.token_ids) < decoding.ids
    assert {one.finish for one in responses} == {STOP, LENGTH}


def test_a_response_goes_on_from_where_it_was_begun(
    model: LanguageModel, decoding: Decoding, requests: list[Request], plain: list[list[int]]
) -> None:
    engine = TransformersEngine(model, decoding)
    begun = [
        one._replace(begun=ids[: i % 4])
        for i, (one, ids) in enumerate(zip(requests, plain, strict=True))
    ]
    assert [one.token_ids for one in engine.generate(begun)] == plain
    full = requests[0]._replace(begun=[9] * decoding.max_new_tokens)
    assert engine.generate([full])[0].token_ids == full.begun


def test_a_ban_changes_a_response_from_the_first_banned_token_on(
    model: LanguageModel, decoding: Decoding, requests: list[Request], plain: list[list[int]]
) -> None:
    banned = {plain[0][2], plain[3][4]} - set(decoding.end_ids)
    engine = TransformersEngine(model, decoding)
    found = engine.generate(requests, sorted(banned))
    # What stands before the ban need not be generated again.
    begun = [
        one._replace(begun=[*takewhile(lambda token: token not in banned, ids)])
        for one, ids in zip(requests, plain, strict=True)
    ]
    again = engine.generate(begun, sorted(banned))
    assert [one.token_ids for one in again] == [one.token_ids for one in found]
    changed = 0
    for one, ids in zip(found, plain, strict=True):
        first = next((n for n, token in enumerate(ids) if token in banned), len(ids))
        assert one.token_ids[:first] == ids[:first]
        assert not banned & set(one.token_ids)
        changed += one.token_ids != ids
    assert 0 < changed == sum(bool(banned & set(ids)) for ids in plain)


def test_a_choice_near_a_border_is_made_from_the_text_alone(
    model: LanguageModel,
    decoding: Decoding,
    requests: list[Request],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Logits that are off by what the batch adds give the same choice; without the rule they
    would not."""
    from opd_diag.interventions import generation

    prompt = requests[0].prompt
    state = model.hidden_states(torch.tensor([prompt]))[:, -1]
    logits = model.head.cut(0, decoding.ids).logits(state)
    z = (logits.detach().double() / decoding.temperature)[0]
    z[7] = -torch.inf
    border = float(torch.softmax(z, 0).cumsum(0)[100])
    engine = TransformersEngine(model, decoding)
    allowed = engine._allowed(())
    for side in (-1e-9, 1e-9):
        numbers = np.array([[border + side, 0.5]])
        noisy = logits + 1e-6 * torch.randn(
            logits.shape, generator=torch.Generator().manual_seed(1)
        )
        with torch.inference_mode():
            right = engine._choose(logits, numbers, allowed, [prompt])[0]
            assert engine._choose(noisy, numbers, allowed, [prompt])[0] == right
    monkeypatch.setattr(engine, "_border", 0.0)
    with torch.inference_mode():
        found = {
            engine._choose(noisy, np.array([[border + side, 0.5]]), allowed, [prompt])[0][0]
            for side in (-1e-9, 1e-9)
        }
    assert len(found) == 1  # the noise moved the border past both numbers
    assert generation.BORDER > 1e-6


def test_too_little_memory_halves_the_batch(
    model: LanguageModel, decoding: Decoding, requests: list[Request], plain: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    engine = TransformersEngine(model, decoding, batch_size=12)
    whole = engine._batch

    def batch(some: Sequence[Request], banned: Sequence[int]) -> list:
        if len(some) > 3:
            raise torch.OutOfMemoryError("too large")
        return whole(some, banned)

    monkeypatch.setattr(engine, "_batch", batch)
    assert [one.token_ids for one in engine.generate(requests)] == plain


SHAPE = {
    "vocab_size": 336,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}


@pytest.mark.parametrize("kind", ["gemma2 with a sliding window", "gpt2"])
def test_padding_does_not_show_in_other_models(kind: str, save_model: Save, ids: int) -> None:
    """Positions that are added to the input, and windows that slide over the padding."""
    torch.manual_seed(4)
    if kind == "gpt2":
        config = GPT2Config(vocab_size=336, n_positions=64, n_embd=32, n_layer=2, n_head=4,
                            initializer_range=0.3, bos_token_id=1, eos_token_id=2)  # fmt: skip
        folder = save_model(GPT2LMHeadModel(config))
    else:
        sliding = Gemma2Config(**SHAPE, sliding_window=6, final_logit_softcapping=9.0)
        folder = save_model(Gemma2ForCausalLM(sliding))
    decoding = Decoding(ids, (END,), 1.3, 14, 1)
    rng = np.random.default_rng(2)
    requests = [Request(f"p{n}", 0, rng.integers(8, ids, n).tolist()) for n in (2, 12, 7)]
    found = TransformersEngine(load_model(folder), decoding).generate(requests)
    for one, request in zip(found, requests, strict=True):
        assert one.token_ids == reference(folder, request, decoding, ())


def test_every_tensor_is_on_the_models_device(
    student: str, decoding: Decoding, requests: list[Request], plain: list[list[int]]
) -> None:
    """On a GPU that is none: a tensor elsewhere is refused there, as on a real one."""
    banned = sorted({ids[2] for ids in plain if len(ids) > 2} - set(decoding.end_ids))
    here = TransformersEngine(load_model(student), decoding).generate(requests[:4], banned)
    with cuda_stand_in():
        model = load_model(student, Loading(device="cuda"))
        engine = TransformersEngine(model, decoding, batch_size=3)
        assert model.model.device.type == "cuda"
        there = engine.generate(requests[:4], banned)
    assert [one.token_ids for one in there] == [one.token_ids for one in here]
