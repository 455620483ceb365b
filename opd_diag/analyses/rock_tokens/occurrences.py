"""Read the tokens that count, with one loss for each checkpoint."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.errors import TableError, faults
from opd_diag.tables.source import Source

Integers: TypeAlias = npt.NDArray[np.int64]

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
        token_id: Token types, rising. Shape (types,).
        prompt_id: Prompts, in order of their names. Shape (prompts,).
        half: Half of each prompt. Shape (prompts,).
        rollout_prompt: Prompt of each rollout. Shape (rollouts,).
        rollout_id: Number of each rollout in the rollouts table, rising.
        kind: Type of each token. Shape (N,).
        rollout: Rollout of each token.
        position: Its place in the response.
        at: Tokens that are occurrences. Shape (n,).
        loss: Loss of each occurrence under each checkpoint, nat. Shape (checkpoints, n).
        gradient: grad_logits of each occurrence under the first checkpoint; 0 where it is null.
        dropped: Tokens of each rollout in the loss that were left out for a loss that is null.
    """

    names: tuple[str, ...]
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


def read_occurrences(
    source: Source, names: Sequence[str], rollouts: pl.DataFrame, loss: str
) -> Occurrences:
    """Read the tokens of some rollouts under some checkpoints, verified one to one.

    Args:
        source: Where the tokens come from.
        names: Checkpoints, in order.
        rollouts: The rollouts to read, sorted by `rollout`.
        loss: One of `LOSSES`.

    Raises:
        TableError: If a column is missing, a token occurs twice, two checkpoints do not hold
            the same tokens, or no token counts.
    """
    _expect("rollouts", rollouts.columns, ["prompt_id", "half"])
    number = pl.col("prompt_id").rank("dense").cast(pl.Int32) - 1
    rollouts = rollouts.select("rollout", "prompt_id", "half", prompt=number)
    ids = rollouts["rollout"].to_numpy()
    tokens, losses = _read(source, names[0], ids, loss, ["token_id", "in_loss", "grad_logits"])
    all_losses = [losses]
    for name in names[1:]:
        other, losses = _read(source, name, ids, loss, ["token_id"])
        keys = ["rollout", "position", "token_id"]
        if not other.select(keys).equals(tokens.select(keys)):
            raise TableError(
                f"tokens: checkpoints {names[0]!r} and {name!r} differ in (rollout, position, "
                "token_id); expected the same tokens, one to one"
            )
        all_losses.append(losses)
    finite = np.logical_and.reduce([np.isfinite(one) for one in all_losses])
    in_loss = tokens["in_loss"].to_numpy()
    at = np.flatnonzero(in_loss & finite)
    if not at.size:
        raise TableError("tokens: none in the loss with a finite value; expected at least one")
    rollout = _rows_of(tokens["rollout"].to_numpy(), ids)
    token_id, kind = _codes(tokens["token_id"].to_numpy())
    prompts = rollouts.unique("prompt").sort("prompt")
    return Occurrences(
        names=tuple(names),
        token_id=token_id,
        prompt_id=prompts["prompt_id"].to_list(),
        half=prompts["half"].to_numpy(),
        rollout_prompt=rollouts["prompt"].to_numpy(),
        rollout_id=ids,
        kind=kind,
        rollout=rollout,
        position=tokens["position"].to_numpy().astype(np.int32),
        at=at,
        loss=np.stack([one[at] for one in all_losses]),
        gradient=tokens["grad_logits"].fill_null(0).to_numpy()[at],
        dropped=np.bincount(rollout[in_loss & ~finite], minlength=ids.size),
    )


def _read(
    source: Source,
    name: str,
    rollouts: npt.NDArray[np.uint32],
    loss: str,
    columns: Sequence[str],
) -> tuple[pl.DataFrame, npt.NDArray[np.float32]]:
    """Read one checkpoint, sorted, and its loss with NaN for null."""
    table = source.tokens(name)
    needed = ["rollout", "position", *columns, *LOSSES[loss].meta.root_names()]
    _expect("tokens", table.collect_schema().names(), needed)
    frame = table.select("rollout", "position", *columns, loss=LOSSES[loss]).collect()
    if rollouts.size < source.rollouts.height:
        frame = frame.filter(np.isin(frame["rollout"].to_numpy(), rollouts))
    key = frame["rollout"].to_numpy().astype(np.int64) << 32 | frame["position"].to_numpy()
    if not (key[1:] > key[:-1]).all():
        order = np.argsort(key, kind="stable")
        if (np.diff(key[order]) == 0).any():
            raise TableError("tokens: (rollout, position) occurs twice; expected each token once")
        frame = frame[order]
    return frame, frame["loss"].cast(pl.Float32).fill_null(np.nan).to_numpy()


def _expect(where: str, there: Sequence[str], needed: Sequence[str]) -> None:
    absent = [column for column in needed if column not in there]
    if absent:
        raise TableError(faults(where, [f"no column {c!r}; expected it" for c in absent]))


def _rows_of(rollout: npt.NDArray[np.uint32], ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
    """Find the row of each token's rollout."""
    rows = np.searchsorted(ids, rollout).astype(np.int32)
    strange = ids[np.minimum(rows, ids.size - 1)] != rollout
    if strange.any():
        raise TableError(
            f"tokens: rollout {rollout[strange][0]} is not in the rollouts table; expected only "
            "rollouts that are"
        )
    return rows


def _codes(
    ids: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """List the ids that occur, and number every token by that list."""
    seen = np.zeros(int(ids.max()) + 1, np.bool_)
    seen[ids] = True
    return np.flatnonzero(seen).astype(np.int32), (np.cumsum(seen, dtype=np.int32) - 1)[ids]
