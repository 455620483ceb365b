"""Plant token types that stay far from the teacher, that learn, or that only differ."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.datasets.base import Dataset, null_run
from opd_diag.tables.gradients import GradientSums

Floats = npt.NDArray[np.float64]

FIRST_PLANTED = 4  # planted types start at this frequency rank: common, but not the commonest
PHRASE_SHARE = 0.5
STAYING_NOISE = 0.1


def rock_run(
    *,
    rocks: int = 5,
    learned: int = 5,
    height: float = 6.0,
    prompts: int = 24,
    samples: int = 4,
    tokens: int = 200,
    types: int = 200,
    checkpoints: Sequence[str] = ("step0", "step150", "step300"),
    seed: int = 0,
) -> Dataset:
    """Make a run in which some types stay hard and some learn.

    Both kinds start at `height` times the divergence of the others. Learned types fall to that of
    the others by the last checkpoint. Rocks keep the divergence of each occurrence; they are hard
    in one half of their occurrences, which stand in a fixed phrase, and like the others elsewhere.

    Args:
        rocks: Number of types that stay hard.
        learned: Number of types that learn.
        height: Mean divergence of both under the first checkpoint, in that of other types.
        prompts: Number of prompts.
        samples: Rollouts of each prompt.
        tokens: Tokens of each rollout.
        types: Size of the vocabulary.
        checkpoints: Names of the checkpoints, two or more.
        seed: Seed of every draw.

    Returns:
        The run; its truth holds the ids of `rocks` and `learned`, and `lift_of_rocks` over other
        types.
    """
    run = null_run(
        prompts=prompts,
        samples=samples,
        tokens=tokens,
        types=types,
        checkpoints=checkpoints,
        seed=seed,
    )
    rng = np.random.default_rng([seed, 1])
    ids = run.tokens["token_id"].to_numpy().reshape(len(checkpoints), -1, tokens)[0].copy()
    planted = FIRST_PLANTED + rng.permutation(rocks + learned)
    rock, learner = np.sort(planted[:rocks]), np.sort(planted[rocks:])
    in_phrase = np.zeros(ids.shape, np.bool_)
    for number, kind in enumerate(rock):
        phrase = (types - 4 * (number + 1) + np.arange(4)).astype(np.int32)
        in_phrase |= _stand_in_phrase(rng, ids, int(kind), phrase)
    factors = []
    for progress in np.linspace(0, 1, len(checkpoints)):
        factor = np.where(in_phrase, 1 + (height - 1) / PHRASE_SHARE, 1.0)
        factor[np.isin(ids, learner)] = height + (1 - height) * progress
        factors.append(factor.ravel())
    truth = {"rocks": rock.tolist(), "learned": learner.tolist(), "lift_of_rocks": height}
    stays = np.isin(ids, rock).ravel()
    return _with(_staying(run, stays, rng), ids, np.concatenate(factors), truth)


def unchanged_run(
    *,
    spread: float = 0.5,
    prompts: int = 24,
    samples: int = 4,
    tokens: int = 200,
    types: int = 200,
    checkpoints: Sequence[str] = ("step0", "step150"),
    seed: int = 0,
) -> Dataset:
    """Make a run whose types differ in divergence, and in which nothing changes.

    Args:
        spread: Standard deviation of the logarithm of the types' means.
        prompts: Number of prompts.
        samples: Rollouts of each prompt.
        tokens: Tokens of each rollout.
        types: Size of the vocabulary.
        checkpoints: Names of the checkpoints.
        seed: Seed of every draw.

    Returns:
        The run; its truth holds the `relative_change` 0 and the `means` of the types, in units of
        the common level.
    """
    run = null_run(
        prompts=prompts,
        samples=samples,
        tokens=tokens,
        types=types,
        checkpoints=checkpoints,
        seed=seed,
    )
    means = np.exp(spread * np.random.default_rng([seed, 2]).standard_normal(types))
    ids = run.tokens["token_id"].to_numpy()
    truth = {"relative_change": 0.0, "means": means}
    return _with(run, ids[: ids.size // len(checkpoints)], means[ids], truth)


class PlantedGradients(NamedTuple):
    """Gradient sums, and what was planted in them.

    Attributes:
        sums: Sums per type and half of the prompts.
        truth: `norm2`, the squared norm of every type's mean gradient.
    """

    sums: GradientSums
    truth: Mapping[str, Any]


def equal_gradients(
    n: Sequence[int],
    *,
    hidden: int = 16,
    norm2: float = 1.0,
    noise: float = 3.0,
    prompts: int = 64,
    prompt_noise: float = 0.5,
    seed: int = 0,
) -> PlantedGradients:
    """Sum gradients that have one distribution for all types, whatever their frequency.

    Args:
        n: Occurrences of each type; its place in the list is its id.
        hidden: Dimensions.
        norm2: Squared norm of the mean gradient, which all types share.
        noise: Standard deviation of one occurrence, in each dimension.
        prompts: Number of prompts, dealt to the halves in turn.
        prompt_noise: Standard deviation of what all occurrences of a prompt share.
        seed: Seed of every draw.
    """
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(len(n)), n)
    prompt = rng.integers(prompts, size=kind.size)
    gradient = noise * rng.standard_normal((kind.size, hidden))
    gradient += (prompt_noise * rng.standard_normal((prompts, hidden)))[prompt]
    gradient += np.sqrt(norm2 / hidden)
    order = np.lexsort((prompt % 2, kind))
    key = (2 * kind + prompt % 2)[order]
    cells, start, count = np.unique(key, return_index=True, return_counts=True)
    sums = GradientSums(
        token_id=(cells // 2).astype(np.int32),
        half=(cells % 2).astype(np.uint8),
        n=count.astype(np.int64),
        S=np.add.reduceat(gradient[order], start).astype(np.float32),
        Q=np.add.reduceat((gradient**2).sum(axis=1)[order], start),
    )
    return PlantedGradients(sums, {"norm2": norm2})


def _stand_in_phrase(
    rng: np.random.Generator,
    ids: npt.NDArray[np.int32],
    kind: int,
    phrase: npt.NDArray[np.int32],
) -> npt.NDArray[np.bool_]:
    """Put two fixed ids on either side of one half of a type's occurrences; say which.

    Neighbours that are themselves planted are left alone, so no type loses occurrences.
    """
    row, column = np.nonzero(ids == kind)
    inside = (column >= 2) & (column < ids.shape[1] - 2) & (rng.random(row.size) < PHRASE_SHARE)
    row, column = row[inside], column[inside]
    for step, neighbour in zip((-2, -1, 1, 2), phrase, strict=True):
        at = row, column + step
        common = ids[at] >= FIRST_PLANTED + 20
        ids[at] = np.where(common | (ids[at] < FIRST_PLANTED), neighbour, ids[at])
    planted = np.zeros(ids.shape, np.bool_)
    planted[row, column] = True
    return planted


def _staying(run: Dataset, stays: npt.NDArray[np.bool_], rng: np.random.Generator) -> Dataset:
    """Let some tokens keep their divergence under every checkpoint, but for a little noise."""
    columns = {}
    for name in ("reverse_kl", "forward_kl"):
        values = run.tokens[name].to_numpy().reshape(-1, stays.size).copy()
        noise = np.exp(STAYING_NOISE * rng.standard_normal(values.shape))
        values[1:, stays] = (values[:1] * noise[1:])[:, stays]
        columns[name] = values.ravel().astype(np.float32)
    tokens = run.tokens.with_columns(pl.Series(name, column) for name, column in columns.items())
    return run._replace(tokens=tokens)


def _with(
    run: Dataset, ids: npt.NDArray[np.int32], factor: Floats, truth: Mapping[str, Any]
) -> Dataset:
    """Give a run other tokens, and multiply its divergences."""
    rollouts = run.rollouts.height
    checkpoints = run.tokens.height // ids.size
    tokens = run.tokens.with_columns(
        pl.Series("token_id", np.tile(ids.ravel(), checkpoints)),
        (pl.col("reverse_kl", "forward_kl") * pl.Series(factor)).cast(pl.Float32),
        (pl.col("grad_logits") * pl.Series(np.sqrt(factor))).cast(pl.Float32),
    )
    listed = pl.Series("response_token_ids", ids.reshape(rollouts, -1).tolist(), pl.List(pl.Int32))
    return Dataset(tokens, run.rollouts.with_columns(listed), truth)
