"""Checks of single values of a row: what was found, what was expected."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opd_diag.rollouts.dump import RowError

Row = Mapping[str, Any]
Ids = NDArray[np.int32]

_FINISH = {
    **dict.fromkeys(("stop", "eos", "completed", "stop_sequence", "end_turn"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "truncated"), "length"),
}


def need(row: Row, key: str, kind: type | tuple[type, ...], what: str) -> Any:
    """Return `row[key]`, which must be there and of a type.

    Raises:
        RowError: If it is missing or of another type.
    """
    value = row.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise RowError(f"{key} is {kind_of(value)}; expected {what}")
    return value


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


def read_text(value: str, key: str) -> str:
    """Check that a text is valid Unicode."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(f"{key} holds half a surrogate pair; expected valid Unicode") from None
    return value


def read_ids(value: Any, key: str) -> Ids:
    """Read token ids."""
    what = "a list of token ids"
    array = _array(value, key, what)
    if array.size and array.dtype.kind not in "iu":
        raise RowError(f"{key} holds something else than whole numbers; expected {what}")
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < 2**31:
        raise RowError(f"{key} holds {array.min()} to {array.max()}; expected ids from 0")
    return array.astype(np.int32)


def read_mask(row: Row, length: int | None) -> NDArray[np.bool_] | None:
    """Read `loss_mask`, one flag for each response token."""
    value = row.get("loss_mask")
    if value is None:
        return None
    array = _array(value, "loss_mask", "a list of true and false")
    if array.size and (array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all()):
        raise RowError("loss_mask holds other values; expected true and false, or 1 and 0")
    _same_length("loss_mask", array, length)
    return array.astype(np.bool_)


def read_logp(row: Row, length: int | None) -> NDArray[np.float32] | None:
    """Read `sampled_logp`, one number for each response token (nat)."""
    value = row.get("sampled_logp")
    if value is None:
        return None
    array = _array(value, "sampled_logp", "a list of numbers")
    if array.size and (array.dtype.kind not in "iuf" or not (np.abs(array) < 1e30).all()):
        raise RowError("sampled_logp holds other values; expected finite numbers (nat)")
    _same_length("sampled_logp", array, length)
    return array.astype(np.float32)


def read_name(row: Row, key: str) -> str | None:
    """Read an id or a name; a whole number becomes text."""
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, str):
        return read_text(value, key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise RowError(f"{key} is {kind_of(value)}; expected text or a whole number")


def read_whole(row: Row, key: str) -> int | None:
    """Read a whole number, also one that stands as text or as 3.0."""
    value = row.get(key)
    if value is None:
        return None
    if (isinstance(value, str) and value.isdecimal() and len(value) < 20) or (
        isinstance(value, float) and value.is_integer()
    ):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    raise RowError(f"{key} is {kind_of(value)}; expected a whole number")


def read_number(row: Row, key: str) -> float | None:
    """Read a finite number."""
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise RowError(f"{key} is {kind_of(value)}; expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RowError(f"{key} is {number}; expected a finite number, or null where it is missing")
    return number


def read_flag(row: Row, key: str) -> bool | None:
    """Read true or false, also written as 1 and 0."""
    value = row.get(key)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise RowError(f"{key} is {kind_of(value)}; expected true or false")


def read_finish(row: Row) -> str | None:
    """Read why the response ended: `stop`, `length` or `other`."""
    value = row.get("finish_reason")
    if value is None:
        return None
    if not isinstance(value, str):
        raise RowError(f"finish_reason is {kind_of(value)}; expected text")
    return _FINISH.get(value, "other")


def _is_number(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(v is None or _is_number(v) for v in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _array(value: Any, key: str, what: str) -> NDArray[Any]:
    if isinstance(value, list | tuple | np.ndarray):
        try:
            array = np.asarray(value)
        except (ValueError, OverflowError):
            raise RowError(f"{key} is not flat; expected {what}") from None
        if array.ndim == 1:
            return array
    raise RowError(f"{key} is {kind_of(value)}; expected {what}")


def _same_length(key: str, array: NDArray[Any], length: int | None) -> None:
    if length is None:
        raise RowError(f"{key} beside a response without ids; expected response_token_ids")
    if len(array) != length:
        raise RowError(f"{key} has {len(array)} values; expected {length}, one a response token")
