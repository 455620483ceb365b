"""Write what a model answers as a dump that opd-diag reads, and judge it against the teacher."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from benchmarks.case_study.models import (
    Text,
    in_bfloat16,
    kl,
    prompt_ids,
    respond,
    response_logits,
)
from benchmarks.case_study.problems import Problem
from opd_diag.interventions.generation import STOP
from opd_diag.interventions.verifiers import load_verifier
from opd_diag.tables.files import atomic_path

ROWS = 16  # texts whose logits are held at once
is_right = load_verifier("last-number")


class Answer(NamedTuple):
    """What a model said to a problem: its tokens, how it ended, and whether it is right."""

    problem: Problem
    text: Text
    finish: str
    right: bool


def answers(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    *,
    samples: int,
    longest: int,
    seed: int,
) -> list[Answer]:
    """Let a model answer problems at temperature 1: all samples of the first, of the second, ..."""
    responses = respond(model, tokenizer, problems, samples=samples, longest=longest, seed=seed)
    asked = [problem for problem in problems for _ in range(samples)]
    return [
        Answer(
            problem,
            Text.of(prompt_ids(tokenizer, problem), response.token_ids),
            response.finish,
            is_right(
                tokenizer.decode(response.token_ids, skip_special_tokens=True), problem.answer
            ),
        )
        for problem, response in zip(asked, responses, strict=True)
    ]


def write_rollouts(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    path: Path,
    *,
    samples: int,
    longest: int,
    seed: int,
) -> None:
    """Write answers as JSON lines, with the log-probs of their tokens as trainers compute them."""
    given = answers(model, tokenizer, problems, samples=samples, longest=longest, seed=seed)
    small = in_bfloat16(model)

    def log_probs(some: Sequence[Text]) -> Tensor:
        ids = torch.tensor([token for text in some for token in text.response])
        return response_logits(small, some).log_softmax(-1).gather(1, ids[:, None])[:, 0]

    texts = [answer.text for answer in given]
    with atomic_path(path) as unfinished, unfinished.open("w") as file:
        for number, (answer, logp) in enumerate(
            zip(given, _by_text(texts, log_probs), strict=True)
        ):
            line = {
                "id": f"{answer.problem.name}-{number % samples}",
                "prompt_id": answer.problem.name,
                "kind": answer.problem.kind,
                "prompt_token_ids": answer.text.prompt,
                "response_token_ids": answer.text.response,
                "sampled_logp": [round(value, 4) for value in logp.tolist()],
                "finish_reason": answer.finish,
                "reward": float(answer.right),
                "correct": answer.right,
                "answer": answer.problem.answer,
            }
            file.write(json.dumps(line) + "\n")


def read_texts(path: Path) -> list[Text]:
    """Read prompts and responses of a dump."""
    lines = map(json.loads, path.read_text().splitlines())
    return [Text.of(line["prompt_token_ids"], line["response_token_ids"]) for line in lines]


def judge(
    model: LlamaForCausalLM,
    teacher: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    *,
    samples: int,
    longest: int,
    seed: int,
) -> dict[str, list[float]]:
    """Let a model answer problems, and compare it with the teacher on its own answers.

    Returns:
        By problem, summed over its answers: `kl`, KL(model ‖ teacher) of their tokens in nat;
        `tokens`; `right` and `ended`, answers that are right and that ended by themselves; and
        `answers`.
    """
    given = answers(model, tokenizer, problems, samples=samples, longest=longest, seed=seed)
    mine, theirs = in_bfloat16(model), in_bfloat16(teacher)
    texts = [answer.text for answer in given]

    def divergence(some: Sequence[Text]) -> Tensor:
        return kl(response_logits(mine, some), response_logits(theirs, some))

    by_answer = {
        "kl": [float(values.sum()) for values in _by_text(texts, divergence)],
        "tokens": [float(len(text.response)) for text in texts],
        "right": [float(answer.right) for answer in given],
        "ended": [float(answer.finish == STOP) for answer in given],
        "answers": [1.0] * len(given),
    }
    return {
        name: np.reshape(values, (len(problems), samples)).sum(axis=1).tolist()
        for name, values in by_answer.items()
    }


@torch.inference_mode()
def _by_text(texts: Sequence[Text], values: Callable[[Sequence[Text]], Tensor]) -> Iterator[Tensor]:
    """Compute a value of each response token, and yield them text by text."""
    for start in range(0, len(texts), ROWS):
        some = texts[start : start + ROWS]
        yield from values(some).split([len(text.response) for text in some])
