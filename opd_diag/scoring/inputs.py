"""What is known before any weights are loaded: rollouts, vocabulary, names of the students."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypedDict

import polars as pl

from opd_diag.errors import OptionError, RolloutError, faults
from opd_diag.scoring.batches import Sequences, sequences
from opd_diag.tables.columns.rollouts import ROLLOUTS
from opd_diag.tables.manifest import is_checkpoint_name
from opd_diag.tables.rollouts import Rollouts
from opd_diag.tables.schema import check_table
from opd_diag.text.tokenizers import compare_tokenizers, load_tokenizer
from opd_diag.text.vocabulary import check_ids, vocab_table


class Origin(TypedDict):
    """Which version of a hub id is meant, and whether its code may run."""

    revision: str | None
    trust_remote_code: bool


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


def named_students(students: Mapping[str, str] | str) -> dict[str, str]:
    """Return students by name; a single one is named like its folder.

    Raises:
        OptionError: If there is none, or a name is none that a folder can bear.
    """
    if isinstance(students, str):
        students = {Path(students).resolve().name: students}
    if not students:
        raise OptionError("students: none; expected at least one")
    for name in students:
        if not is_checkpoint_name(name):
            raise OptionError(f"students: the name {name!r}; expected one that a folder can bear")
    return {name: str(path) for name, path in students.items()}


def read_inputs(
    rollouts: Rollouts,
    teacher: str,
    students: Mapping[str, str],
    *,
    limit: int | None = None,
    max_response_tokens: int | None = None,
    origin: Origin,
) -> Inputs:
    """Check rollouts and tokenizers against each other.

    Args:
        rollouts: What `read_rollouts` returns.
        teacher: Folder or hub id of the teacher.
        students: Folders or hub ids by name.
        limit: Only so many rollouts.
        max_response_tokens: Only so many tokens of each response.
        origin: Version of hub ids, and whether their code may run.

    Raises:
        RolloutError: If an id lies outside the vocabulary, a prompt is empty, or there is no
            response token at all.
        ModelError: If a tokenizer cannot be loaded.
        ModelMismatchError: If two tokenizers differ.
    """
    table = check_table(rollouts.table, ROLLOUTS, "rollouts")
    table = table if limit is None else table.head(limit)
    tokenizer = load_tokenizer(teacher, **origin)
    shared = {
        name: compare_tokenizers(
            tokenizer, load_tokenizer(path, **origin), names=("teacher", f"student {name}")
        )
        for name, path in students.items()
    }
    check_ids(table, min(shared.values()))
    _check_prompts(table)
    read = sequences(table, max_response_tokens)
    if not read.responses.offsets[-1]:
        raise RolloutError(f"rollouts: {table.height} rows without a response token; expected some")
    return Inputs(table, read, vocab_table(tokenizer), shared)


def _check_prompts(table: pl.DataFrame) -> None:
    found = [
        f"{source}:{row}: {column} is empty; expected a token for the response to follow"
        for column in ("prompt_token_ids", "teacher_prompt_token_ids")
        for source, row in table.filter(pl.col(column).list.len() == 0)
        .select("source", "source_row")
        .iter_rows()
    ]
    if found:
        raise RolloutError(faults("rollouts", found) if len(found) > 1 else found[0])
