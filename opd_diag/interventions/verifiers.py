"""Tell whether a response is right: by its last boxed text, its last number, or code of one's own.

A verifier takes the text of a response, without special tokens, and the reference answer.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from opd_diag.errors import OpdDiagError, OptionError, first_line

Verifier = Callable[[str, str], bool]

EXACT, LAST_NUMBER, BOXED, MATH = NAMES = ("exact", "last-number", "boxed", "math")
# A sign follows no word and no bracket, as in "pages 12-15"; commas part groups of three digits.
_NUMBER = re.compile(
    r"(?:(?<![\w)\]}])[-+\u2212])?"
    r"(?:\d{1,3}(?:,\d{3})+(?!,?\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\d)\.\d+)"
    r"(?:[eE][-+]?\d+)?"
)
_BOX = "\\boxed{"
_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class VerifierError(OpdDiagError, ValueError):
    """A verifier raises, or says neither right nor wrong."""


def load_verifier(name: str) -> Verifier:
    r"""Find a verifier by its name.

    `exact` compares the whole text, `boxed` the last `\boxed{...}`, `last-number` the last number
    as a number; `math` is math-verify's comparison of expressions (extra `math`). `module:function`
    names code of one's own, which is run: it takes the response and the answer, and returns whether
    the response is right, as a bool or as 0 or 1.

    Args:
        name: One of `NAMES`, or `module:function`.

    Raises:
        OptionError: If there is no such verifier, or its library is not installed.
    """
    builtin = {EXACT: _exact, LAST_NUMBER: _last_number, BOXED: _boxed}
    if name in builtin:
        return builtin[name]
    if name == MATH:
        return _math()
    if _CALLABLE.fullmatch(name):
        return _own(name)
    raise OptionError(f"verifier: {name!r}; expected {', '.join(NAMES)} or module:function")


def check_verifier(name: str, verifier: Verifier, problems: Iterable[tuple[str, str]]) -> None:
    """Try a verifier before anything is generated, on answers as responses.

    One of one's own is called with the first problem; the others must call every answer right.

    Args:
        name: Its name.
        verifier: The function.
        problems: Name and answer of each problem.

    Raises:
        VerifierError: If it raises, returns neither true nor false, or calls an answer wrong.
    """
    for problem, answer in problems:
        boxed = name in (BOXED, MATH) and _BOX not in answer
        right = verify(name, verifier, f"{_BOX}{answer}}}" if boxed else answer, answer, problem)
        if name not in NAMES:
            return
        if not right:
            raise VerifierError(
                f"verifier {name}: calls answer {answer!r} of problem {problem} itself wrong; "
                "expected answers that it can compare, or another verifier"
            )


def verify(name: str, verifier: Verifier, response: str, answer: str, problem: str) -> bool:
    """Judge one response.

    Raises:
        VerifierError: If the verifier raises, or returns neither true nor false.
    """
    try:
        right: Any = verifier(response, answer)
    except Exception as error:  # code of others raises whatever it likes
        raise VerifierError(
            f"verifier {name}: raises on problem {problem} ({type(error).__name__}: "
            f"{first_line(error)}); expected true or false"
        ) from error
    if isinstance(right, bool) or (isinstance(right, int | float) and right in (0, 1)):
        return bool(right)
    if type(right).__module__ == "numpy" and getattr(right, "ndim", 1) == 0 and right in (0, 1):
        return bool(right)
    raise VerifierError(
        f"verifier {name}: returns {right!r} for problem {problem}; expected true or false"
    )


def judge_all(
    name: str,
    verifier: Verifier,
    texts: Iterable[str],
    problems: Iterable[str],
    answers: Mapping[str, str],
) -> npt.NDArray[np.float64]:
    """Judge responses: 1 where one is right, else 0. Shape (responses,).

    Args:
        name: Name of the verifier.
        verifier: The function.
        texts: The responses, without special tokens.
        problems: The problem of each.
        answers: Reference answers by problem.

    Raises:
        VerifierError: If the verifier raises, or returns neither true nor false.
    """
    right = [
        verify(name, verifier, text, answers[problem], problem)
        for text, problem in zip(texts, problems, strict=True)
    ]
    return np.array(right, np.float64)


def boxed_span(text: str) -> tuple[int, int] | None:
    r"""Find what stands in the last `\boxed{...}` of a text, braces inside it included.

    Returns:
        Where it starts and ends in the text, or None if there is none that closes.
    """
    start = text.rfind(_BOX)
    if start < 0:
        return None
    start += len(_BOX)
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return start, place
    return None


def last_number_span(text: str) -> tuple[int, int] | None:
    """Find the last number of a text, or None if there is none."""
    spans = [match.span() for match in _NUMBER.finditer(text)]
    return spans[-1] if spans else None


def _exact(response: str, answer: str) -> bool:
    return response.strip() == answer.strip()


def _boxed(response: str, answer: str) -> bool:
    span = boxed_span(response)
    if span is None:
        return False
    box = boxed_span(answer)
    return _same(response[slice(*span)], answer if box is None else answer[slice(*box)])


def _same(one: str, other: str) -> bool:
    """Compare as numbers where both are numbers, else as texts without blanks."""
    numbers = [_as_number(text) for text in (one, other)]
    if None not in numbers:
        return numbers[0] == numbers[1]
    return "".join(one.split()) == "".join(other.split())


def _last_number(response: str, answer: str) -> bool:
    wanted, span = last_number_span(answer), last_number_span(response)
    if wanted is None or span is None:
        return False
    return _as_number(response[slice(*span)]) == _as_number(answer[slice(*wanted)])


def _as_number(text: str) -> float | None:
    """Read a text that is one number and nothing else but blanks and a full stop."""
    match = _NUMBER.fullmatch(text.strip().removesuffix("."))
    return None if match is None else float(match[0].replace(",", "").replace("\u2212", "-"))


def _math() -> Verifier:
    try:
        library = import_module("math_verify")
    except ImportError:
        raise OptionError(
            "verifier: math-verify is not installed; expected it (`pip install opd-diag[math]`)"
        ) from None

    def math(response: str, answer: str) -> bool:
        gold = library.parse(answer if _BOX in answer else f"{_BOX}{answer}}}")
        return bool(library.verify(gold, library.parse(response)))

    return math


def _own(name: str) -> Verifier:
    module, function = name.split(":")
    if "" not in sys.path:  # a module in the working directory, as `python -m` finds it
        sys.path.insert(0, "")
    try:
        verifier: Verifier = getattr(import_module(module), function)
    except Exception as error:  # importing runs code of others
        raise OptionError(
            f"verifier: {name!r} cannot be imported ({first_line(error)}); expected a module that "
            "Python finds and a function of it"
        ) from error
    if not callable(verifier):
        raise OptionError(f"verifier: {name!r} is no function; expected one of (response, answer)")
    return verifier
