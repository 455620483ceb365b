"""Reading a dump: files, format, rows, one table."""

from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from opd_diag.errors import OptionError
from opd_diag.rollouts.dump import Dump
from opd_diag.rollouts.encode import encode_records
from opd_diag.rollouts.files import find_files
from opd_diag.rollouts.formats import named_format
from opd_diag.rollouts.table import to_table
from opd_diag.tables.rollouts import Rollouts
from opd_diag.text.tokenizers import load_tokenizer
from opd_diag.text.vocabulary import check_ids, vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Paths = str | PathLike[str] | Iterable[str | PathLike[str]]


def read_rollouts(
    paths: Paths,
    *,
    tokenizer: "str | PathLike[str] | PreTrainedTokenizerBase | None" = None,
    format: str | None = None,  # noqa: A002
    eos: str = "auto",
    template: str = "auto",
    trust_pickle: bool = False,
    limit: int | None = None,
    progress: bool = False,
) -> Rollouts:
    """Read the rollouts that a trainer or generator has dumped.

    Args:
        paths: Files, folders or glob patterns. Folders and patterns are read in the order of the
            numbers in the names, 2 before 10.
        tokenizer: The student's, or its folder; needed where the dump holds text, and to check ids
            against the vocabulary.
        format: The dump's format; by default it is told from the keys of the first row.
        eos: Whether the end token follows a response that was text: `append`, `never`, or `auto`,
            which is where the dump says that it stopped.
        template: How a prompt that is text is read: `chat` as one user turn, `raw` as it stands;
            `auto` is `raw` for dumps of trainers, which hold what the model read, else `chat`.
        trust_pickle: Load `.pt` files that run code when they are loaded.
        limit: Read that many rollouts.
        progress: Show a progress bar on stderr.

    Returns:
        The table, and a report of what was read and what was left out.

    Raises:
        RolloutError: If a file is missing or not what its format says, if a text comes without a
            tokenizer, or if an id lies outside the vocabulary.
        ModelError: If the tokenizer cannot be loaded, or has no chat template where one is needed.
        OptionError: If an option has an unknown value.
    """
    for name, value, known in (
        ("eos", eos, ("auto", "append", "never")),
        ("template", template, ("auto", "chat", "raw")),
    ):
        if value not in known:
            raise OptionError(f"{name}: {value!r}; expected {', '.join(known)}")
    given = [paths] if isinstance(paths, str | PathLike) else list(paths)
    dump = Dump(named_format(format) if format else None, trust_pickle=trust_pickle, limit=limit)
    for path in _tracked(find_files(given), progress):
        if dump.full:
            break
        dump.read(path)
    form = dump.format
    if isinstance(tokenizer, str | PathLike):
        tokenizer = load_tokenizer(str(tokenizer))
    encoded = encode_records(
        dump.records,
        tokenizer,
        eos=eos,
        template=("raw" if form.rendered else "chat") if template == "auto" else template,
        stripped=form.stripped,
    )
    table = to_table(dump.records, encoded)
    if tokenizer is not None:
        check_ids(table, vocabulary_size(tokenizer))
    return Rollouts(table, dump.report(table, encoded.drift))


def _tracked(files: list[Path], progress: bool) -> Iterator[Path]:
    if not progress:
        yield from files
        return
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(files, "Reading rollouts", console=console, disable=not console.is_terminal)
