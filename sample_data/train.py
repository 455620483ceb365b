"""Train models: supervised on worked solutions, then on-policy by reverse KL."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from problems import stream_problems
from sampling import Decoding, response_logits, reverse_kl, sample
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM
from vocab import encode_pair, encode_prompt

POOL = 32  # batches that are drawn at once and sorted by length


@dataclass(frozen=True)
class Recipe:
    """Hold the settings of one training stage."""

    steps: int
    batch: int
    rate: float
    warmup: int
    seed: int
    decay: float = 0.05
    floor: float = 0.02


def _rate_at(step: int, recipe: Recipe) -> float:
    """Return the factor on the learning rate: linear warm-up, then a cosine to the floor."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.floor + (1 - recipe.floor) * 0.5 * (1 + math.cos(math.pi * done))


class _Updater:
    """Apply AdamW updates with a schedule and clipped gradients."""

    def __init__(self, model: Qwen3ForCausalLM, recipe: Recipe) -> None:
        """Create the optimiser; vectors (norm scales) get no weight decay."""
        matrices = [p for p in model.parameters() if p.dim() >= 2]
        vectors = [p for p in model.parameters() if p.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": recipe.decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.model = model
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: _rate_at(step, recipe)
        )

    def update(self, loss: torch.Tensor) -> None:
        """Take one step down the gradient of a loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()


def _bucketed_batches(
    tokenizer: PreTrainedTokenizerFast, recipe: Recipe, exclude: set[str]
) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Yield batches of encoded problems of similar length, without end."""
    rng, stream = random.Random(recipe.seed + 1), stream_problems(recipe.seed, exclude)
    while True:
        pool = [encode_pair(tokenizer, p) for p in islice(stream, POOL * recipe.batch)]
        pool.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
        starts = list(range(0, len(pool), recipe.batch))
        rng.shuffle(starts)
        for start in starts:
            yield pool[start : start + recipe.batch]


def train_supervised(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    exclude: set[str],
    log: Callable[[str], None],
) -> None:
    """Train a model on worked solutions by cross-entropy on the response tokens."""
    model.train()
    updater, began, recent = _Updater(model, recipe), time.perf_counter(), []
    batches = _bucketed_batches(tokenizer, recipe, exclude)
    for step, batch in enumerate(islice(batches, recipe.steps), start=1):
        prompts, responses = map(list, zip(*batch, strict=True))
        with torch.autocast("cpu", torch.bfloat16):
            logits, tokens = response_logits(model, prompts, responses, len(tokenizer))
        loss = cross_entropy(logits, tokens)
        updater.update(loss)
        recent.append(loss.item())
        if step % 100 == 0 or step == recipe.steps:
            seconds, mean = time.perf_counter() - began, sum(recent) / len(recent)
            log(f"  supervised step {step}: loss {mean:.4f} nat/token, {seconds:.0f} s")
            recent = []
    model.eval()


def distill_on_policy(
    student: Qwen3ForCausalLM,
    teacher: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    decoding: Decoding,
    exclude: set[str],
    reached: Callable[[int], None],
    log: Callable[[str], None],
) -> None:
    """Distil on-policy: sample from the student, then lower its full reverse KL there.

    The gradient goes through KL(student || teacher) at the sampled contexts; there is no
    policy-gradient term. ``reached`` is called with the number of finished steps.
    """
    updater, began, recent = _Updater(student, recipe), time.perf_counter(), []
    stream = stream_problems(recipe.seed, exclude)
    generator = torch.Generator().manual_seed(recipe.seed)
    for step in range(1, recipe.steps + 1):
        prompts = [encode_prompt(tokenizer, p.prompt) for p in islice(stream, recipe.batch)]
        student.eval()
        responses = sample(student, prompts, decoding, generator)
        with torch.no_grad():
            theirs, _ = response_logits(teacher, prompts, responses, decoding.size)
        student.train()
        mine, _ = response_logits(student, prompts, responses, decoding.size)
        loss = reverse_kl(mine, theirs).mean()
        updater.update(loss)
        recent.append(loss.item())
        if step % 25 == 0 or step == recipe.steps:
            seconds, mean = time.perf_counter() - began, sum(recent) / len(recent)
            log(f"  on-policy step {step}: reverse KL {mean:.4f} nat/token, {seconds:.0f} s")
            recent = []
        reached(step)
    student.eval()
