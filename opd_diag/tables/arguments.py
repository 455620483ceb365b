"""The arguments of a call: checked, and kept beside the tables that they made."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np
import polars as pl

from opd_diag.errors import OptionError, TableError, first_line

P = ParamSpec("P")
T = TypeVar("T")


class Tables(Protocol):
    """The tables of an analysis by name: what every public analysis returns."""

    def _asdict(self) -> dict[str, Any]: ...


def at_least(least: int, **numbers: float | None) -> None:
    """Check that numbers are not too small.

    Args:
        least: The smallest that makes sense.
        numbers: Values by the name of their argument; None: not given.

    Raises:
        OptionError: If one is smaller, or NaN.
    """
    for name, number in numbers.items():
        if number is not None and not number >= least:
            raise OptionError(f"{name}: {number}; expected {least} or more")


def public_analysis(analysis: Callable[P, T]) -> Callable[P, T]:
    """Keep the arguments of an analysis with its tables, and name a column that is missing.

    Every choice is kept, defaults too, so that `Run.save` can store what made a result. The run,
    the rollouts and the progress are no choices, nor is `k_grid` where a run brings its own.

    Raises:
        TableError: If the tables given lack a column that the analysis reads.
    """
    signature = inspect.signature(analysis)

    @functools.wraps(analysis)
    def with_arguments(*args: P.args, **options: P.kwargs) -> T:
        try:
            tables = analysis(*args, **options)
        except pl.exceptions.ColumnNotFoundError as error:
            reason = first_line(error).split(";")[0]
            raise TableError(f"tables: {reason}; expected it for this analysis") from error
        bound = signature.bind(*args, **options)
        bound.apply_defaults()
        choices = bound.arguments
        without = {"run", "rollouts", "progress"}
        if not isinstance(choices.get("run"), pl.DataFrame | pl.LazyFrame):
            without.add("k_grid")
        chosen = {name: _plain(value) for name, value in choices.items() if name not in without}
        return _with_arguments(tables, chosen)

    return with_arguments


def arguments_of(tables: Tables | Mapping[str, pl.DataFrame]) -> dict[str, Any]:
    """Return the arguments that an analysis kept with its tables.

    Raises:
        OptionError: If there are none, as beside a dict that was put together by hand.
    """
    arguments = getattr(tables, "arguments", None)
    if not isinstance(arguments, dict):
        raise OptionError(
            "arguments: unknown for these tables; expected what an analysis returned, or arguments="
        )
    return arguments


def _with_arguments(tables: T, arguments: dict[str, Any]) -> T:
    """Return a named tuple of tables that has the attribute `arguments`; other values as they are.

    A named tuple takes no new attributes, a subclass of it does.
    """
    if not hasattr(tables, "_fields"):
        return tables
    kept = _subclass(type(tables))._make(tables)  # type: ignore[arg-type, attr-defined]
    kept.arguments = arguments
    return kept  # type: ignore[no-any-return]


@functools.cache
def _subclass(kind: type) -> type:
    def reduce(self: Any) -> tuple[Any, ...]:  # a class made here cannot be pickled by its name
        return _restore, (kind, tuple(self), self.arguments)

    names = {"__doc__": kind.__doc__, "__module__": kind.__module__, "__reduce__": reduce}
    return type(kind.__name__, (kind,), names)


def _restore(kind: type, tables: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
    return _with_arguments(kind(*tables), arguments)


def _plain(value: Any) -> Any:
    """Write a value in the types of JSON."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, PurePath) else value
