"""Runs in which there is nothing to find, as ugly as the divergences of real runs."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import ndtri

from opd_diag.datasets.base import SEGMENT_TOKENS, Dataset, rollouts_table, token_frame, zipf
from opd_diag.stats.ragged import index_in_sequence, run_lengths, run_starts, starts_of
from opd_diag.tables.columns.tokens import K_GRID

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

MEDIAN_KL = 0.02  # nat, of the tokens that are not exactly 0
LARGEST_KL = 30.0  # nat
TOPICS = 6
BURST_REACH = 20  # tokens back to which a burst reaches
PROMPT_NOISE = 1 / 3  # noise of a snapshot that the tokens of a prompt share, over that of a token

NULLS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "heavy": {"sigma": 3.0},
        "zeros": {"sigma": 2.0, "zeros": 0.7},
        "prompts": {"prompt_effect": 1.0, "rollout_effect": 0.5, "correct_effect": 1.5},
        "topics": {"prompt_effect": 0.7, "topical": 0.5, "bursts": 0.3, "memory": 0.4},
        "memory": {"memory": 0.6, "segment_tokens": 1},
        "lengths": {"rollout_effect": 0.8, "length_spread": 0.5, "length_with_kl": 0.7},
        "snapshots": {"sigma": 2.0, "snapshots": 0.6, "prompt_effect": 0.5},
        "trend": {"trend": -1.0, "segment_effect": 0.5},
        "falling": {"sigma": 2.0, "zeros": 0.5, "prompt_effect": 0.5, "fall": 0.3},
        "all": {
            "sigma": 2.5,
            "zeros": 0.7,
            "prompt_effect": 0.8,
            "rollout_effect": 0.5,
            "correct_effect": 1.0,
            "topical": 0.5,
            "bursts": 0.3,
            "memory": 0.5,
            "segment_effect": 0.3,
            "length_spread": 0.4,
            "length_with_kl": 0.6,
            "margin_with_kl": -0.3,
            "snapshots": 0.4,
        },
    }
)
"""Options of `ugly_run` by the name of what makes the null ugly; `all` has no trend.

In `memory` every token is a segment, so that rules over segments meet long series with memory.
"""


class _Layout(NamedTuple):
    """Where each token stands: one value per token, rollouts one after the other."""

    lengths: Integers
    rollout: Integers
    prompt: Integers
    position: Integers


def ugly_run(
    *,
    prompts: int = 48,
    samples: int = 2,
    tokens: int = 150,
    types: int = 400,
    checkpoints: Sequence[str] = ("step0", "step150", "step300"),
    k_grid: Sequence[int] = K_GRID,
    sigma: float = 1.5,
    zeros: float = 0.0,
    prompt_effect: float = 0.0,
    rollout_effect: float = 0.0,
    correct_effect: float = 0.0,
    topical: float = 0.0,
    bursts: float = 0.0,
    memory: float = 0.0,
    segment_effect: float = 0.0,
    segment_tokens: int = SEGMENT_TOKENS,
    length_spread: float = 0.0,
    length_with_kl: float = 0.0,
    margin_with_kl: float = 0.0,
    trend: float = 0.0,
    snapshots: float = 0.3,
    fall: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Make a run in which nothing depends on the token, and nothing is learned but by `fall`.

    The KL of a token is 0.02 nat times exp(x), at most 30 nat. x is Gaussian with standard
    deviation `sigma` within a rollout, plus the effects below. The checkpoints are exchangeable
    snapshots of one student: noise around one common value of each token. The teacher's columns,
    token ids and segments are the same under all of them. As in real runs, entropy, gradient norm
    and the mass outside the student's top K rise with KL.

    Without `trend` every series along a response is stationary and time-reversible. `NULLS`
    names combinations of the options.

    Args:
        prompts: Number of prompts.
        samples: Rollouts of each prompt.
        tokens: Tokens of a rollout, the median where lengths differ.
        types: Size of the vocabulary; at least 64.
        checkpoints: Names of the checkpoints.
        k_grid: The K of the array columns, rising.
        sigma: Standard deviation of log KL within a rollout; real runs have 1.5 to 3.
        zeros: Share of tokens whose KL is exactly 0; they stand in stretches where there is
            `memory`.
        prompt_effect: Standard deviation of log KL between prompts.
        rollout_effect: The same between rollouts of a prompt.
        correct_effect: Standard deviation between prompts of the logit of `correct`; half of its
            variance is shared with the prompt's log KL, harder prompts being wrong more often.
            Within a prompt, rollouts are right or wrong at random.
        topical: Share of tokens drawn from the types of the prompt's topic, one of 6; the rest
            follow one Zipf law.
        bursts: Share of tokens that repeat one of the 20 tokens before.
        memory: Lag-1 autocorrelation of log KL, of the zeros and of log margin.
        segment_effect: Standard deviation of log KL between segments of a response.
        segment_tokens: Tokens of a segment on average; 1: as many segments as tokens.
        length_spread: Standard deviation of the logarithm of the length.
        length_with_kl: Correlation of that logarithm with the rollout's level of log KL.
        margin_with_kl: Correlation of log margin with log KL.
        trend: What log KL and log margin rise by from the start to the end of a response; the
            only option under which a series along the response is not null.
        snapshots: Standard deviation of log KL of a token between checkpoints, plus a third of
            it that the tokens of a prompt share; 0: identical checkpoints.
        fall: Share of its KL that every token has lost by the last checkpoint, the same for all;
            the only option under which something is learned.
        seed: Seed of every draw.

    Returns:
        The run, with an empty truth.
    """
    rng = np.random.default_rng(seed)
    of_prompt = rng.standard_normal(prompts)
    level = np.repeat(prompt_effect * of_prompt, samples)
    level = level + rollout_effect * rng.standard_normal(prompts * samples)
    spread = np.hypot(prompt_effect, rollout_effect)
    lengths = _lengths(
        rng, level / spread if spread else level, tokens, length_spread, length_with_kl
    )
    at = _layout(lengths, samples)
    ids = _token_ids(rng, at, types, prompts, topical, bursts)
    segment = _segments(rng, at, segment_tokens)
    effect = segment_effect * rng.standard_normal(at.rollout.size)
    drift = trend * (at.position / np.maximum(lengths - 1, 1)[at.rollout] - 0.5)
    own = _series(rng, at, memory)
    x = sigma * own + level[at.rollout] + drift + effect[_first_of_segment(at, segment)]
    margin = margin_with_kl * own + np.sqrt(1 - margin_with_kl**2) * _series(rng, at, memory)
    common = _Common(
        x=x,
        z=_series(rng, at, memory),
        entropy=rng.standard_normal(x.size),
        outside=rng.standard_normal(x.size),
        ratio=0.5 * rng.standard_normal(x.size),
        margin=np.exp(0.3 + 0.8 * margin + drift),
    )
    logp = -np.exp(0.7 * common.entropy - 1.2) * rng.standard_exponential(x.size)
    teacher = _teacher(rng, common, logp, ids, types)
    keys = {
        "rollout": at.rollout.astype(np.uint32),
        "position": at.position.astype(np.uint32),
        "token_id": ids,
        "segment": segment,
        "in_loss": np.ones(ids.size, np.bool_),
        "repeat": rng.poisson(0.5 + 2 * bursts, ids.size).astype(np.uint16),
    }
    student: dict[str, npt.NDArray[Any]] = {}
    frames = []
    for progress, name in zip(np.linspace(0, 1, len(checkpoints)), checkpoints, strict=True):
        if snapshots or fall or not student:
            noise = snapshots * rng.standard_normal(x.size)
            noise += snapshots * PROMPT_NOISE * rng.standard_normal(prompts)[at.prompt]
            noise += progress * np.log1p(-fall)
            student = _student(
                rng, common, logp, noise, snapshots, sigma, zeros, ids, types, k_grid
            )
        columns = {"checkpoint": np.full(ids.size, name), **keys, **teacher, **student}
        frames.append(token_frame(columns, k_grid))
    shared = (rng.standard_normal(prompts) - of_prompt) / np.sqrt(2)
    right = 1 / (1 + np.exp(-correct_effect * np.repeat(shared, samples)))
    ends = np.cumsum(lengths)[:-1]
    rollouts = rollouts_table(
        [part.tolist() for part in np.split(ids, ends)],
        [part.tolist() for part in np.split(frames[0]["student_logp"].to_numpy(), ends)],
        samples=samples,
        correct=rng.random(lengths.size) < right,
        finish=rng.choice(["stop", "length"], lengths.size, p=[0.8, 0.2]),
        policy=checkpoints[0],
    )
    return Dataset(pl.concat(frames), rollouts, {}, tuple(k_grid))


class _Common(NamedTuple):
    """What all snapshots share, one value per token."""

    x: Floats  # log KL over its median
    z: Floats  # standard normal; KL is 0 where it is low
    entropy: Floats
    outside: Floats
    ratio: Floats  # log of forward over reverse KL
    margin: Floats


def _lengths(
    rng: np.random.Generator, level: Floats, tokens: int, spread: float, with_kl: float
) -> Integers:
    """Draw lengths, given the level of each rollout in standard deviations."""
    noise = with_kl * level + np.sqrt(1 - with_kl**2) * rng.standard_normal(level.size)
    lengths = np.clip(tokens * np.exp(spread * noise), min(tokens, 32), 4 * tokens)
    return np.asarray(np.rint(lengths), np.int64)


def _layout(lengths: Integers, samples: int) -> _Layout:
    rollout = np.repeat(np.arange(lengths.size), lengths)
    return _Layout(lengths, rollout, rollout // samples, index_in_sequence(lengths))


def _series(rng: np.random.Generator, at: _Layout, phi: float) -> Floats:
    """Draw a stationary AR(1) series of variance 1 along every response. Shape (tokens,)."""
    # One row per place, so that a step reads and writes whole rows.
    noise = rng.standard_normal((int(at.lengths.max()), at.lengths.size))
    if phi:
        noise[1:] *= np.sqrt(1 - phi**2)
        for t in range(1, len(noise)):
            noise[t] += phi * noise[t - 1]
    return noise[at.position, at.rollout]


def _token_ids(
    rng: np.random.Generator, at: _Layout, types: int, prompts: int, topical: float, bursts: float
) -> npt.NDArray[np.int32]:
    """Draw the tokens: a Zipf law, or that of a topic, or one of the tokens before."""
    longest, count = int(at.lengths.max()), at.lengths.size
    shape = longest, count
    owned = types // 2 // TOPICS if topical else 0
    general = types - owned * TOPICS
    ids = _draw(rng, zipf(general), shape)
    if topical:
        topic = np.repeat(rng.integers(TOPICS, size=prompts), count // prompts)
        of_topic = general + owned * topic + _draw(rng, zipf(owned), shape)
        ids = np.where(rng.random(shape) < topical, of_topic, ids)
    if bursts:
        back = rng.integers(1, BURST_REACH + 1, shape)
        again = rng.random(shape) < bursts
        column = np.arange(count)
        for t in range(1, longest):
            source = ids[np.maximum(t - back[t], 0), column]
            ids[t] = np.where(again[t], source, ids[t])
    return ids[at.position, at.rollout].astype(np.int32)


def _draw(rng: np.random.Generator, p: Floats, shape: tuple[int, int]) -> Integers:
    return np.searchsorted(np.cumsum(p)[:-1], rng.random(shape)).astype(np.int64)


def _segments(rng: np.random.Generator, at: _Layout, tokens: int) -> npt.NDArray[np.uint32]:
    starts = (rng.random(at.rollout.size) < 1 / tokens) & (at.position > 0)
    number = np.cumsum(starts)
    first = starts_of(at.lengths)[at.rollout]
    return (number - number[first]).astype(np.uint32)


def _first_of_segment(at: _Layout, segment: npt.NDArray[np.uint32]) -> Integers:
    """Place of the first token of each token's segment. Shape (tokens,)."""
    starts = run_starts(at.rollout, segment)
    return np.repeat(starts, run_lengths(starts, segment.size))


def _teacher(
    rng: np.random.Generator,
    common: _Common,
    logp: Floats,
    ids: npt.NDArray[np.int32],
    types: int,
) -> dict[str, npt.NDArray[Any]]:
    """Draw the columns of the teacher, which all snapshots share.

    The mean of the student's log-prob less the teacher's is the reverse KL.
    """
    n = ids.size
    kl = np.minimum(MEDIAN_KL * np.exp(common.x), LARGEST_KL)
    ratio = kl + np.sqrt(2 * kl) * rng.standard_normal(n)
    top_logp = -np.exp(-1.5 - 0.5 * np.log(common.margin) + 0.7 * rng.standard_normal(n))
    rank = rng.geometric(0.8, n).clip(1, types)
    top_id = np.where(rank == 1, ids, rng.integers(types, size=n))
    entropy = np.exp(-1 - 0.4 * np.log(common.margin) + 0.6 * rng.standard_normal(n)).clip(0, 8)
    return {
        "teacher_logp": np.minimum(logp - ratio, 0).astype(np.float32),
        "teacher_rank": rank.astype(np.uint32),
        "teacher_entropy": entropy.astype(np.float32),
        "teacher_top_id": top_id.astype(np.int32),
        "teacher_top_logp": top_logp.astype(np.float32),
    }


def _student(
    rng: np.random.Generator,
    common: _Common,
    logp: Floats,
    noise: Floats,
    snapshots: float,
    sigma: float,
    zeros: float,
    ids: npt.NDArray[np.int32],
    types: int,
    k_grid: Sequence[int],
) -> dict[str, npt.NDArray[Any]]:
    """Make the columns of one snapshot, given its noise of log KL."""
    n, k = ids.size, np.array(k_grid)
    moved = 0.5 * min(snapshots, 1.0)

    def shaken(values: Floats) -> Floats:
        """Add noise of this snapshot to a standard normal column, and keep its variance."""
        if not moved:
            return values
        return np.asarray(np.sqrt(1 - moved**2) * values + moved * rng.standard_normal(n))

    log_kl = common.x + noise
    zero = shaken(common.z) < ndtri(zeros)
    reverse = np.where(zero, 0.0, np.minimum(MEDIAN_KL * np.exp(log_kl), LARGEST_KL))
    forward = np.minimum(reverse * np.exp(common.ratio + 0.1 * moved * noise), LARGEST_KL)
    height = np.where(zero, -3.0, log_kl / sigma)  # of log KL, in standard deviations
    entropy = np.exp(-1.2 + 0.6 * height + 0.7 * shaken(common.entropy)).clip(0, 8)
    outside = np.exp(-6 + 1.2 * height + shaken(common.outside))
    outside = np.minimum(outside[:, None] * np.sqrt(16 / k), 1)
    norm = np.sqrt(np.minimum(reverse, 2)) * np.exp(0.3 * rng.standard_normal(n))
    rank = rng.geometric(0.8, n).clip(1, types)
    shrink = np.exp(-0.1 * np.arange(k.size)) * np.exp(0.05 * rng.standard_normal((n, 1)))
    columns = {
        "student_logp": logp * np.exp(0.3 * moved * rng.standard_normal(n)),
        "student_rank": rank,
        "reverse_kl": reverse,
        "forward_kl": forward,
        "js": np.minimum(np.minimum(reverse, forward) / 8, np.log(2)),
        "student_entropy": entropy,
        "student_top_id": np.where(rank == 1, ids, rng.integers(types, size=n)),
        "teacher_top_rank": rng.geometric(0.8, n).clip(1, types),
        "margin": (common.margin * np.exp(0.3 * moved * noise)).clip(0, 50)[:, None] * shrink,
        "teacher_mass": 1 - outside,
        "overlap": rng.binomial(k, 0.7, (n, k.size)) / k,
        "union_kl": forward * rng.uniform(0.8, 1.0, n),
        "advantage_var": 2 * reverse * np.exp(0.5 * rng.standard_normal(n)),
        "grad_logits": norm,
        "grad_hidden": norm * np.exp(0.3 * rng.standard_normal(n)),
        "grad_head": 5 * norm * np.exp(0.3 * rng.standard_normal(n)),
    }
    narrow = {"f": np.float32, "i": np.uint32}
    return {
        name: values.astype(np.int32 if name.endswith("_id") else narrow[values.dtype.kind])
        for name, values in columns.items()
    }
