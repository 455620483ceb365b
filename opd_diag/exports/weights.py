"""The weight of every response token of a run, and what is known of the tokens it weighs."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.tokens import TokenTable

Weights: TypeAlias = npt.NDArray[np.float32]
Integers: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TokenWeights:
    """Weights of the target tokens of a run: weight t belongs to the loss on token t.

    Attributes:
        tokens: The tokens of all rollouts, those outside the loss too.
        in_loss: Which of them count. Shape (tokens,).
        weight: Their weights, 0 outside the loss. Shape (tokens,).
        shape: `prefix` where every rollout keeps a prefix, else `tokens`.
        calibrated: The rule for tomorrow's rollouts, JSON values; None where there is none.
    """

    tokens: TokenTable
    in_loss: Mask
    weight: Weights
    shape: Literal["prefix", "tokens"]
    calibrated: dict[str, object] | None

    @property
    def lengths(self) -> Integers:
        """Tokens of each rollout. Shape (rollouts,)."""
        return self.tokens.lengths

    @property
    def binary(self) -> bool:
        """Whether every weight is exactly 0 or 1."""
        return bool(np.isin(self.weight, (0, 1)).all())

    def frame(self) -> pl.DataFrame:
        """Return rollout, position and weight, one row per response token."""
        rollout = self.tokens.rollouts["rollout"].to_numpy()
        return pl.DataFrame(
            {
                "rollout": np.repeat(rollout, self.lengths),
                "position": self.tokens.position,
                "weight": self.weight,
            },
            schema={"rollout": pl.UInt32, "position": pl.UInt32, "weight": pl.Float32},
        )
