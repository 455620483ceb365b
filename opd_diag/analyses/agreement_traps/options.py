"""Every choice of the analysis, checked once."""

import math
from typing import NamedTuple

from opd_diag.analyses.agreement_traps.rule import Rule
from opd_diag.errors import OptionError

MODES = ("run", "replay")
UPDATES = ("step", "rollout")

LONGEST_REPEAT = 32  # `score` looks for n-grams up to this


class Options(NamedTuple):
    """The choices of one call; `agreement_traps` says what they mean."""

    mode: str
    rule: Rule
    buffer: int
    warmup_rollouts: int
    warmup_steps: int
    update: str
    threshold: float | str | None
    repeat_ngram: int
    control_rollouts: int
    draws: int
    trace: int | None
    seed: int


def make_rule(window: int, eta: float, grace: int | None, consecutive: int) -> Rule:
    """Make the rule of its four numbers; no window ends before it is full.

    Raises:
        OptionError: If one is out of its range.
    """
    if not 0 < eta < 1:
        raise OptionError(f"eta: {eta}; expected more than 0 and less than 1")
    _at_least(1, window=window, consecutive=consecutive)
    _at_least(0, grace=grace or 0)
    return Rule(window, eta, max(grace or 0, window), consecutive)


def check_options(options: Options) -> Options:
    """Check the choices and return them.

    Raises:
        OptionError: If one is out of its range, or two exclude each other.
    """
    for name, value, known in (("mode", options.mode, MODES), ("update", options.update, UPDATES)):
        if value not in known:
            raise OptionError(f"{name}: {value!r}; expected {' or '.join(known)}")
    _at_least(
        1, buffer=options.buffer, control_rollouts=options.control_rollouts, draws=options.draws
    )
    _at_least(
        0,
        warmup_rollouts=options.warmup_rollouts,
        warmup_steps=options.warmup_steps,
        seed=options.seed,
    )
    if not 1 <= options.repeat_ngram <= LONGEST_REPEAT:
        raise OptionError(f"repeat_ngram: {options.repeat_ngram}; expected 1 to {LONGEST_REPEAT}")
    if isinstance(options.threshold, float) and options.mode == "replay":
        raise OptionError("threshold: a number leaves nothing to replay; expected mode 'run'")
    return options


def parse_threshold(
    threshold: float | str | None, checkpoints: tuple[str, ...]
) -> float | str | None:
    """Read a threshold: a number above 0 in nat, or the name of a checkpoint whose own is taken.

    Raises:
        OptionError: If it is neither.
    """
    if threshold is None or threshold in checkpoints:
        return threshold
    try:
        number = float(threshold)
    except ValueError:
        number = math.nan
    if not (number > 0 and math.isfinite(number)):
        raise OptionError(
            f"threshold: {threshold!r}; expected a number above 0 in nat or one of "
            f"{', '.join(checkpoints)}"
        )
    return number


def _at_least(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise OptionError(f"{name}: {number}; expected {least} or more")
