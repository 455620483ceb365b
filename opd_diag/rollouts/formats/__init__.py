"""The formats by name, in the order in which they are tried, and how each is known."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from opd_diag.errors import OptionError, RolloutError
from opd_diag.rollouts.formats import (
    areal,
    generic,
    kdflow,
    labels,
    lm_eval,
    messages,
    ms_swift,
    nemo_rl,
    prime_rl,
    slime,
    ta_opd,
    traces,
    trl,
    verl,
    verl_batch,
    vllm,
)
from opd_diag.rollouts.rows import DumpFile, Row


class Format(NamedTuple):
    """How the dumps of one program are known and read.

    Attributes:
        name: As `--format` takes it.
        keys: Keys that the first row has, all of them.
        used: Keys that are read; the others are left out and named.
        rollouts: Yields the rollouts of a row in the generic keys.
        fits: A further condition on the first row.
        rendered: Whether a text prompt is what the model read, chat template and all.
        stripped: Whether special tokens were taken out of the texts.
        repeats: Whether a batch is written again while the trainer goes on learning from it.
    """

    name: str
    keys: tuple[str, ...]
    used: tuple[str, ...]
    rollouts: Callable[[Row, DumpFile], Iterator[dict[str, Any]]]
    fits: Callable[[Row], bool] | None = None
    rendered: bool = True
    stripped: bool = False
    repeats: bool = False


GENERIC = Format("generic", (), generic.USED, generic.rollouts, fits=generic.fits, rendered=False)
# Where one format's keys hold another's, the one that asks for more comes first.
FORMATS = (
    Format("slime", slime.KEYS, slime.USED, slime.rollouts),
    Format("prime-rl", prime_rl.KEYS, prime_rl.USED, prime_rl.rollouts),
    Format("verl-batch", verl_batch.KEYS, verl_batch.USED, verl_batch.rollouts),
    Format("traces", (), traces.USED, traces.rollouts, fits=traces.fits),
    Format("nemo-rl", nemo_rl.KEYS, nemo_rl.USED, nemo_rl.rollouts),
    Format("vllm", vllm.KEYS, vllm.USED, vllm.rollouts),
    Format("ta-opd", ta_opd.KEYS, ta_opd.USED, ta_opd.rollouts, fits=ta_opd.holds_strings),
    Format("lm-eval", lm_eval.KEYS, lm_eval.USED, lm_eval.rollouts),
    Format("areal", areal.KEYS, areal.USED, areal.rollouts),
    Format("ms-swift", ms_swift.KEYS, ms_swift.USED, ms_swift.rollouts, fits=ms_swift.holds_lists),
    Format("trl", trl.KEYS, trl.USED, trl.rollouts, repeats=True),
    Format("verl", verl.KEYS, verl.USED, verl.rollouts, stripped=True),
    Format("kdflow", kdflow.KEYS, kdflow.USED, kdflow.rollouts),
    Format("labels", labels.KEYS, labels.USED, labels.rollouts),
    Format("messages", (), messages.USED, messages.rollouts, fits=messages.fits),
    GENERIC,
)


# Keys of the formats that know several.
_TELLING = (
    *(*generic.TOKENS, *generic.TEXT, *generic.ALIASES),
    *(*messages.KEYS, "traces", "nodes"),
)


def named_format(name: str) -> Format:
    """Return the format of a name.

    Raises:
        OptionError: If there is none.
    """
    for candidate in FORMATS:
        if candidate.name == name:
            return candidate
    names = ", ".join(candidate.name for candidate in FORMATS)
    raise OptionError(f"format: {name!r}; expected one of {names}")


def fits(form: Format, row: Row) -> bool:
    """Tell whether a row is of a format."""
    return row.keys() >= set(form.keys) and (form.fits is None or form.fits(row))


def detect_format(
    row: Row, where: str, in_file: Collection[str] | None = None
) -> tuple[Format, str]:
    """Find the format of a dump from a row of it.

    Args:
        row: The row, with what is mapped.
        where: The file, for the message.
        in_file: Keys that stand in the file itself; None: all of the row's. Another program's
            format is told by these: a mapping makes generic rows.

    Returns:
        The format, and why it was taken.

    Raises:
        RolloutError: If the row has the keys of none.
    """
    own = set(row if in_file is None else in_file)
    for candidate in FORMATS:
        if own.issuperset(candidate.keys) and fits(candidate, row):
            keys = candidate.keys or [key for key in _TELLING if key in row]
            return candidate, f"its rows have {', '.join(keys)}"
    raise RolloutError(
        f"{where}: no known format, its keys are {', '.join(sorted(map(str, row))) or 'none'}; "
        f"expected {', '.join(generic.TOKENS)}, or {', '.join(generic.TEXT)}, under their own "
        "names or told by map (--map response=KEY), or the keys of "
        f"{', '.join(candidate.name for candidate in FORMATS[:-1])}"
    )
