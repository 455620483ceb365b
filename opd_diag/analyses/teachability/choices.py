"""Choose checkpoints, check options, and refuse what would leak."""

from collections.abc import Iterable, Sequence
from math import inf

from opd_diag.errors import OptionError, TableError
from opd_diag.tables.source import Source, choose_checkpoints

WITHIN = ("run", "prompt")


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


def check_options(
    within: str, trained_steps: Sequence[int] | None, noise_floor: float | None, seed: int
) -> None:
    """Check the options that no table checks itself.

    Raises:
        OptionError: If one is unknown or out of range.
    """
    if within not in WITHIN:
        raise OptionError(f"within: {within!r}; expected one of {', '.join(WITHIN)}")
    if trained_steps is not None and (
        len(trained_steps) != 2 or trained_steps[0] >= trained_steps[1]
    ):
        raise OptionError(
            f"trained_steps: {list(trained_steps)}; expected two training steps, the second later"
        )
    if noise_floor is not None and not 0 <= noise_floor < inf:
        raise OptionError(f"noise_floor: {noise_floor}; expected a number from 0, in nat")
    if seed < 0:
        raise OptionError(f"seed: {seed}; expected at least 0")


def require(source: Source, columns: Iterable[str]) -> None:
    """Check that the token table has the columns.

    Raises:
        TableError: If some are missing.
    """
    names = set(source.tokens().collect_schema().names())
    if missing := [name for name in columns if name not in names]:
        raise TableError(f"tokens: no column {', '.join(missing)}; expected them for this analysis")
