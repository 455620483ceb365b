"""Draw rollouts from a stored checkpoint, write them, and measure what they hold."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from problems import Problem, is_correct
from sampling import Decoding, sample_all, score
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM
from vocab import encode_prompt

SEGMENT_END = re.compile(r"\n+|(?<=[.!?])\s+(?=[A-Z])")


@dataclass(frozen=True)
class Policy:
    """Name the checkpoint that rollouts come from."""

    name: str
    step: int | None


def encode_all(tokenizer: PreTrainedTokenizerFast, problems: list[Problem]) -> list[list[int]]:
    """Encode the prompts of a list of problems."""
    return [encode_prompt(tokenizer, problem.prompt) for problem in problems]


def grade(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: list[Problem],
    decoding: Decoding,
    seed: int | None,
) -> float:
    """Return the accuracy on problems, greedy without a seed and else at temperature 1."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    responses = sample_all(model, encode_all(tokenizer, problems), decoding, generator)
    texts = tokenizer.batch_decode(responses, skip_special_tokens=True)
    hits = [is_correct(text, p.answer) for text, p in zip(texts, problems, strict=True)]
    return sum(hits) / len(hits)


def draw_rollouts(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: list[Problem],
    decoding: Decoding,
    policy: Policy,
    copies: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Sample ``copies`` rollouts of every problem at temperature 1, with their scores."""
    repeated = [problem for problem in problems for _ in range(copies)]
    prompts = encode_all(tokenizer, repeated)
    generator = torch.Generator().manual_seed(seed)
    responses = sample_all(model, prompts, decoding, generator)
    scores = score(model, prompts, responses, decoding.size)
    rows = []
    for index, problem in enumerate(repeated):
        tokens, prompt_id = responses[index], f"p{index // copies:03d}"
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        correct = is_correct(text, problem.answer)
        rows.append(
            {
                "id": f"{policy.name}-{prompt_id}-{index % copies}",
                "prompt_id": prompt_id,
                "prompt": problem.prompt,
                "response": text,
                "prompt_token_ids": prompts[index],
                "response_token_ids": tokens,
                "sampled_logp": [round(value, 6) + 0.0 for value in scores[index]],
                "policy": policy.name,
                "step": policy.step,
                "finish_reason": "stop" if tokens[-1] == decoding.eos else "length",
                "reward": 1.0 if correct else 0.0,
                "correct": correct,
            }
        )
    return rows


def write_rollouts(rows: list[dict[str, Any]], path: Path) -> None:
    """Write rollouts as JSON lines."""
    lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_rollouts(path: Path) -> list[dict[str, Any]]:
    """Read rollouts from JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tokens_of(rows: list[dict[str, Any]]) -> tuple[list[list[int]], list[list[int]]]:
    """Return the prompts and the responses of rollouts as token ids."""
    prompts = [row["prompt_token_ids"] for row in rows]
    return prompts, [row["response_token_ids"] for row in rows]


def rescoring_gap(model: Qwen3ForCausalLM, rows: list[dict[str, Any]], size: int) -> float:
    """Return the largest difference of the stored log-probabilities from a fresh scoring."""
    # One rollout at a time, so that the fresh scoring shares no padding with the stored one.
    fresh = score(model, *tokens_of(rows), size, batch=1)
    pairs = zip(rows, fresh, strict=True)
    return max(
        abs(stored - again)
        for row, values in pairs
        for stored, again in zip(row["sampled_logp"], values, strict=True)
    )


def count_segments(text: str) -> int:
    """Count the lines and sentences of a text in a simple way."""
    return sum(1 for piece in SEGMENT_END.split(text) if piece.strip())


def _share(flags: Sequence[bool]) -> float:
    """Return the share of true values."""
    return sum(flags) / len(flags)


def describe(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Measure rollouts: accuracy, cut share, lengths, segments and sampled surprise."""
    lengths = torch.tensor([len(row["response_token_ids"]) for row in rows]).double()
    segments = torch.tensor([count_segments(row["response"]) for row in rows]).double()
    points = torch.tensor([0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0]).double()
    logps = [value for row in rows for value in row["sampled_logp"]]
    return {
        "rollouts": len(rows),
        "accuracy": _share([row["correct"] for row in rows]),
        "cut": _share([row["finish_reason"] == "length" for row in rows]),
        "length_quantiles": [round(v) for v in lengths.quantile(points).tolist()],
        "length_150_400": _share([150 <= n <= 400 for n in lengths.tolist()]),
        "segment_quantiles": [round(v) for v in segments.quantile(points).tolist()],
        "segments_10": _share([n >= 10 for n in segments.tolist()]),
        "surprise": -sum(logps) / len(logps),
    }
