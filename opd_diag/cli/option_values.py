"""Values of options that need more than their type: lists of numbers, named students."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import typer

Number = TypeVar("Number", int, float)

_NAMED = re.compile(r"([A-Za-z0-9_.-]+)=(.+)", re.DOTALL)


def numbers(kind: Callable[[str], Number]) -> Callable[[str | None], list[Number] | None]:
    """Return a callback that reads numbers separated by commas.

    Args:
        kind: What makes a number of a text: `int` or `float`.
    """

    def read(value: str | None) -> list[Number] | None:
        if value is None:
            return None
        try:
            return [kind(part) for part in value.split(",")]
        except ValueError:
            raise typer.BadParameter(f"{value!r}; expected numbers separated by commas") from None

    return read


def names(value: str | None) -> list[str] | None:
    """Read names separated by commas."""
    return None if value is None else [name.strip() for name in value.split(",")]


def mapped_keys(value: list[str] | None) -> dict[str, str] | None:
    """Read KEY=THEIRS, each key once.

    Raises:
        typer.BadParameter: If one is not of that form.
    """
    if not value:
        return None
    keys: dict[str, str] = {}
    for text in value:
        ours, equals, theirs = text.partition("=")
        if not (ours and equals and theirs) or ours in keys:
            raise typer.BadParameter(
                f"{text!r}; expected KEY=THEIRS, such as response=completion, each key once"
            )
        keys[ours] = theirs
    return keys


def positive(value: float) -> float:
    """Return a number that is above 0.

    Raises:
        typer.BadParameter: If it is not.
    """
    if not value > 0:
        raise typer.BadParameter(f"{value}; expected a positive number")
    return value


def name_teachers(value: list[str], teacher_by: str | None) -> str | dict[str, str]:
    """Return the path of the one teacher, or paths by group where there are names.

    Args:
        value: What stands after each `--teacher`.
        teacher_by: What teachers are chosen by; None: there is one.

    Raises:
        typer.BadParameter: If there are several without names, or two of one name.
    """
    if len(value) == 1 and (teacher_by is None or "=" not in value[0]):
        return value[0]
    if teacher_by is None:
        raise typer.BadParameter("--teacher: several; expected NAME=PATH and --teacher-by group")
    teachers: dict[str, str] = {}
    for text in value:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in teachers:
            raise typer.BadParameter(
                f"--teacher: {text!r}; expected NAME=PATH with the name of a group, each once"
            )
        teachers[name] = path
    return teachers


def name_students(value: list[str]) -> dict[str, str]:
    """Name every student: an existing path by its folder, NAME=PATH as it says.

    Args:
        value: What stands after each `--student`.

    Returns:
        Paths by name, in the order given.

    Raises:
        typer.BadParameter: If two have the same name.
    """
    students: dict[str, str] = {}
    for text in value:
        named = None if os.path.exists(text) else _NAMED.fullmatch(text)
        name, path = named.groups() if named else (Path(text).resolve().name, text)
        if name in students:
            raise typer.BadParameter(f"--student: {name!r} twice; expected one name for each")
        students[name] = path
    return students
