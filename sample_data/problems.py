"""Generate small word problems with worked solutions whose answer can be checked."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ines", "Jonas")
GOODS = ("apples", "pears", "pens", "books", "cards", "shells", "stamps", "cups", "eggs", "coins")
RIDES = ("bus", "train", "tram", "boat", "ferry")
OPENINGS = (
    "Let us solve this step by step.",
    "We can work this out in small steps.",
    "First we write down what we know.",
    "This takes a few short steps.",
)
CHECKS = ("Let us check.", "Now we check the result.", "Does this make sense?", "A quick check:")
GOOD_ENDS = ("so the result is right.", "as it should be.", "which fits.", "so it all agrees.")
BOXED = re.compile(r"\\boxed\{(\d+)\}")
SYMBOLS = {"+": "+", "-": "-", "*": r"\times"}
REASONS = {
    "+": ("so we add.", "and this calls for a sum.", "which means we add."),
    "-": ("so we subtract.", "and this calls for a difference.", "which means we subtract."),
    "*": ("so we multiply.", "and this calls for a product.", "which means we multiply."),
}
RESULTS = ("This gives {}.", "So we have {}.", "Now we know it is {}.", "That makes {}.")


@dataclass(frozen=True)
class Problem:
    """Hold one problem, one worked solution and the answer."""

    kind: str
    prompt: str
    solution: str
    answer: int


@dataclass(frozen=True)
class Step:
    """Hold one arithmetic step: its label, its reason and its two operands."""

    label: str
    reason: str
    left: int
    op: str
    right: int

    @property
    def result(self) -> int:
        """Return the value of the step."""
        if self.op == "+":
            return self.left + self.right
        return self.left - self.right if self.op == "-" else self.left * self.right


@dataclass(frozen=True)
class Plan:
    """Hold what a problem kind decides; the rendering is shared by all kinds."""

    prompt: str
    facts: tuple[str, ...]
    steps: tuple[Step, ...]
    unit: str


def _shop(rng: random.Random) -> Plan:
    """Plan a problem on the price of two sorts of goods."""
    name, (first, second) = rng.choice(NAMES), rng.sample(GOODS, 2)
    a, p, b, q = (rng.randint(2, 4) for _ in range(4))
    facts = (
        f"{name} buys {a} {first} at {p} dollars each.",
        f"{name} buys {b} {second} at {q} dollars each.",
    )
    ask = rng.choice(("How many dollars does {} pay?", "What does {} pay in all?")).format(name)
    steps = (
        Step(f"The {first}", f"There are {a} {first} at {p} dollars each,", a, "*", p),
        Step(f"The {second}", f"There are {b} {second} at {q} dollars each,", b, "*", q),
        Step("The total", f"The two costs are {a * p} and {b * q},", a * p, "+", b * q),
    )
    return Plan(" ".join((*facts, ask)), facts, steps, "dollars")


def _bus(rng: random.Random) -> Plan:
    """Plan a problem on people who get on and off."""
    start, on, more = rng.randint(4, 9), rng.randint(2, 6), rng.randint(2, 5)
    off, ride = rng.randint(2, 5), rng.choice(RIDES)
    facts = (
        f"A {ride} starts with {start} people.",
        f"At the first stop {on} people get on.",
        f"At the second stop {off} people get off.",
        f"At the last stop {more} people get on.",
    )
    ask = rng.choice(("How many people are on the {}?", "How many ride on with the {}?"))
    one, two = start + on, start + on - off
    steps = (
        Step("First stop", f"The {ride} has {start} people and {on} get on,", start, "+", on),
        Step("Second stop", f"The {ride} has {one} people and {off} get off,", one, "-", off),
        Step("Last stop", f"The {ride} has {two} people and {more} get on,", two, "+", more),
    )
    return Plan(" ".join((*facts, ask.format(ride))), facts, steps, "people")


def _compare(rng: random.Random) -> Plan:
    """Plan a problem on three people whose counts are compared."""
    (x, y, z), goods = rng.sample(NAMES, 3), rng.choice(GOODS)
    a, more, less = rng.randint(3, 6), rng.randint(1, 4), rng.randint(1, 3)
    b = a + more
    c = b - less
    facts = (
        f"{x} has {a} {goods}.",
        f"{y} has {more} more than {x}.",
        f"{z} has {less} fewer than {y}.",
    )
    ask = rng.choice(("How many {} do they have in all?", "How many {} is that together?"))
    steps = (
        Step(y, f"{x} has {a} and {y} has {more} more,", a, "+", more),
        Step(z, f"{y} has {b} and {z} has {less} fewer,", b, "-", less),
        Step(f"{x} and {y}", f"They have {a} and {b},", a, "+", b),
        Step("All three", f"We have {a + b} and {z} has {c},", a + b, "+", c),
    )
    return Plan(" ".join((*facts, ask.format(goods))), facts, steps, goods)


def _saving(rng: random.Random) -> Plan:
    """Plan a problem on weekly savings and one purchase."""
    name, start, weekly = rng.choice(NAMES), rng.randint(2, 9), rng.randint(2, 5)
    weeks, spent = rng.choice((2, 2, 3, 3, 4)), rng.randint(2, 6)
    facts = (
        f"{name} has {start} coins.",
        f"{name} saves {weekly} coins each week.",
        f"After {weeks} weeks {name} spends {spent} coins.",
    )
    ask = rng.choice(("How many coins are left?", "How many coins does {} have then?"))
    steps = [
        Step(
            f"Week {week}",
            f"{name} has {start + (week - 1) * weekly} coins and saves {weekly},",
            start + (week - 1) * weekly,
            "+",
            weekly,
        )
        for week in range(1, weeks + 1)
    ]
    total = start + weeks * weekly
    steps.append(
        Step("The end", f"{name} has {total} coins and spends {spent},", total, "-", spent)
    )
    return Plan(" ".join((*facts, ask.format(name))), facts, tuple(steps), "coins")


def _boxes(rng: random.Random) -> Plan:
    """Plan a problem on full boxes, loose goods and a gift."""
    name, friend = rng.sample(NAMES, 2)
    goods, n, k = rng.choice(GOODS), rng.randint(2, 4), rng.randint(2, 4)
    loose, gift = rng.randint(2, 6), rng.randint(2, 4)
    facts = (
        f"{name} has {n} boxes with {k} {goods} each.",
        f"{name} finds {loose} {goods} more.",
        f"{name} gives {gift} {goods} to {friend}.",
    )
    ask = rng.choice(("How many {} are left?", "How many {} does {} keep?")).format(goods, name)
    steps = (
        Step("The boxes", f"There are {n} boxes with {k} {goods} each,", n, "*", k),
        Step("The find", f"{name} has {n * k} and finds {loose},", n * k, "+", loose),
        Step("The gift", f"{name} has {n * k + loose} and gives {gift},", n * k + loose, "-", gift),
    )
    return Plan(" ".join((*facts, ask)), facts, steps, goods)


KINDS: dict[str, Callable[[random.Random], Plan]] = {
    "shop": _shop,
    "bus": _bus,
    "compare": _compare,
    "saving": _saving,
    "boxes": _boxes,
}


def _render_check(last: Step, rng: random.Random) -> str:
    """Write the last step backwards as a check."""
    if last.op == "+":
        back = f"{last.result} - {last.right} = {last.left}"
    else:
        back = f"{last.result} + {last.right} = {last.left}"
    return f"{rng.choice(CHECKS)} We go back: {back}, {rng.choice(GOOD_ENDS)}"


def _render_solution(plan: Plan, rng: random.Random) -> str:
    """Write a plan as several lines of text: facts, steps, check, recap and answer."""
    lines = [rng.choice(OPENINGS), "", rng.choice(("We know:", "Given:"))]
    lines += [f"- {fact}" for fact in plan.facts]
    for number, step in enumerate(plan.steps, start=1):
        shown = f"{step.left} {SYMBOLS[step.op]} {step.right} = {step.result}"
        result = rng.choice(RESULTS).format(f"{step.result} {plan.unit}")
        lines += [
            "",
            f"{number}. {step.label}. {step.reason} {rng.choice(REASONS[step.op])}",
            rf"\[ {shown} \]",
            result,
        ]
    lines += ["", _render_check(plan.steps[-1], rng)]
    if rng.random() < 0.5:
        lines += ["", rng.choice(("Recap:", "In short:"))]
        lines += [f"- {step.label}: {step.result}" for step in plan.steps]
    end = rng.choice(("The answer is {}.", "So the answer is {}.", "Final answer: {}."))
    boxed = rf"\boxed{{{plan.steps[-1].result}}}"
    return "\n".join([*lines, "", end.format(boxed)])


def make_problem(rng: random.Random) -> Problem:
    """Draw one problem with its solution."""
    kind = rng.choice(tuple(KINDS))
    plan = KINDS[kind](rng)
    return Problem(kind, plan.prompt, _render_solution(plan, rng), plan.steps[-1].result)


def make_held_out(count: int, seed: int) -> list[Problem]:
    """Draw problems whose prompts are all distinct."""
    rng, found = random.Random(seed), {}
    while len(found) < count:
        problem = make_problem(rng)
        found.setdefault(problem.prompt, problem)
    return list(found.values())


def stream_problems(seed: int, exclude: set[str]) -> Iterator[Problem]:
    """Yield problems without end, leaving out those whose prompt is in ``exclude``."""
    rng = random.Random(seed)
    while True:
        problem = make_problem(rng)
        if problem.prompt not in exclude:
            yield problem


def is_correct(response: str, answer: int) -> bool:
    """Tell whether the last boxed number of a response is the answer."""
    found = BOXED.findall(response)
    return bool(found) and int(found[-1]) == answer
