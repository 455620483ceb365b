"""What is right: texts, numbers, boxed texts, and code of one's own."""

import sys
from types import ModuleType

import pytest

from opd_diag.errors import OptionError
from opd_diag.interventions.verifiers import (
    VerifierError,
    boxed_span,
    check_verifier,
    load_verifier,
    verify,
)

OWN = "tests.interventions.judges"


@pytest.mark.parametrize(
    ("name", "response", "answer", "right"),
    [
        ("exact", " Paris\n", "Paris", True),
        ("exact", "Paris.", "Paris", False),
        ("last-number", "first 3, then 1,200.50", "1200.5", True),
        ("last-number", "so 12", "13", False),
        ("last-number", "none at all", "13", False),
        ("last-number", "it is -4.", "-4", True),
        ("last-number", "the pages 12-15", "15", True),
        ("last-number", "x = (1)-3 = -2", "-2", True),
        ("last-number", "minus: \u22127", "-7", True),
        ("last-number", "3 and 4, so 3,4", "34", False),
        ("last-number", "it makes 12,345,678", "12345678", True),
        ("boxed", r"\boxed{1,2}", "12", False),
        ("boxed", r"\boxed{1,2}", "1, 2", True),
        ("boxed", r"\boxed{1,200.}", "1200", True),
        ("boxed", r"\boxed{1_0}", "10", False),
        ("boxed", r"\boxed{1} no, \boxed{7}", "7", True),
        ("boxed", r"\boxed{7} no, \boxed{1}", "7", False),
        ("boxed", r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", True),
        ("boxed", r"\boxed{7.0}", "7", True),
        ("boxed", r"\boxed{7", "7", False),
        ("boxed", "7", "7", False),
        (f"{OWN}:holds_add", "a + b", "+", True),
        (f"{OWN}:one_or_zero", "a", "b", False),
    ],
)
def test_right_and_wrong(name: str, response: str, answer: str, right: bool) -> None:
    assert verify(name, load_verifier(name), response, answer, "p0") is right


def test_the_last_closed_box_is_found_with_the_braces_inside_it() -> None:
    text = r"so \boxed{a{b}c} it is"
    span = boxed_span(text)
    assert span is not None
    assert text[slice(*span)] == "a{b}c"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bleu", "expected exact, last-number, boxed, math or module:function"),
        ("no_such_module:f", "cannot be imported"),
        (f"{OWN}:no_such", "cannot be imported"),
        (f"{OWN}:__doc__", "is no function"),
    ],
)
def test_an_unknown_verifier_is_refused(name: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load_verifier(name)


@pytest.mark.parametrize(
    ("name", "answer", "message"),
    [
        (f"{OWN}:raises", "1", r"raises on problem p0 \(RuntimeError: no idea\); expected true"),
        (f"{OWN}:says_maybe", "1", "returns 'maybe' for problem p0; expected true or false"),
        ("last-number", "Paris", "calls answer 'Paris' of problem p0 itself wrong"),
    ],
)
def test_a_verifier_fails_on_the_first_problem_in_one_line(
    name: str, answer: str, message: str
) -> None:
    with pytest.raises(VerifierError, match=message) as caught:
        check_verifier(name, load_verifier(name), [("p0", answer), ("p1", answer)])
    assert "\n" not in str(caught.value)


def test_answers_that_fit_pass() -> None:
    for name, answer in (("exact", "x"), ("boxed", r"\frac{1}{2}"), ("last-number", "x = 3")):
        check_verifier(name, load_verifier(name), [("p0", answer)])


def test_math_verify_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(OptionError, match=r"pip install opd-diag\[math\]"):
        load_verifier("math")
    stand_in = ModuleType("math_verify")
    stand_in.parse = lambda text: text.split("{")[-1].rstrip("}")  # type: ignore[attr-defined]
    stand_in.verify = lambda gold, given: gold == given  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "math_verify", stand_in)
    assert load_verifier("math")(r"\boxed{3}", "3")
    assert not load_verifier("math")(r"\boxed{4}", "3")
