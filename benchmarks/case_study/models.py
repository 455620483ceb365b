"""The pair of the case study: build it, save it, sample from it, and compute its logits."""

import copy
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from benchmarks.case_study.problems import Problem
from opd_diag.interventions.generation import (
    Decoding,
    Request,
    Response,
    TransformersEngine,
)
from opd_diag.scoring.models.forward import LanguageModel
from opd_diag.scoring.models.loading import find_head

AT_ONCE = 96  # responses that are sampled side by side


class Text(NamedTuple):
    """A prompt and a response to train on.

    Attributes:
        prompt: Ids of the prompt.
        response: Ids of the response.
        weights: Weight of each response token.
    """

    prompt: list[int]
    response: list[int]
    weights: list[float]

    @classmethod
    def of(cls, prompt: list[int], response: list[int]) -> "Text":
        """Weigh every token of the response by 1."""
        return cls(prompt, response, [1.0] * len(response))


def load_model(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Read a model folder, in float32, with its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def in_bfloat16(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Make a copy in bfloat16, for sampling and for looking on."""
    return copy.deepcopy(model).to(torch.bfloat16).eval()


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a bfloat16 copy as a model folder, whole or not at all."""
    saved = in_bfloat16(model)
    saved.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unfinished = folder.with_name(folder.name + ".part")
    saved.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(folder)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, problem: Problem) -> list[int]:
    """Encode a problem as one user turn."""
    turn = [{"role": "user", "content": problem.prompt}]
    return list(tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False))


def worked_text(tokenizer: PreTrainedTokenizerBase, problem: Problem) -> Text:
    """Encode a problem with its worked solution and the end token."""
    response = tokenizer(problem.solution, add_special_tokens=False)["input_ids"]
    return Text.of(prompt_ids(tokenizer, problem), [*response, tokenizer.eos_token_id])


def respond(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    *,
    samples: int = 1,
    longest: int,
    seed: int,
) -> list[Response]:
    """Sample responses in bfloat16: all samples of the first problem, of the second, and so on.

    Args:
        model: What answers.
        tokenizer: Its tokenizer.
        problems: What is asked.
        samples: Responses to each problem.
        longest: Most tokens of a response.
        seed: Seed of the random numbers, which belong to problem, sample and position.
    """
    small = in_bfloat16(model)
    head = find_head("student", small, "cpu")
    language_model = LanguageModel("student", small, small.model, head)
    decoding = Decoding(
        ids=len(tokenizer),
        end_ids=(tokenizer.eos_token_id,),
        temperature=1.0,
        max_new_tokens=longest,
        seed=seed,
    )
    engine = TransformersEngine(language_model, decoding, batch_size=AT_ONCE)
    return engine.generate(
        [
            Request(problem.name, sample, prompt_ids(tokenizer, problem))
            for problem in problems
            for sample in range(samples)
        ]
    )


def batches_by_length(texts: Sequence[Text], size: int, rng: random.Random) -> Iterator[list[Text]]:
    """Yield texts of similar length together, the batches in random order."""
    order = sorted(texts, key=lambda text: len(text.prompt) + len(text.response))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    rng.shuffle(batches)
    yield from batches


def response_logits(model: LlamaForCausalLM, texts: Sequence[Text]) -> Tensor:
    """Compute the logits that predict the response tokens. Shape (response tokens, ids)."""
    rows = [torch.tensor([*text.prompt, *text.response]) for text in texts]
    with torch.autocast("cpu", torch.bfloat16, enabled=model.dtype == torch.float32):
        states = model.model(input_ids=pad_sequence(rows, True), use_cache=False).last_hidden_state
        chosen = [
            row[len(text.prompt) - 1 : len(text.prompt) + len(text.response) - 1]
            for row, text in zip(states, texts, strict=True)
        ]
        logits: Tensor = model.lm_head(torch.cat(chosen))
    return logits.float()


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) of each row, in nat, from logits."""
    log_p, log_q = log_softmax(p, -1), log_softmax(q, -1)
    return kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
