"""Every choice of the analysis, checked once."""

import math
from typing import NamedTuple

from opd_diag.analyses.agreement_traps.rule import Rule
from opd_diag.errors import OptionError

MODES = ("run", "replay")
UPDATES = ("step", "rollout")


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


def check_options(options: Options) -> Options:
    """Check the choices and return them.

    Raises:
        OptionError: If one is out of its range, or two exclude each other.
    """
    rule = options.rule
    for name, value, known in (("mode", options.mode, MODES), ("update", options.update, UPDATES)):
        if value not in known:
            raise OptionError(f"{name}: {value!r}; expected {' or '.join(known)}")
    if not 0 < rule.eta < 1:
        raise OptionError(f"eta: {rule.eta}; expected more than 0 and less than 1")
    whole = {
        "window": rule.window,
        "consecutive": rule.consecutive,
        "buffer": options.buffer,
        "repeat_ngram": options.repeat_ngram,
        "control_rollouts": options.control_rollouts,
        "draws": options.draws,
    }
    for name, number in whole.items():
        if number < 1:
            raise OptionError(f"{name}: {number}; expected 1 or more")
    if isinstance(options.threshold, float) and options.mode == "replay":
        raise OptionError("threshold: a number leaves nothing to replay; expected mode 'run'")
    return options


def parse_threshold(
    threshold: float | str | None, checkpoints: tuple[str, ...]
) -> float | str | None:
    """Read a threshold: a number in nat, or the name of a checkpoint whose own is taken.

    Raises:
        OptionError: If it is neither.
    """
    if threshold is None or threshold in checkpoints:
        return threshold
    try:
        number = float(threshold)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise OptionError(
            f"threshold: {threshold!r}; expected a number in nat or one of {', '.join(checkpoints)}"
        )
    return number
