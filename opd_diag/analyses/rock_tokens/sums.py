"""Sums per prompt and token type: all that selection, intervals and comparisons need."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_array

from opd_diag.analyses.rock_tokens.occurrences import Occurrences

Floats: TypeAlias = npt.NDArray[np.float64]


class Sums(NamedTuple):
    """Sums over the occurrences of each type in each prompt; matrices are (prompts, types).

    Attributes:
        names: Checkpoints, in order.
        token_id: Token types. Shape (types,).
        prompt_id: Prompts, in order of their names.
        half: Half of each prompt. Shape (prompts,).
        n: Occurrences under each checkpoint: one matrix each, the same one where the
            checkpoints read the same tokens.
        x: Loss under each checkpoint, nat.
        square: Squared loss under the first checkpoint, nat².
        gradient: grad_logits under the first checkpoint, nat/logit.
        paired: Whether all checkpoints read the same tokens.
    """

    names: tuple[str, ...]
    token_id: npt.NDArray[np.int32]
    prompt_id: list[str]
    half: npt.NDArray[np.uint8]
    n: list[Any]
    x: list[Any]
    square: Any
    gradient: Any
    paired: bool


def prompt_sums(occurrences: Occurrences) -> Sums:
    """Sum the occurrences of each type in each prompt, in one pass."""
    shape = (len(occurrences.prompt_id), occurrences.token_id.size)
    losses = {f"loss{i}": loss for i, loss in enumerate(occurrences.loss)}
    frame = pl.DataFrame(
        {
            "prompt": occurrences.rollout_prompt[occurrences.rollout[occurrences.at]],
            "kind": occurrences.kind[occurrences.at],
            "gradient": occurrences.gradient,
            **losses,
        }
    )
    wide = pl.col("gradient", *losses).cast(pl.Float64)
    cells = (
        frame.lazy()
        .group_by("prompt", "kind")
        .agg(pl.len(), wide.sum(), square=(pl.col("loss0").cast(pl.Float64) ** 2).sum())
        .sort("prompt", "kind")
        .collect()
    )
    rows = np.bincount(cells["prompt"].to_numpy(), minlength=shape[0])
    place = (cells["kind"].to_numpy(), np.concatenate([[0], np.cumsum(rows)]))

    def matrix(name: str) -> Any:
        return csr_array((cells[name].to_numpy().astype(np.float64), *place), shape=shape)

    n = matrix("len")
    return Sums(
        names=occurrences.names,
        token_id=occurrences.token_id,
        prompt_id=occurrences.prompt_id,
        half=occurrences.half,
        n=[n] * len(losses),
        x=[matrix(name) for name in losses],
        square=matrix("square"),
        gradient=matrix("gradient"),
        paired=True,
    )


def beside(first: Sums, second: Sums) -> Sums:
    """Put the first checkpoint of one run beside the last of another, unpaired.

    Prompts and types are those of either run; a prompt of both keeps the half of the first, so
    that no half chooses on a prompt on which the other is measured. Where both checkpoints have
    one name, the second is called `<name> (second run)`.
    """
    name, other = first.names[0], second.names[-1]
    halves = dict(zip(second.prompt_id, second.half, strict=True))
    halves |= dict(zip(first.prompt_id, first.half, strict=True))
    prompts = sorted(halves)
    token_id = np.union1d(first.token_id, second.token_id).astype(np.int32)
    number = {prompt: place for place, prompt in enumerate(prompts)}

    def move(matrix: Any, run: Sums) -> Any:
        return _moved(matrix, run, number, token_id)

    return Sums(
        names=(name, other if other != name else f"{other} (second run)"),
        token_id=token_id,
        prompt_id=prompts,
        half=np.array([halves[prompt] for prompt in prompts], np.uint8),
        n=[move(first.n[0], first), move(second.n[-1], second)],
        x=[move(first.x[0], first), move(second.x[-1], second)],
        square=move(first.square, first),
        gradient=move(first.gradient, first),
        paired=False,
    )


def _moved(
    matrix: Any, run: Sums, number: Mapping[str, int], token_id: npt.NDArray[np.int32]
) -> Any:
    cells = matrix.tocoo()
    rows = np.array([number[prompt] for prompt in run.prompt_id])[cells.row]
    columns = np.searchsorted(token_id, run.token_id)[cells.col]
    return csr_array((cells.data, (rows, columns)), shape=(len(number), token_id.size))


def total(matrix: Any) -> Floats:
    """Add a matrix of sums over its prompts. Shape (types,)."""
    return np.asarray(matrix.sum(axis=0), np.float64).ravel()


def per_prompt(matrix: Any) -> Floats:
    """Add a matrix of sums over its types. Shape (prompts,)."""
    return np.asarray(matrix.sum(axis=1), np.float64).ravel()
