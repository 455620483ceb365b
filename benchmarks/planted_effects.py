"""Plant the effect that each question of `findings` asks for, on an ugly null."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.datasets import Dataset, ugly_run

Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]

GROUND: Mapping[str, Any] = {
    "sigma": 2.0,
    "zeros": 0.5,
    "prompt_effect": 0.5,
    "rollout_effect": 0.3,
    "memory": 0.3,
}
SEGMENTS: Mapping[str, Any] = {**GROUND, "tokens": 300, "segment_tokens": 2}
TYPES: Mapping[str, Any] = {**GROUND, "types": 2000}
LONGER: Mapping[str, Any] = {**GROUND, "tokens": 300}
KL = ("reverse_kl", "forward_kl", "union_kl", "advantage_var", "js")
NORMS = ("grad_logits", "grad_hidden", "grad_head")


class Planted(NamedTuple):
    """An effect.

    Attributes:
        text: What is planted, and how large it is.
        make: Makes the run from a seed.
    """

    text: str
    make: Callable[[int], Dataset]


class Ground:
    """A null run, its columns as arrays (checkpoints, tokens)."""

    def __init__(self, seed: int, **options: Any) -> None:
        self.run = ugly_run(seed=seed, **options)
        self.rng = np.random.default_rng([seed, 7])
        self.checkpoints = self.run.tokens["checkpoint"].n_unique()
        self.rollout = self.column("rollout")[0].astype(np.int64)
        self.position = self.column("position")[0].astype(np.int64)
        self.length = np.bincount(self.rollout)

    def column(self, name: str, k: int | None = None) -> Any:
        """One column. Shape (checkpoints, tokens)."""
        values = self.run.tokens[name]
        if k is not None:
            values = values.arr.get(k)
        return values.to_numpy().reshape(self.checkpoints, -1)

    def scale_kl(self, factor: npt.ArrayLike) -> None:
        """Multiply KL, and the norms of its gradient by the root. Shape (checkpoints, tokens)."""
        whole = np.broadcast_to(factor, (self.checkpoints, self.rollout.size)).ravel()
        scale, root = pl.Series(whole), pl.Series(np.sqrt(whole))
        self._set(
            *((pl.col(name) * scale).cast(pl.Float32) for name in KL),
            *((pl.col(name) * root).cast(pl.Float32) for name in NORMS),
        )

    def scale_margin(self, factor: Floats) -> None:
        """Multiply the margin, under every checkpoint. Shape (tokens,)."""
        old = self.run.tokens["margin"]
        values = old.to_numpy() * np.tile(factor, self.checkpoints)[:, None]
        self._set(pl.Series("margin", values.astype(np.float32), old.dtype))

    def set_correct(self, correct: Mask) -> None:
        """Replace the outcome of every rollout."""
        columns = {"correct": correct, "reward": correct.astype(np.float64)}
        self.run = self.run._replace(rollouts=self.run.rollouts.with_columns(**_series(columns)))

    def stretches(self, share: float, length: int) -> Mask:
        """Choose a stretch of tokens in a share of the rollouts. Shape (tokens,)."""
        chosen = self.rng.random(self.length.size) < share
        start = self.rng.random(self.length.size) * np.maximum(self.length - length, 0)
        since = self.position - np.floor(start)[self.rollout]
        return np.asarray(chosen[self.rollout] & (since >= 0) & (since < length))

    def after_a_step(self) -> Mask:
        """Choose the tokens after a point between 30 and 70 % of each rollout. Shape (tokens,)."""
        at = self.rng.uniform(0.3, 0.7, self.length.size) * self.length
        return np.asarray(self.position >= at[self.rollout])

    def types(self, first: int, last: int) -> Mask:
        """Choose the tokens of some frequency ranks, from 0. Shape (tokens,)."""
        ids = self.column("token_id")[0]
        return np.asarray((ids >= first) & (ids < last))

    def _set(self, *columns: pl.Expr | pl.Series) -> None:
        self.run = self.run._replace(tokens=self.run.tokens.with_columns(*columns))


def _series(columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, pl.Series]:
    return {name: pl.Series(name, values) for name, values in columns.items()}


def steps(checkpoints: int, last: float) -> Floats:
    """Factors from 1 under the first checkpoint to `last`. Shape (checkpoints, 1)."""
    return np.asarray(last ** np.linspace(0, 1, checkpoints))[:, None]


def fallen_kl(seed: int) -> Dataset:
    ground = Ground(seed, **GROUND)
    ground.scale_kl(steps(ground.checkpoints, 0.7))
    return ground.run


def heavy_types(seed: int) -> Dataset:
    ground = Ground(seed, **TYPES)
    ground.scale_kl(np.where(ground.types(20, 100), 8.0, 1.0))
    return ground.run


def lasting_common_types(seed: int) -> Dataset:
    """Tokens of the common types keep their KL; all others are drawn anew each time."""
    ground = Ground(seed, **{**TYPES, "snapshots": 1.5})
    return _keep_kl(ground, ground.types(0, 100))


def lasting_types(seed: int) -> Dataset:
    """Tokens of a tenth of the types are hard and keep their KL; all others are drawn anew."""
    ground = Ground(seed, **{**GROUND, "snapshots": 1.5})
    rock = ground.column("token_id")[0] % 10 == 3
    ground.scale_kl(np.where(rock, 4.0, 1.0))
    return _keep_kl(ground, rock)


def _keep_kl(ground: Ground, rock: Mask) -> Dataset:
    """Give some tokens the KL of the first checkpoint under all of them."""
    first = {name: ground.column(name) for name in KL}
    columns = {
        name: np.where(rock, values[:1], values).ravel().astype(np.float32)
        for name, values in first.items()
    }
    ground.run = ground.run._replace(tokens=ground.run.tokens.with_columns(**_series(columns)))
    return ground.run


def staying_types(seed: int) -> Dataset:
    ground = Ground(seed, **TYPES)
    ground.scale_kl(np.where(ground.types(0, 100), 1.0, steps(ground.checkpoints, 0.5)))
    return ground.run


def falling_margin(seed: int) -> Dataset:
    ground = Ground(seed, **GROUND)
    ground.scale_margin(np.exp(-0.5 * ground.position / ground.length[ground.rollout]))
    return ground.run


def dropping_margin(seed: int) -> Dataset:
    ground = Ground(seed, **SEGMENTS)
    ground.scale_margin(np.where(ground.after_a_step(), 0.25, 1.0))
    return ground.run


def poor_after_drop(seed: int) -> Dataset:
    ground = Ground(seed, **LONGER)
    after = ground.after_a_step()
    ground.scale_margin(np.where(after, 0.25, 1.0))
    ground.scale_kl(np.where(after, 0.3, 1.0))
    ground.scale_kl(np.where(after, 1.0, steps(ground.checkpoints, 0.7)))
    return ground.run


def compatible_gain(seed: int) -> Dataset:
    """From the second checkpoint on, tokens above the median of C lose half of their KL."""
    ground = Ground(seed, **GROUND)
    ground.scale_kl(np.where(_compatible(ground), steps(ground.checkpoints, 0.4), 1.0))
    return ground.run


def incompatible_gain(seed: int) -> Dataset:
    """From the second checkpoint on, tokens below the median of C lose nine tenths of their KL."""
    ground = Ground(seed, **{**GROUND, "sigma": 1.5, "zeros": 0.0})
    ground.scale_kl(np.where(_compatible(ground), 1.0, steps(ground.checkpoints, 0.1)))
    return ground.run


def _compatible(ground: Ground) -> Mask:
    """Whether C is above the mean of the tokens of equal D. Shape (tokens,)."""
    mass = ground.column("teacher_mass", k=3)[0].astype(np.float64)
    kl = ground.column("forward_kl")[0].astype(np.float64)
    outside, zero = np.log(np.maximum(1 - mass, 1e-12)), kl == 0
    above = np.zeros(kl.size, np.bool_)
    if zero.any():
        above[zero] = outside[zero] < np.median(outside[zero])
    logs = np.log(kl[~zero])
    slope, middle = np.polyfit(logs, outside[~zero], 1)
    above[~zero] = outside[~zero] < slope * logs + middle
    return above


def low_stretches(seed: int) -> Dataset:
    ground = Ground(seed, **LONGER)
    ground.scale_kl(np.where(ground.stretches(0.5, 150), 0.02, 1.0))
    return ground.run


def wrong_after_low_stretches(seed: int) -> Dataset:
    ground = Ground(seed, **{**LONGER, "samples": 4})
    low = ground.stretches(0.5, 150)
    ground.scale_kl(np.where(low, 0.02, 1.0))
    has_one = np.bincount(ground.rollout, low) > 0
    right = np.where(has_one, 0.2, 0.7)
    ground.set_correct(ground.rng.random(right.size) < right)
    return ground.run


_FALL = Planted("KL falls by 30 % over three checkpoints", fallen_kl)

PLANTED: Mapping[str, Planted] = {
    "reverse-kl-fell": _FALL,
    "forward-kl-fell": _FALL,
    "rocks-carry-more": Planted(
        "types of ranks 21 to 100 of 2,000 have 8 times the KL: lift 1.3", heavy_types
    ),
    "rocks-persist": Planted(
        "the 100 commonest of 2,000 types keep their KL, snapshots of others differ 4.5-fold",
        lasting_common_types,
    ),
    "type-tells": Planted(
        "a tenth of the types has 4 times the KL and keeps it, snapshots of others differ 4.5-fold",
        lasting_types,
    ),
    "rocks-stay": Planted(
        "the 100 commonest of 2,000 types keep their KL, the rest loses half", staying_types
    ),
    "margin-falls": Planted("margins fall evenly by 40 % along the response", falling_margin),
    "margin-drops": Planted(
        "margins fall to a quarter at one point, 150 segments", dropping_margin
    ),
    "cut-drops-poor": Planted(
        "the same, and KL after it is 0.3 of what it was and does not fall", poor_after_drop
    ),
    "compatibility-matters": Planted(
        "the compatible half of the tokens of equal divergence loses 60 % of its KL",
        compatible_gain,
    ),
    "selector-beats-divergence": Planted(
        "the incompatible half of the tokens of equal divergence loses 90 % of its KL, no zeros",
        incompatible_gain,
    ),
    "low-kl-stretches": Planted(
        "half of the rollouts has 150 of 300 tokens at 0.02 of their KL", low_stretches
    ),
    "cut-rollouts-wrong": Planted(
        "the same; these are right in 20 %, others in 70 %; 4 rollouts a prompt",
        wrong_after_low_stretches,
    ),
}
