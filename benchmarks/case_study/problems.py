"""Arithmetic word problems of twelve kinds, with worked solutions in four styles."""

import random
from collections.abc import Callable
from typing import NamedTuple

NAMES = (
    "Amara", "Bjorn", "Chen", "Dalia", "Emeka", "Farah", "Goran", "Hana", "Imre", "Joana",
    "Kofi", "Leila", "Mateo", "Nadia", "Oskar", "Priya", "Rosa", "Sami", "Tove", "Yusuf",
)  # fmt: skip
GOODS = (
    "apples", "marbles", "pencils", "stickers", "shells", "stamps", "buttons", "postcards",
    "lemons", "candles", "coins", "beads",
)  # fmt: skip
PLACES = ("library", "school", "museum", "hotel", "hospital", "office", "farm", "bakery")
ASK = " Explain your steps, and end with 'The answer is' and the number."
OPENINGS = (
    "Let's solve this step by step.",
    "We can work this out in a few steps.",
    "To find the answer, we look at what happens first.",
    "Let us think about what we know.",
    "First, we write down what is given.",
)
LINKS = ("So we calculate", "That means", "This gives", "We work out", "In numbers:")
FACTS = ("We know this:", "What is given:", "The facts are:")
RECAPS = ("In short:", "Put together:", "All steps once more:")
CHECKS = ("To check, we go back:", "Let us check this:", "We can verify the last step:")


class Step(NamedTuple):
    """One step of a solution: what is worked out, and the sum that does it."""

    what: str
    left: int
    op: str
    right: int

    @property
    def result(self) -> int:
        """The value of the sum."""
        values = {"+": self.left + self.right, "-": self.left - self.right}
        values |= {"*": self.left * self.right, "/": self.left // self.right}
        return values[self.op]

    @property
    def equation(self) -> str:
        """The sum, written out."""
        return f"{self.left} {self.op} {self.right} = {self.result}"


class Problem(NamedTuple):
    """A problem.

    Attributes:
        name: Unique name, such as `train-17`.
        kind: Which of the kinds it is.
        prompt: What the user says.
        solution: A worked solution.
        answer: The right number.
    """

    name: str
    kind: str
    prompt: str
    solution: str
    answer: str


class Plan(NamedTuple):
    """What a kind decides: the question, the unit of the answer and the steps to it."""

    question: str
    unit: str
    steps: tuple[Step, ...]


def _gift(r: random.Random) -> Plan:
    one, other, goods = *r.sample(NAMES, 2), r.choice(GOODS)
    has, gives, finds = r.randint(12, 40), r.randint(2, 10), r.randint(2, 15)
    return Plan(
        f"{one} has {has} {goods}, gives {gives} of them to {other} and then finds {finds} more. "
        f"How many {goods} does {one} have now?",
        goods,
        (
            Step(f"{one} gives away {gives} of {has} {goods}", has, "-", gives),
            Step(f"then {one} finds {finds} more", has - gives, "+", finds),
        ),
    )


def _shop(r: random.Random) -> Plan:
    name, (goods, others) = r.choice(NAMES), r.sample(GOODS, 2)
    n, price, m, cost = r.randint(2, 9), r.randint(2, 6), r.randint(2, 9), r.randint(2, 6)
    return Plan(
        f"At the market {name} buys {n} {goods} for {price} dollars each and {m} {others} for "
        f"{cost} dollars each. How many dollars does {name} spend in total?",
        "dollars",
        (
            Step(f"{n} {goods} cost {price} dollars each", n, "*", price),
            Step(f"{m} {others} cost {cost} dollars each", m, "*", cost),
            Step("both together are the total", n * price, "+", m * cost),
        ),
    )


def _change(r: random.Random) -> Plan:
    name, goods = r.choice(NAMES), r.choice(GOODS)
    n, price = r.randint(2, 8), r.randint(2, 5)
    return Plan(
        f"{name} pays for {n} {goods} with a 50 dollar note. One costs {price} dollars. "
        f"How much change does {name} get, in dollars?",
        "dollars",
        (
            Step(f"{n} {goods} cost {price} dollars each", n, "*", price),
            Step(f"{name} pays with 50 dollars", 50, "-", n * price),
        ),
    )


def _share(r: random.Random) -> Plan:
    goods, children, each, left = r.choice(GOODS), r.randint(3, 9), r.randint(2, 9), r.randint(1, 3)
    total = children * each + left
    return Plan(
        f"A teacher has {total} {goods}. She keeps {left} for herself and shares the rest equally "
        f"among {children} children. How many {goods} does each child get?",
        goods,
        (
            Step(f"the teacher keeps {left} of {total} {goods}", total, "-", left),
            Step(f"{children} children share the rest", total - left, "/", children),
        ),
    )


def _rows(r: random.Random) -> Plan:
    place, rows, seats, taken = r.choice(PLACES), r.randint(3, 9), r.randint(4, 9), r.randint(3, 11)
    return Plan(
        f"The hall of a {place} has {rows} rows of {seats} seats. {taken} seats are taken. "
        "How many seats are free?",
        "seats",
        (
            Step(f"there are {rows} rows of {seats} seats", rows, "*", seats),
            Step(f"{taken} of them are taken", rows * seats, "-", taken),
        ),
    )


def _age(r: random.Random) -> Plan:
    one, other = r.sample(NAMES, 2)
    young, older, years = r.randint(5, 15), r.randint(2, 12), r.randint(2, 10)
    return Plan(
        f"{one} is {young} years old. {other} is {older} years older than {one}. "
        f"How old will {other} be in {years} years?",
        "years",
        (
            Step(f"{other} is {older} years older than {one}", young, "+", older),
            Step(f"in {years} years {other} is older by {years}", young + older, "+", years),
        ),
    )


def _walk(r: random.Random) -> Plan:
    name, speed, hours, rest = r.choice(NAMES), r.randint(3, 6), r.randint(2, 5), r.randint(1, 9)
    return Plan(
        f"{name} walks for {hours} hours at {speed} kilometres per hour and then takes a bus for "
        f"{rest} kilometres. How many kilometres does {name} travel in total?",
        "kilometres",
        (
            Step(f"{name} walks {speed} kilometres in each of {hours} hours", hours, "*", speed),
            Step(f"the bus takes {name} {rest} kilometres further", speed * hours, "+", rest),
        ),
    )


def _pages(r: random.Random) -> Plan:
    name, daily, days, left = r.choice(NAMES), r.randint(5, 20), r.randint(2, 7), r.randint(10, 60)
    total = daily * days + left
    return Plan(
        f"A book has {total} pages. {name} reads {daily} pages a day for {days} days. "
        "How many pages are left to read?",
        "pages",
        (
            Step(f"{name} reads {daily} pages on each of {days} days", days, "*", daily),
            Step(f"these are taken from {total} pages", total, "-", daily * days),
        ),
    )


def _double(r: random.Random) -> Plan:
    one, other, goods = *r.sample(NAMES, 2), r.choice(GOODS)
    has, fewer = r.randint(5, 25), r.randint(1, 4)
    return Plan(
        f"{one} has {has} {goods}. {other} has twice as many, less {fewer}. "
        f"How many {goods} do they have together?",
        goods,
        (
            Step(f"twice as many as {one} has", 2, "*", has),
            Step(f"{other} has {fewer} less than that", 2 * has, "-", fewer),
            Step(f"{one} and {other} are taken together", has, "+", 2 * has - fewer),
        ),
    )


def _half(r: random.Random) -> Plan:
    name, goods, half, more = r.choice(NAMES), r.choice(GOODS), r.randint(4, 20), r.randint(2, 9)
    return Plan(
        f"{name} has {2 * half} {goods} and sells half of them in the morning. In the afternoon "
        f"{name} makes {more} more. How many {goods} does {name} have in the evening?",
        goods,
        (
            Step(f"half of {2 * half} {goods} are left after the morning", 2 * half, "/", 2),
            Step(f"{name} makes {more} more", half, "+", more),
        ),
    )


def _bus(r: random.Random) -> Plan:
    begin, off, on, place = r.randint(12, 40), r.randint(2, 9), r.randint(2, 12), r.choice(PLACES)
    return Plan(
        f"A bus with {begin} passengers stops at the {place}. {off} passengers get off and {on} "
        "get on. How many passengers are on the bus now?",
        "passengers",
        (
            Step(f"{off} of {begin} passengers get off", begin, "-", off),
            Step(f"{on} passengers get on", begin - off, "+", on),
        ),
    )


def _weeks(r: random.Random) -> Plan:
    name, saves, weeks, spends = r.choice(NAMES), r.randint(3, 12), r.randint(3, 8), r.randint(2, 8)
    return Plan(
        f"{name} saves {saves} dollars each week. After {weeks} weeks {name} spends {spends} "
        f"dollars. How many dollars does {name} have left?",
        "dollars",
        (
            Step(f"{name} saves {saves} dollars in each of {weeks} weeks", weeks, "*", saves),
            Step(f"{name} spends {spends} dollars", saves * weeks, "-", spends),
        ),
    )


KINDS: dict[str, Callable[[random.Random], Plan]] = {
    "gift": _gift,
    "shop": _shop,
    "change": _change,
    "share": _share,
    "rows": _rows,
    "age": _age,
    "walk": _walk,
    "pages": _pages,
    "double": _double,
    "half": _half,
    "bus": _bus,
    "weeks": _weeks,
}


def draw_problems(split: str, count: int, *, seed: int, without: set[str]) -> list[Problem]:
    """Draw problems whose prompts are all distinct, the kinds in turn.

    Args:
        split: What they are for; begins their names.
        count: How many.
        seed: Seed of the draw.
        without: Prompts that are not drawn; the new ones are added to it.
    """
    rng = random.Random(f"{seed}-{split}")
    problems: list[Problem] = []
    while len(problems) < count:
        kind = tuple(KINDS)[len(problems) % len(KINDS)]
        plan = KINDS[kind](rng)
        if plan.question in without:
            continue
        without.add(plan.question)
        name, answer = f"{split}-{len(problems)}", str(plan.steps[-1].result)
        problems.append(Problem(name, kind, plan.question + ASK, _solve(plan, rng), answer))
    return problems


def _solve(plan: Plan, r: random.Random) -> str:
    """Write a solution in one of four styles, with or without facts, check and recap."""
    style = r.choice((_in_prose, _numbered, _as_list, _with_reasons))
    parts = [r.choice(OPENINGS)]
    if r.random() < 0.75:
        *facts, _ = plan.question.replace("? ", ". ").split(". ")
        parts.append("\n".join((r.choice(FACTS), *(f"- {fact}." for fact in facts))))
    parts.append(style(plan, r))
    last = plan.steps[-1]
    if r.random() < 0.5:
        back = {"+": "-", "-": "+", "*": "/", "/": "*"}[last.op]
        step = Step("", last.result, back, last.right)
        parts.append(f"{r.choice(CHECKS)} {step.equation}, which is what we had before.")
    if r.random() < 0.5:
        recap = (f"- {_upper(step.what)}: {step.result}." for step in plan.steps)
        parts.append("\n".join((r.choice(RECAPS), *recap)))
    parts.append(f"The answer is {last.result}.")
    return r.choice(("\n\n", "\n")).join(parts)


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _in_prose(plan: Plan, r: random.Random) -> str:
    return " ".join(f"{_upper(s.what)}. {r.choice(LINKS)} {s.equation}." for s in plan.steps)


def _numbered(plan: Plan, r: random.Random) -> str:
    word = r.choice(("Step {}:", "{}."))
    return "\n".join(
        f"{word.format(i)} {_upper(s.what)}. {s.equation}" for i, s in enumerate(plan.steps, 1)
    )


def _as_list(plan: Plan, r: random.Random) -> str:
    return "\n".join(f"- {_upper(s.what)}: {s.equation} {plan.unit}" for s in plan.steps)


def _with_reasons(plan: Plan, r: random.Random) -> str:
    words = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide"}
    return "\n".join(
        f"{_upper(s.what)}, so we {words[s.op]}: {s.equation}. "
        f"{r.choice(('Now we have', 'The result is', 'We get'))} {s.result} {plan.unit}."
        for s in plan.steps
    )
