"""One row of a dump, and what the module of a format needs to take it apart."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

COMPRESSED = (".gz", ".zst")  # of texts; Parquet and pickles compress by themselves

# Names that data sets give to the reference answer.
REFERENCES = (
    *("answer", "reference", "ground_truth", "solution", "target", "label"),
    *("reference_answer", "gts", "gold"),
)
# Names that they give to what a prompt is from.
GROUPS = ("group", "data_source", "domain", "environment", "env_name", "env")


class RowError(ValueError):
    """What is wrong with one row: `what was found; what was expected`."""


class CutLineError(RowError):
    """The last line of a file that its writer did not finish."""


@dataclass
class DumpFile:
    """One file of a dump, with what was noticed while it was read.

    Attributes:
        path: Where it lies.
        used: Keys that were read, so that the others can be named.
        skipped: How many rows were left out, by reason.
        seen: What a reader has met already, to leave out what the dump repeats.
        beside: Rows by id of files that belong to this one, once they are read.
    """

    path: Path
    used: set[str] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)
    seen: set[object] = field(default_factory=set)
    beside: dict[str, list[Row]] | None = None

    def number_in_name(self, pattern: str) -> int | None:
        """Return the number that `pattern` catches in the path, such as a training step.

        The ending of a compressed file is no part of the path.
        """
        path = self.path.with_suffix("") if self.path.suffix in COMPRESSED else self.path
        match = re.search(pattern, path.as_posix())
        return int(match.group(1)) if match else None


def need(row: Row, key: str, kind: type | tuple[type, ...], what: str) -> Any:
    """Return `row[key]`, which must be there and of a type.

    Raises:
        RowError: If it is missing or of another type.
    """
    value = row.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise RowError(f"{key} is {kind_of(value)}; expected {what}")
    return value


def first_known(values: Any, keys: Iterable[str]) -> Any:
    """Return what an object holds under the first of some keys; None where it has none of them."""
    if not isinstance(values, Mapping):
        return None
    return next((values[key] for key in keys if values.get(key) is not None), None)


def about_prompt(row: Row, file: DumpFile) -> dict[str, Any]:
    """Find the reference answer and the group of a row, under whatever name it has them."""
    told = {}
    for ours, names, kinds in (
        ("answer", REFERENCES, (str, bool, int, float, list)),
        ("group", GROUPS, (str, int)),
    ):
        there = (name for name in names if isinstance(nan_to_none(row.get(name)), kinds))
        key = next(there, None)
        if key is not None and not (ours == "group" and isinstance(row[key], bool)):
            told[ours] = row[key]
            file.used.add(key)
    return told


def of_top(tops: Sequence[Mapping[Any, Any]], response: Sequence[Any]) -> dict[str, Any]:
    """Say what a trainer saw of its teacher, from the log-probs that it kept at each token.

    Args:
        tops: Log-prob (nat) by id at each response token.
        response: The response's token ids.

    Returns:
        `trainer_teacher_logp`, None for a token that is not among the ids kept; where several were
        kept, `trainer_top_id` and `trainer_top_mass` too. Nothing where a token has none.

    Raises:
        RowError: If a log-prob is no number.
    """
    if not tops or not all(tops):
        return {}
    if not all(_is_number(value) for top in tops for value in top.values()):
        raise RowError("the teacher's log-probs hold other values; expected numbers")
    logps = [top.get(token) for top, token in zip(tops, response, strict=True)]
    told: dict[str, Any] = {
        "trainer_teacher_logp": logps if any(one is not None for one in logps) else None
    }
    if max(map(len, tops)) > 1:
        told["trainer_top_id"] = [max(top.items(), key=_value)[0] for top in tops]
        told["trainer_top_mass"] = [
            sum(math.exp(min(value, 0.0)) for value in top.values()) for top in tops
        ]
    return told


def only_number(row: Row, known: Iterable[str]) -> str | None:
    """Return the one key besides `known` that holds a number or a list of numbers, if it is one.

    Trainers write a column for every reward function, under its name: a single one is the reward,
    of several the weights are not in the dump.
    """
    others = [key for key in row.keys() - set(known) if _is_number(row[key])]
    return others[0] if len(others) == 1 else None


def nan_to_none(value: Any) -> Any:
    """Turn NaN, which reward functions that decline to answer are logged as, into None."""
    return None if isinstance(value, float) and math.isnan(value) else value


def kind_of(value: Any) -> str:
    """Name the kind of a value for a message."""
    if value is None:
        return "missing"
    kinds = {str: "text", list: "a list", dict: "an object", bool: "true or false"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else "unreadable")


def _value(item: tuple[Any, Any]) -> Any:
    return item[1]


def _is_number(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(v is None or _is_number(v) for v in value)
    return isinstance(value, int | float) and not isinstance(value, bool)
