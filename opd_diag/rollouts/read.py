"""Reading a dump: files, format, rows, one table."""

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import TYPE_CHECKING

from opd_diag.errors import OptionError, RolloutError
from opd_diag.rollouts.dump import Dump
from opd_diag.rollouts.encode import TextOptions, encode_rollouts
from opd_diag.rollouts.files import Candidate, find_files
from opd_diag.rollouts.formats import generic, named_format
from opd_diag.rollouts.table import repeated_rollouts, to_table
from opd_diag.rollouts.teacher_prompts import give_teacher_prompts
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
    map: Mapping[str, str] | None = None,  # noqa: A002
    group_by: str | None = None,
    teacher_system: str | None = None,
    teacher_prompts: str | PathLike[str] | None = None,
    trust_pickle: bool = False,
    limit: int | None = None,
    progress: bool = False,
) -> Rollouts:
    """Read the rollouts that a trainer or generator has dumped.

    Args:
        paths: Files, folders or glob patterns. Folders and patterns are read in the order of the
            numbers in the names, 2 before 10. Files in a folder that are no dumps, or not of the
            format given, are left out and named in the report. Texts may be compressed (`.gz`,
            `.zst`).
        tokenizer: The student's, or its folder; needed where the dump holds text, and to check ids
            against the vocabulary.
        format: The dump's format; by default it is told from the keys of the first row.
        eos: Whether the end token follows a response that was text: `append`, `never`, or `auto`,
            which is where the dump says that it stopped.
        template: How a prompt that is text is read: `chat` as one user turn, `raw` as it stands.
            `auto` takes a prompt with the special tokens of the chat template as it stands, gives
            them back to one that was decoded without them, and reads any other as it stands where
            a trainer has dumped it, else as one user turn.
        map: The dump's keys by the generic key that they stand for, such as
            `{"response": "completion"}`; a dot leads into objects and lists (`outputs.0.text`).
        group_by: The dump's key that tells the group of a rollout, such as its domain or
            environment (`metadata.domain`); by default a key of a known name, where there is one.
        teacher_system: System turn of the teacher's prompts, in place of the student's.
        teacher_prompts: File of the teacher's prompts, as `teacher_prompt` (text or messages) or
            `teacher_prompt_token_ids` beside the `id` or `prompt_id` that they are for.
        trust_pickle: Load `.pt` files that run code when they are loaded.
        limit: Read that many rollouts.
        progress: Show a progress bar on stderr.

    Returns:
        The table, and a report of what was read and what was left out.

    Raises:
        RolloutError: If a file is missing or not what its format says, if no row has a mapped key,
            if a text comes without a tokenizer, or if an id lies outside the vocabulary.
        ModelError: If the tokenizer cannot be loaded, or has no chat template where one is needed.
        OptionError: If an option has an unknown value, or two do not go together.
    """
    for name, value, known in (
        ("eos", eos, ("auto", "append", "never")),
        ("template", template, ("auto", "chat", "raw")),
    ):
        if value not in known:
            raise OptionError(f"{name}: {value!r}; expected {', '.join(known)}")
    unknown = sorted(set(map or {}) - set(generic.USED))
    if unknown:
        raise OptionError(f"map: {', '.join(unknown)}; expected keys of {', '.join(generic.USED)}")
    keys = dict(map or {})
    if group_by is not None and keys.setdefault("group", group_by) != group_by:
        raise OptionError("group_by: beside a group in map; expected one of them")
    if teacher_system is not None and teacher_prompts is not None:
        raise OptionError("teacher_system: beside teacher_prompts; expected one of them")
    given = [paths] if isinstance(paths, str | PathLike) else list(paths)
    form = named_format(format) if format else None
    dump = Dump(form, keys=keys, trust_pickle=trust_pickle, limit=limit)
    for file in _tracked(find_files(given), progress):
        if dump.full:
            break
        dump.read(file)
    form = dump.format
    if group_by is not None and all(rollout.group is None for rollout in dump.rollouts):
        raise RolloutError(
            f"group_by: no rollout has {group_by!r}; expected a key of the dump, a dot leading "
            "into objects and lists"
        )
    dump.check_mapped()
    if teacher_prompts is not None:
        give_teacher_prompts(dump.rollouts, teacher_prompts)
    if isinstance(tokenizer, str | PathLike):
        tokenizer = load_tokenizer(str(tokenizer))
    options = TextOptions(eos, template, form.rendered, form.stripped, teacher_system)
    encoded = encode_rollouts(dump.rollouts, tokenizer, options)
    table, prompt_ids = to_table(dump.rollouts, encoded)
    if tokenizer is not None:
        check_ids(table, vocabulary_size(tokenizer))
    repeated = repeated_rollouts(dump.rollouts, encoded)
    return Rollouts(table, dump.report(table, encoded.drift, prompt_ids, repeated))


def _tracked(files: list[Candidate], progress: bool) -> Iterator[Candidate]:
    if not progress:
        yield from files
        return
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(files, "Reading rollouts", console=console, disable=not console.is_terminal)
