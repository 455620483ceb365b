"""Every choice of the analysis, checked once."""

import math
from dataclasses import dataclass

from opd_diag.analyses.agreement_traps.rule import Rule
from opd_diag.errors import OptionError
from opd_diag.tables.arguments import at_least

MODES = ("run", "replay")
UPDATES = ("step", "rollout")

LONGEST_REPEAT = 32  # `score` looks for n-grams up to this


@dataclass(frozen=True, kw_only=True)
class Options:
    """The choices of one call; `agreement_traps` says what they mean.

    Raises:
        OptionError: If one is out of its range, or two exclude each other.
    """

    mode: str = "run"
    window: int = 64
    eta: float = 0.3
    consecutive: int = 4
    grace: int | None = None
    threshold: float | str | None = None
    buffer: int = 4096
    warmup_rollouts: int = 512
    warmup_steps: int = 50
    update: str = "step"
    repeat_ngram: int = 32
    control_rollouts: int = 2000
    draws: int = 20
    block: int = 16
    trace: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (("mode", self.mode, MODES), ("update", self.update, UPDATES)):
            if value not in known:
                raise OptionError(f"{name}: {value!r}; expected {' or '.join(known)}")
        if not 0 < self.eta < 1:
            raise OptionError(f"eta: {self.eta}; expected more than 0 and less than 1")
        at_least(
            1,
            window=self.window,
            consecutive=self.consecutive,
            buffer=self.buffer,
            control_rollouts=self.control_rollouts,
            draws=self.draws,
            block=self.block,
        )
        at_least(
            0,
            grace=self.grace,
            warmup_rollouts=self.warmup_rollouts,
            warmup_steps=self.warmup_steps,
            seed=self.seed,
        )
        if not 1 <= self.repeat_ngram <= LONGEST_REPEAT:
            raise OptionError(f"repeat_ngram: {self.repeat_ngram}; expected 1 to {LONGEST_REPEAT}")
        if isinstance(self.threshold, float) and self.mode == "replay":
            raise OptionError("threshold: a number leaves nothing to replay; expected mode 'run'")

    @property
    def rule(self) -> Rule:
        """The rule that these numbers make; no window ends before it is full."""
        return Rule(self.window, self.eta, max(self.grace or 0, self.window), self.consecutive)


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
