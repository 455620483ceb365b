"""What is known before any weights are loaded: rollouts as arrays, vocabulary, parts."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypedDict

import numpy as np
import polars as pl
from numpy.typing import NDArray

from opd_diag.errors import RolloutError, faults
from opd_diag.scoring.token_lists import Ragged, ragged
from opd_diag.stats.ragged import starts_of
from opd_diag.tables.manifest import Part
from opd_diag.tables.rollouts import Rollouts, check_rollouts
from opd_diag.text.tokenizers import compare_tokenizers, load_tokenizer
from opd_diag.text.vocabulary import check_ids, vocab_table


class Origin(TypedDict):
    """Which version of a hub id is meant, and whether its code may run."""

    revision: str | None
    trust_remote_code: bool


class Sequences(NamedTuple):
    """What the models read.

    Attributes:
        prompts: Prompt of every rollout for the students.
        teacher_prompts: Prompt of every rollout for the teacher.
        responses: Response of every rollout, cut to what is scored.
    """

    prompts: Ragged
    teacher_prompts: Ragged
    responses: Ragged

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens that the longer of both models' inputs has. Shape (rollouts,)."""
        prompts = np.maximum(self.prompts.lengths, self.teacher_prompts.lengths)
        # The last token of a response is only a target.
        return prompts + self.responses.lengths - 1


def sequences(table: pl.DataFrame, max_response_tokens: int | None = None) -> Sequences:
    """Take what the models read from a rollouts table.

    Args:
        table: Rollouts.
        max_response_tokens: Only so many tokens of each response are scored.
    """
    responses = table["response_token_ids"]
    if max_response_tokens is not None:
        responses = responses.list.head(max_response_tokens)
    teacher = table.select(pl.coalesce("teacher_prompt_token_ids", "prompt_token_ids")).to_series()
    return Sequences(ragged(table["prompt_token_ids"]), ragged(teacher), ragged(responses))


def plan_parts(tokens: NDArray[np.int64], part_tokens: int) -> list[Part]:
    """Cut rollouts into parts of about `part_tokens` response tokens.

    Args:
        tokens: Response tokens of every rollout, at least one in all. Shape (rollouts,).
        part_tokens: A rollout that starts beyond the n-th multiple of it opens a new part.
    """
    # Empty responses at the end go with the rollout before them, so that every part has rows.
    before = starts_of(tokens)
    before = np.minimum(before, before[np.flatnonzero(tokens)[-1]])
    starts = np.unique(before // part_tokens, return_index=True)[1]
    stops = np.append(starts[1:], len(tokens))
    rows = np.add.reduceat(tokens, starts)
    return [Part(*map(int, part)) for part in zip(starts, stops, rows, strict=True)]


class Inputs(NamedTuple):
    """Rollouts and vocabulary of a run.

    Attributes:
        table: The rollouts.
        sequences: What the models read.
        vocab: The vocabulary table, of the teacher's tokenizer.
        shared: Number of ids that the teacher's and each student's tokenizer share, by name.
    """

    table: pl.DataFrame
    sequences: Sequences
    vocab: pl.DataFrame
    shared: dict[str, int]


def read_inputs(
    rollouts: Rollouts,
    teacher: str,
    students: Mapping[str, str],
    *,
    others: Iterable[str] = (),
    limit: int | None = None,
    max_response_tokens: int | None = None,
    tokenizer: str | None = None,
    origin: Origin,
) -> Inputs:
    """Check rollouts and tokenizers against each other.

    Args:
        rollouts: What `read_rollouts` returns.
        teacher: Folder or hub id of the teacher.
        students: Folders or hub ids by name.
        others: Folders or hub ids of further teachers, which need the same tokenizer.
        limit: Only so many rollouts.
        max_response_tokens: Only so many tokens of each response.
        tokenizer: Folder or hub id whose tokenizer the models without one share.
        origin: Version of hub ids, and whether their code may run.

    Raises:
        RolloutError: If an id lies outside the vocabulary, a prompt is empty, or there is no
            response token at all, or none in the loss.
        ModelError: If a tokenizer cannot be loaded.
        ModelMismatchError: If two tokenizers differ.
    """
    table = check_rollouts(rollouts.table, "rollouts")
    table = table if limit is None else table.head(limit)
    own = load_tokenizer(teacher, fallback=tokenizer, **origin)
    shared = {
        name: compare_tokenizers(
            own,
            load_tokenizer(path, fallback=tokenizer, **origin),
            names=("teacher", f"student {name}"),
        )
        for name, path in students.items()
    }
    for path in others:
        another = load_tokenizer(path, fallback=tokenizer, **origin)
        most = compare_tokenizers(own, another, names=("teacher", f"teacher {path}"))
        shared = {name: min(ids, most) for name, ids in shared.items()}
    if tokenizer is not None:
        compare_tokenizers(own, load_tokenizer(tokenizer, **origin), names=("teacher", "tokenizer"))
    check_ids(table, min(shared.values()))
    _check_prompts(table)
    read = sequences(table, max_response_tokens)
    if not read.responses.offsets[-1]:
        raise RolloutError(f"rollouts: {table.height} rows without a response token; expected some")
    if not n_in_loss(table, max_response_tokens):
        raise RolloutError(
            f"rollouts: none of {read.responses.offsets[-1]:,} response tokens is in the loss, and "
            "only those are analysed; expected a loss_mask that is 1 where a token counts"
        )
    return Inputs(table, read, vocab_table(own), shared)


def n_in_loss(table: pl.DataFrame, max_response_tokens: int | None = None) -> int:
    """Count the response tokens that are in the loss, of those that are scored."""
    masks, responses = table["loss_mask"], table["response_token_ids"]
    if max_response_tokens is not None:
        masks, responses = (one.list.head(max_response_tokens) for one in (masks, responses))
    return int(pl.select(pl.coalesce(masks.list.sum(), responses.list.len()).sum()).item())


def _check_prompts(table: pl.DataFrame) -> None:
    empty = [
        f"{source}:{row}: {column} is empty; expected a token for the response to follow"
        for column in ("prompt_token_ids", "teacher_prompt_token_ids")
        for source, row in table.filter(pl.col(column).list.len() == 0)
        .select("source", "source_row")
        .iter_rows()
    ]
    if empty:
        raise RolloutError(faults("rollouts", empty) if len(empty) > 1 else empty[0])
