"""Read the tokens that count, and sum them per prompt and token type: what all else is made of."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_array

from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.tokens import TokenTable, read_tokens
from opd_diag.errors import TableError, faults
from opd_diag.stats.intervals import FEWEST_CLUSTERS, effective_clusters
from opd_diag.stats.ragged import index_in_sequence
from opd_diag.tables.source import Source

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]

FEWEST_OCCURRENCES = 10  # of a type that has an interval
MOST_DENSE = 16_000_000

LOSSES = {
    "reverse_kl": pl.col("reverse_kl"),
    "forward_kl": pl.col("forward_kl"),
    "sampled_log_ratio": pl.col("student_logp") - pl.col("teacher_logp"),
}


class Occurrences(NamedTuple):
    """The tokens of a run, sorted by (rollout, position).

    Tokens, N, are all of the chosen rollouts, since those outside the loss are context too.
    Occurrences, n, are those that count: in the loss, with a finite loss under every checkpoint.

    Attributes:
        names: Checkpoints, in order.
        ranked: The checkpoint that ranks, a place in `names`.
        token_id: Token types, rising. Shape (types,).
        prompt_id: Prompts, in order of their names. Shape (prompts,).
        half: Half of each prompt. Shape (prompts,).
        rollout_prompt: Prompt of each rollout. Shape (rollouts,).
        rollout_id: Number of each rollout in the rollouts table, rising.
        kind: Type of each token. Shape (N,).
        rollout: Row of each token's rollout.
        position: Its place in the response.
        at: Tokens that are occurrences. Shape (n,).
        loss: Loss of each occurrence under each checkpoint, nat. Shape (checkpoints, n).
        gradient: grad_logits of each occurrence under the checkpoint that ranks; 0 for null.
        dropped: Tokens of each rollout in the loss that were left out for a loss that is null.
    """

    names: tuple[str, ...]
    ranked: int
    token_id: npt.NDArray[np.int32]
    prompt_id: list[str]
    half: npt.NDArray[np.uint8]
    rollout_prompt: npt.NDArray[np.int32]
    rollout_id: npt.NDArray[np.uint32]
    kind: npt.NDArray[np.int32]
    rollout: npt.NDArray[np.int32]
    position: npt.NDArray[np.int32]
    at: Integers
    loss: npt.NDArray[np.float32]
    gradient: npt.NDArray[np.float32]
    dropped: Integers

    @property
    def prompt(self) -> npt.NDArray[np.int32]:
        """Prompt of each occurrence. Shape (n,)."""
        return self.rollout_prompt[self.rollout[self.at]]

    @property
    def tenth(self) -> npt.NDArray[np.int32]:
        """Tenth of its response in which each occurrence stands, 0 to 9. Shape (n,)."""
        lengths = np.bincount(self.rollout[self.at], minlength=self.rollout_id.size)
        tenth = 10 * index_in_sequence(lengths) // np.repeat(lengths, lengths)
        return tenth.astype(np.int32)


def read_occurrences(
    source: Source,
    names: Sequence[str],
    rollouts: pl.DataFrame,
    loss: str,
    *,
    rank_by: str = "last",
) -> Occurrences:
    """Read the tokens of some rollouts under some checkpoints, verified one to one.

    Args:
        source: Where the tokens come from.
        names: Checkpoints, in order.
        rollouts: The rollouts to read, sorted by `rollout`.
        loss: One of `LOSSES`.
        rank_by: `last`, `first` or `joint`, which is described under the last checkpoint too.

    Raises:
        TableError: If a column is missing, a token occurs twice, two checkpoints do not hold
            the same tokens, or no token counts.
    """
    absent = [name for name in ("prompt_id", "half") if name not in rollouts.columns]
    if absent:
        raise TableError(faults("rollouts", [f"no column {c!r}; expected it" for c in absent]))
    number = pl.col("prompt_id").rank("dense").cast(pl.Int32) - 1
    rollouts = rollouts.select("rollout", "prompt_id", "half", prompt=number)
    needed = ("in_loss", "grad_logits", *LOSSES[loss].meta.root_names())
    tokens = read_tokens(source, rollouts, names, columns=needed)
    ranked = 0 if rank_by == "first" else len(names) - 1
    shared = tokens.frame(["token_id", "in_loss"])
    gradient = tokens.frame([pl.col("grad_logits").fill_null(0)], names[ranked])
    losses = [_losses(tokens, name, loss) for name in names]
    finite = np.logical_and.reduce([np.isfinite(one) for one in losses])
    in_loss = shared["in_loss"].to_numpy()
    at = np.flatnonzero(in_loss & finite)
    if not at.size:
        raise TableError("tokens: none in the loss with a finite value; expected at least one")
    rollout = tokens.row
    token_id, kind = _codes(shared["token_id"].to_numpy())
    prompts = rollouts.unique("prompt").sort("prompt")
    return Occurrences(
        names=tuple(names),
        ranked=ranked,
        token_id=token_id,
        prompt_id=prompts["prompt_id"].to_list(),
        half=prompts["half"].to_numpy(),
        rollout_prompt=rollouts["prompt"].to_numpy(),
        rollout_id=rollouts["rollout"].to_numpy(),
        kind=kind,
        rollout=rollout,
        position=tokens.position.astype(np.int32),
        at=at,
        loss=np.stack([one[at] for one in losses]),
        gradient=gradient["grad_logits"].to_numpy()[at],
        dropped=np.bincount(rollout[in_loss & ~finite], minlength=rollouts.height),
    )


def _losses(tokens: TokenTable, checkpoint: str, loss: str) -> npt.NDArray[np.float32]:
    """Read the loss under one checkpoint, NaN for null."""
    frame = tokens.frame(
        [LOSSES[loss].cast(pl.Float32).fill_null(np.nan).alias("loss")], checkpoint
    )
    return frame["loss"].to_numpy()


def _codes(
    ids: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """List the ids that occur, and number every token by that list."""
    seen = np.zeros(int(ids.max()) + 1, np.bool_)
    seen[ids] = True
    return np.flatnonzero(seen).astype(np.int32), (np.cumsum(seen, dtype=np.int32) - 1)[ids]


class Cells(NamedTuple):
    """Which occurrences are of one prompt and one type, so that anything can be summed by both.

    Attributes:
        cell: Cell of each occurrence. Shape (n,).
        kind: Type of each cell; the cells of a prompt follow one another. Shape (cells,).
        start: First cell of each prompt, and the number of cells. Shape (prompts + 1,).
        types: Number of types.
    """

    cell: npt.NDArray[np.uint32]
    kind: npt.NDArray[np.int32]
    start: Integers
    types: int

    def sums(self, values: npt.NDArray[Any] | None = None) -> Any:
        """Sum a value of each occurrence, or count them. Sparse, shape (prompts, types)."""
        return self.matrix(np.bincount(self.cell, values, self.kind.size))

    def matrix(self, values: npt.NDArray[Any]) -> Any:
        """Put a value of each cell in its place. Sparse, shape (prompts, types)."""
        shape = self.start.size - 1, self.types
        return csr_array((values.astype(np.float64), self.kind, self.start), shape=shape)


def prompt_cells(occurrences: Occurrences) -> Cells:
    """Number the cells of prompt and type."""
    types = occurrences.token_id.size
    prompt = occurrences.prompt.astype(np.int64)
    key = pl.Series("key", prompt * types + occurrences.kind[occurrences.at])
    cell = key.rank("dense").to_numpy().astype(np.uint32) - np.uint32(1)
    keys = key.unique().sort().to_numpy()
    counts = np.bincount(keys // types, minlength=len(occurrences.prompt_id))
    start = np.concatenate([[0], np.cumsum(counts)])
    return Cells(cell, (keys % types).astype(np.int32), start, types)


class Sums(NamedTuple):
    """Sums over the occurrences of each type in each prompt; matrices are (prompts, types).

    Attributes:
        names: Checkpoints, in order.
        ranked: The checkpoint that ranks, a place in `names`.
        token_id: Token types. Shape (types,).
        prompt_id: Prompts, in order of their names.
        half: Half of each prompt. Shape (prompts,).
        n: Occurrences under each checkpoint: one matrix each, the same one where the
            checkpoints read the same tokens.
        x: Loss under each checkpoint, nat.
        square: Squared loss under the checkpoint that ranks, nat².
        gradient: grad_logits under it, nat/logit.
        paired: Whether all checkpoints read the same tokens.
    """

    names: tuple[str, ...]
    ranked: int
    token_id: npt.NDArray[np.int32]
    prompt_id: list[str]
    half: npt.NDArray[np.uint8]
    n: list[Any]
    x: list[Any]
    square: Any
    gradient: Any
    paired: bool

    def prompts(self, seed: int, *, by_half: bool = False) -> Prompts:
        """Return what estimates from sums, one row per prompt; drawn inside each half, or not."""
        strata = self.half if by_half else None
        return Prompts(np.arange(len(self.prompt_id)), seed=seed, strata=strata)


def prompt_sums(occurrences: Occurrences, cells: Cells) -> Sums:
    """Sum the occurrences of each type in each prompt."""
    n = cells.sums()
    return Sums(
        names=occurrences.names,
        ranked=occurrences.ranked,
        token_id=occurrences.token_id,
        prompt_id=occurrences.prompt_id,
        half=occurrences.half,
        n=[n] * len(occurrences.names),
        x=[cells.sums(loss) for loss in occurrences.loss],
        square=cells.sums(occurrences.loss[occurrences.ranked].astype(np.float64) ** 2),
        gradient=cells.sums(occurrences.gradient),
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
        ranked=0,
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


def trusted(n: Any) -> Mask:
    """Tell which types occur often enough, and in enough prompts, to have an interval."""
    enough = effective_clusters(n) >= FEWEST_CLUSTERS
    return np.asarray((total(n) >= FEWEST_OCCURRENCES) & enough)


def columns(matrix: Any, items: Integers) -> Any:
    """Take the columns of some types: dense, for they are the common ones, unless that is huge."""
    part = matrix[:, items]
    return part.toarray() if part.shape[0] * part.shape[1] <= MOST_DENSE else part
