"""The three stages of training: worked solutions, the teacher's samples, the student's own."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from benchmarks.case_study.models import (
    Text,
    batches_by_length,
    in_bfloat16,
    kl,
    prompt_ids,
    respond,
    response_logits,
)
from benchmarks.case_study.problems import Problem

MICRO_BATCH = 12  # texts whose logits are held at once
STORED_EVERY = 5  # updates


class Recipe(NamedTuple):
    """Settings of a stage.

    Attributes:
        batch: Texts of an update.
        rate: Learning rate at its highest.
        warmup: Updates until then.
        updates: All updates; a cosine lowers the rate to a tenth until the last.
    """

    batch: int
    rate: float
    warmup: int
    updates: int


Loss = Callable[[Sequence[Text], Tensor], Tensor]  # texts and their logits -> nat of each token


class Trainer:
    """Takes updates of AdamW with a schedule and clipped gradients.

    Args:
        model: What is trained, in float32; its products are taken in bfloat16.
        recipe: Settings.

    Attributes:
        done: Updates so far.
    """

    def __init__(self, model: LlamaForCausalLM, recipe: Recipe) -> None:
        self.model, self.recipe, self.done = model, recipe, 0
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=recipe.rate, betas=(0.9, 0.95), weight_decay=0.0
        )

    def update(self, texts: Sequence[Text], loss: Loss) -> float:
        """Take one step down the weighted sum of a loss, divided by the number of response tokens.

        So an arm that weighs some tokens with 0 divides by the same number as one that trains on
        all of them.

        Returns:
            The weighted sum divided by the number of tokens, in nat.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        tokens = sum(len(text.response) for text in texts)
        mean = 0.0
        for start in range(0, len(texts), MICRO_BATCH):
            some = texts[start : start + MICRO_BATCH]
            weights = torch.tensor([weight for text in some for weight in text.weights])
            part = (loss(some, response_logits(self.model, some)) * weights).sum() / tokens
            part.backward()
            mean += part.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.done += 1
        return mean

    def save(self, path: Path) -> None:
        """Write weights and state of the optimiser, whole or not at all."""
        state = {"done": self.done, "model": self.model.state_dict()}
        unfinished = path.with_name(path.name + ".part")
        torch.save(state | {"optimizer": self._optimizer.state_dict()}, unfinished)
        unfinished.rename(path)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        state = torch.load(path, weights_only=True)
        self.done = state["done"]
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _rate(self) -> float:
        recipe = self.recipe
        if self.done < recipe.warmup:
            return recipe.rate * (self.done + 1) / recipe.warmup
        part = (self.done - recipe.warmup) / max(1, recipe.updates - recipe.warmup)
        return recipe.rate * (0.1 + 0.45 * (1 + math.cos(math.pi * part)))


def fit_solutions(
    model: LlamaForCausalLM, texts: Sequence[Text], recipe: Recipe, *, seed: int
) -> Iterator[float]:
    """Fit worked solutions by cross-entropy; yields the loss of each update."""

    def loss(some: Sequence[Text], logits: Tensor) -> Tensor:
        ids = torch.tensor([token for text in some for token in text.response])
        return cross_entropy(logits, ids, reduction="none")

    yield from _fit(model, texts, recipe, loss, seed)


def distil_given(
    student: LlamaForCausalLM,
    teacher: LlamaForCausalLM,
    texts: Sequence[Text],
    recipe: Recipe,
    *,
    forward: bool = False,
    seed: int,
) -> Iterator[float]:
    """Lower the KL to the teacher on given texts; yields the loss of each update.

    Args:
        student: What is trained.
        teacher: What it shall come close to.
        texts: Texts, with the weights of their tokens.
        recipe: Settings.
        forward: Lower KL(teacher ‖ student) rather than KL(student ‖ teacher).
        seed: Seed of the order of texts.
    """
    yield from _fit(student, texts, recipe, _kl_to(teacher, forward=forward), seed)


def distil_on_policy(
    student: LlamaForCausalLM,
    teacher: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    recipe: Recipe,
    *,
    longest: int,
    seed: int,
    state: Path,
) -> Iterator[tuple[int, float]]:
    """Sample from the student at temperature 1, and lower KL(student ‖ teacher) there.

    The gradient goes through the KL at the sampled contexts; there is no policy-gradient term.

    Args:
        student: What is trained.
        teacher: What it shall come close to.
        tokenizer: Of both.
        problems: One for each rollout, `recipe.batch` of them for an update.
        recipe: Settings.
        longest: Most tokens of a rollout.
        seed: Seed of the rollouts.
        state: File that the training is stored in now and then, and gone on from.

    Yields:
        Number and loss of each update.
    """
    trainer, loss = Trainer(student, recipe), _kl_to(teacher, forward=False)
    if state.exists():
        trainer.load(state)
    while trainer.done < recipe.updates:
        start = trainer.done * recipe.batch
        asked = problems[start : start + recipe.batch]
        responses = respond(student, tokenizer, asked, longest=longest, seed=seed)
        texts = [
            Text.of(prompt_ids(tokenizer, problem), response.token_ids)
            for problem, response in zip(asked, responses, strict=True)
        ]
        texts.sort(key=lambda text: len(text.prompt) + len(text.response))
        value = trainer.update(texts, loss)
        if not trainer.done % STORED_EVERY:
            trainer.save(state)
        yield trainer.done, value


def _kl_to(teacher: LlamaForCausalLM, *, forward: bool) -> Loss:
    small = in_bfloat16(teacher)

    def loss(some: Sequence[Text], logits: Tensor) -> Tensor:
        with torch.no_grad():
            theirs = response_logits(small, some)
        return kl(theirs, logits) if forward else kl(logits, theirs)

    return loss


def _fit(
    model: LlamaForCausalLM, texts: Sequence[Text], recipe: Recipe, loss: Loss, seed: int
) -> Iterator[float]:
    """Go over the texts as often as the recipe's updates need."""
    trainer, rng = Trainer(model, recipe), random.Random(seed)
    while trainer.done < recipe.updates:
        for batch in batches_by_length(texts, recipe.batch, rng):
            yield trainer.update(batch, loss)
            if trainer.done == recipe.updates:
                return
