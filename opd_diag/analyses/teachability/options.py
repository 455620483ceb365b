"""The choices of `teachability`, and which checkpoints stand before and after training."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from opd_diag.errors import OptionError, TableError
from opd_diag.tables.source import Source, choose_checkpoints

BUDGETS = (0.01, 0.03, 0.05, 0.10, 0.20, 0.50)
DIVERGENCES = {"full": "forward_kl", "union": "union_kl"}
SCALES = ("rank", "paper")
WITHIN = ("run", "prompt")
PER = ("run", "rollout")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `teachability` that are not checkpoints or rollouts; see there.

    Raises:
        OptionError: If one is unknown or out of range.
    """

    divergence: str = "full"
    scale: str = "rank"
    k: int = 16
    within: str = "run"
    budgets: Sequence[float] = BUDGETS
    budget_per: str = "run"
    trained_steps: Sequence[int] | None = None
    noise_floor: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("divergence", tuple(DIVERGENCES)),
            ("scale", SCALES),
            ("within", WITHIN),
            ("budget_per", PER),
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
        if self.seed < 0:
            raise OptionError(f"seed: {self.seed}; expected at least 0")


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


def first_checkpoint(source: Source) -> str:
    """Return the checkpoint before training: the first of the source."""
    if not source.checkpoints:
        raise TableError("tokens: no checkpoint; expected one or more")
    return source.checkpoints[0]


def features_checkpoint(source: Source, checkpoint: str | None) -> str:
    """Return the checkpoint of the features: the first, or one with a later one to gain against.

    Raises:
        OptionError: If it is the last of several.
        TableError: If it is unknown.
    """
    if checkpoint is None:
        return first_checkpoint(source)
    (name,) = choose_checkpoints(source, checkpoint)
    if name == source.checkpoints[-1] != source.checkpoints[0]:
        raise OptionError(
            f"checkpoint: {name!r}; expected one before it: features of the last student have seen "
            "every gain that they could explain"
        )
    return name


def before_and_after(
    source: Source, checkpoint: str | Sequence[str] | None, features_from: str | None
) -> tuple[str, str | None]:
    """Return the checkpoints before and after training; the second is None if there is but one.

    Raises:
        OptionError: If more than two are given, or `features_from` is any other checkpoint than
            the one before training.
        TableError: If a name is unknown.
    """
    first = first_checkpoint(source)
    chosen = choose_checkpoints(source, checkpoint)
    if checkpoint is not None and not 1 <= len(chosen) <= 2:
        raise OptionError(
            f"checkpoint: {len(chosen)} names; expected the one after training, or the ones before "
            "and after it"
        )
    if checkpoint is None or len(chosen) == 2:
        first = chosen[0]
    last = chosen[-1]
    if features_from not in (None, first):
        raise OptionError(
            f"features_from: {features_from!r}; expected {first!r}, the student before training: "
            "features of a later one have seen the gain that they are to explain"
        )
    return first, None if last == first else last
