"""The choices of `teachability`, and which checkpoints stand before and after training."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import NamedTuple

from opd_diag.errors import OptionError, TableError
from opd_diag.tables.arguments import at_least
from opd_diag.tables.source import Source, choose_checkpoints

KLS = ("forward_kl", "reverse_kl")
BUDGETS = (0.01, 0.03, 0.05, 0.10, 0.20, 0.50)
DIVERGENCES = {"full": "forward_kl", "union": "union_kl"}
SCALES = ("paper", "rank")
WITHIN = ("run", "prompt")
PER = ("run", "rollout")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `teachability` that are not checkpoints or rollouts; see there.

    Raises:
        OptionError: If one is unknown or out of range.
    """

    divergence: str = "full"
    scale: str = "paper"
    k: int = 16
    within: str = "run"
    budgets: Sequence[float] = BUDGETS
    budget_per: str = "run"
    trained_steps: Sequence[int] | None = None
    noise_floor: float | None = None
    kl: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("divergence", tuple(DIVERGENCES)),
            ("scale", SCALES),
            ("within", WITHIN),
            ("budget_per", PER),
            ("kl", ("auto", *KLS)),
        ):
            require_one_of(name, getattr(self, name), known)
        _check_budgets(self.budgets)
        steps, floor = self.trained_steps, self.noise_floor
        if steps is not None and (len(steps) != 2 or steps[0] >= steps[1]):
            raise OptionError(
                f"trained_steps: {list(steps)}; expected two training steps, the second later"
            )
        if floor is not None and not 0 <= floor < inf:
            raise OptionError(f"noise_floor: {floor}; expected a number from 0, in nat")
        at_least(0, seed=self.seed)


def require_one_of(name: str, value: object, known: Sequence[object]) -> None:
    """Refuse a value that is not one of those known.

    Raises:
        OptionError: If it is not.
    """
    if value not in known:
        raise OptionError(f"{name}: {value!r}; expected one of {', '.join(map(str, known))}")


def _check_budgets(budgets: Sequence[float]) -> None:
    rising = all(a < b for a, b in pairwise(budgets))
    if not budgets or not rising or not 0 < budgets[0] <= budgets[-1] <= 1:
        raise OptionError(f"budgets: {list(budgets)}; expected rising shares above 0, at most 1")


class Checkpoints(NamedTuple):
    """Which students are compared.

    Attributes:
        features_from: The one that every feature comes from.
        gain_from: The one whose KL a gain starts from; None: there is no gain.
        last: The one after training; None: there is no gain.
        all: Every checkpoint from the earliest to the last of these, in order.
    """

    features_from: str
    gain_from: str | None
    last: str | None
    all: tuple[str, ...]

    @property
    def out_of_time(self) -> bool:
        """Whether the features know nothing of the noise in the KL that the gain starts from."""
        return self.gain_from not in (None, self.features_from)


def choose_pair(
    source: Source,
    checkpoint: str | Sequence[str] | None,
    features_from: str | None,
    gain_from: str | None,
) -> Checkpoints:
    """Choose the checkpoints of features and gain.

    Raises:
        OptionError: If more than two checkpoints are given, or the three do not follow each other.
        TableError: If there is no checkpoint, or one is unknown.
    """
    names = source.checkpoints
    if not names:
        raise TableError("tokens: no checkpoint; expected one or more")
    chosen = choose_checkpoints(source, checkpoint)
    if checkpoint is not None and not 1 <= len(chosen) <= 2:
        raise OptionError(
            f"checkpoint: {len(chosen)} names; expected the one after training, or the ones before "
            "and after it"
        )
    for option, name in (("features_from", features_from), ("gain_from", gain_from)):
        if name is not None:
            require_one_of(option, name, names)
    last = names.index(chosen[-1])
    if checkpoint is not None and len(chosen) == 2:
        gain_from = gain_from or chosen[0]
    if not last and features_from == gain_from is None:
        return Checkpoints(names[0], None, None, names[:1])
    first = None if features_from is None else names.index(features_from)
    if gain_from is not None:
        start = names.index(gain_from)
    else:  # one after that of the features, if it lies before the last
        start = max(0, min((first or 0) + 1, last - 1))
    first = max(0, start - 1) if first is None else first
    if not first <= start < last:
        raise OptionError(
            f"features_from, gain_from, checkpoint: {names[first]!r}, {names[start]!r}, "
            f"{names[last]!r}; expected features from no later student than the gain, and the gain "
            "from an earlier one than the last: features of a later one have seen the gain that "
            "they are to explain"
        )
    return Checkpoints(names[first], names[start], names[last], names[first : last + 1])


def features_checkpoint(source: Source, checkpoint: str | None) -> str:
    """Return the checkpoint of the features: the first, or one with a later one to gain against.

    Raises:
        OptionError: If it is the last of several.
        TableError: If there is no checkpoint, or it is unknown.
    """
    if checkpoint is None:
        return choose_pair(source, None, None, None).features_from
    (name,) = choose_checkpoints(source, checkpoint)
    if name == source.checkpoints[-1] != source.checkpoints[0]:
        raise OptionError(
            f"checkpoint: {name!r}; expected one before it: features of the last student have seen "
            "every gain that they could explain"
        )
    return name
