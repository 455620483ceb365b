"""Sample responses and score given responses, both over the decodable ids only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from nets import CachedRunner
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen3ForCausalLM


@dataclass(frozen=True)
class Decoding:
    """Hold how to decode: the ids that exist, the end, the padding and the length limit."""

    size: int
    eos: int
    pad: int
    limit: int


def sample(
    model: Qwen3ForCausalLM,
    prompts: list[list[int]],
    decoding: Decoding,
    generator: torch.Generator | None,
) -> list[list[int]]:
    """Sample one response per prompt at temperature 1, or greedily without a generator."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[decoding.pad] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    runner = CachedRunner(model, mask, decoding.limit)
    responses: list[list[int]] = [[] for _ in prompts]
    active = list(range(len(prompts)))
    for _ in range(decoding.limit):
        logits = runner.step(ids)[:, : decoding.size].float()
        if generator is None:
            chosen = logits.argmax(-1)
        else:
            chosen = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
        for row, token in zip(active, chosen.tolist(), strict=True):
            responses[row].append(token)
        going = (chosen != decoding.eos).nonzero().squeeze(1)
        if len(going) == 0:
            break
        if len(going) < len(active):
            runner.keep(going)
            active = [active[index] for index in going.tolist()]
        ids = chosen[going].unsqueeze(1)
    return responses


def sample_all(
    model: Qwen3ForCausalLM,
    prompts: list[list[int]],
    decoding: Decoding,
    generator: torch.Generator | None,
    batch: int = 128,
) -> list[list[int]]:
    """Sample one response per prompt, in batches."""
    parts = [prompts[start : start + batch] for start in range(0, len(prompts), batch)]
    return [response for part in parts for response in sample(model, part, decoding, generator)]


def response_logits(
    model: Qwen3ForCausalLM, prompts: list[list[int]], responses: list[list[int]], size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits at every response position, flat, and the response tokens."""
    rows = [torch.tensor(p + r) for p, r in zip(prompts, responses, strict=True)]
    ids = pad_sequence(rows, batch_first=True)
    is_target = torch.zeros(ids.shape, dtype=torch.bool)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        is_target[row, len(prompt) : len(prompt) + len(response)] = True
    # Padding stands on the right, where the causal mask hides it from every response token.
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[is_target[:, 1:]])
    return logits[:, :size].float(), ids[is_target]


@torch.no_grad()
def score(
    model: Qwen3ForCausalLM,
    prompts: list[list[int]],
    responses: list[list[int]],
    size: int,
    batch: int = 32,
) -> list[list[float]]:
    """Return the log-probability of every response token."""
    scores: list[list[float]] = []
    for start in range(0, len(prompts), batch):
        part = responses[start : start + batch]
        logits, tokens = response_logits(model, prompts[start : start + batch], part, size)
        picked = logits.log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
        scores += [piece.tolist() for piece in picked.split([len(r) for r in part])]
    return scores


def reverse_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return KL(student || teacher) per position, in nat, from two rows of logits."""
    student, teacher = student.log_softmax(-1), teacher.log_softmax(-1)
    return (student.exp() * (student - teacher)).sum(-1)


@torch.no_grad()
def mean_reverse_kl(
    student: Qwen3ForCausalLM,
    teacher: Qwen3ForCausalLM,
    prompts: list[list[int]],
    responses: list[list[int]],
    size: int,
    batch: int = 32,
) -> float:
    """Return the mean reverse KL over all tokens of the given responses."""
    total, count = 0.0, 0
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch], responses[start : start + batch]
        mine, _ = response_logits(student, *part, size)
        theirs, _ = response_logits(teacher, *part, size)
        values = reverse_kl(mine, theirs).double()
        total, count = total + float(values.sum()), count + len(values)
    return total / count
