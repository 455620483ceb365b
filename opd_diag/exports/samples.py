"""One rollout with its weights, as the formats write it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opd_diag.exports.weights import TokenWeights
from opd_diag.stats.ragged import starts_of

IGNORED = -100  # label that cross entropy passes over


@dataclass(frozen=True)
class Sample:
    """A rollout to train on.

    Attributes:
        row: The rollout's row of the rollouts table: everything the run knows of it.
        prompt: Ids of the prompt.
        response: Ids of the response.
        weights: Weight of each response token, as the target of the position before it.
    """

    row: dict[str, Any]
    prompt: list[int]
    response: list[int]
    weights: list[float]

    @property
    def mask(self) -> list[int]:
        """Weights as whole numbers, 0 or 1, for loaders that know nothing else."""
        return [int(weight) for weight in self.weights]

    @property
    def whole(self) -> list[int]:
        """Ids of prompt and response."""
        return self.prompt + self.response

    def labels(self) -> list[int]:
        """Ids that are trained on, -100 elsewhere, over prompt and response."""
        kept = zip(self.response, self.weights, strict=True)
        return [IGNORED] * len(self.prompt) + [t if w else IGNORED for t, w in kept]


def samples(weights: TokenWeights) -> Iterator[Sample]:
    """Give the rollouts with their weights, in the order of the run."""
    starts = starts_of(weights.lengths).tolist()
    values = weights.weight
    for row, start, length in zip(
        weights.tokens.rollouts.iter_rows(named=True), starts, weights.lengths.tolist(), strict=True
    ):
        yield Sample(
            row,
            list(row["prompt_token_ids"]),
            list(row["response_token_ids"]),
            values[start : start + length].tolist(),
        )


def by_step(rows: Sequence[Sample] | Iterator[Sample]) -> dict[int, list[Sample]]:
    """Group samples by training step, 0 where the dump names none."""
    steps: dict[int, list[Sample]] = {}
    for sample in rows:
        steps.setdefault(int(sample.row["step"] or 0), []).append(sample)
    return steps


def as_float32(values: Sequence[float]) -> list[float]:
    """Round numbers to what a float32 holds."""
    rounded: list[float] = np.asarray(values, np.float32).tolist()
    return rounded
