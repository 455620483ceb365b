"""Take and check the choices of one call."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast, get_args

from opd_diag.errors import OptionError
from opd_diag.stats.changepoints import Statistic
from opd_diag.tables.arguments import at_least

STATISTICS: tuple[str, ...] = get_args(Statistic)


class Rule(NamedTuple):
    """When a downward shift is a release point.

    Attributes:
        min_size: Fewest segments on each side.
        min_segments: Fewest segments of a rollout.
        threshold: What has to be exceeded: a BIC gain in nat, or a cumulative sum.
        statistic: What is compared with it, `bic` or `cusum`.
    """

    min_size: int
    min_segments: int
    threshold: float
    statistic: Statistic = "bic"


K = 4  # the paper's
# Exceeded by 0.1 to 0.4 % of independent noise from 20 segments on, as a BIC gain of 6 is.
CUSUM_THRESHOLD = 1.6

# The paper's rule accepts most noise of few segments: two or three fit perfectly.
PRESETS = {"paper": Rule(1, 4, 0.0), "opd-diag": Rule(3, 8, 6.0)}


@dataclass(frozen=True)
class Options:
    """What `release_points` was asked for; its arguments of the same names.

    Raises:
        OptionError: If the seed is negative.
    """

    rule: Rule
    k: int
    segmenter: str
    token_weighted: bool
    seed: int

    def __post_init__(self) -> None:
        at_least(0, seed=self.seed)


def choose_rule(
    preset: str,
    statistic: str,
    min_size: int | None,
    min_segments: int | None,
    threshold: float | None,
) -> Rule:
    """Take the rule of a preset, with what was asked for in its place.

    Raises:
        OptionError: If there is no such preset or statistic, or a number is out of range.
    """
    if statistic not in STATISTICS:
        raise OptionError(f"statistic: {statistic!r}; expected {' or '.join(STATISTICS)}")
    if preset not in PRESETS:
        raise OptionError(f"preset: {preset!r}; expected {' or '.join(PRESETS)}")
    at_least(1, min_size=min_size)
    at_least(2, min_segments=min_segments)
    if threshold is not None and not math.isfinite(threshold):
        raise OptionError(f"threshold: {threshold}; expected a finite number")
    usual = PRESETS[preset]
    if threshold is None:
        threshold = usual.threshold if statistic == "bic" else CUSUM_THRESHOLD
    return Rule(
        usual.min_size if min_size is None else min_size,
        usual.min_segments if min_segments is None else min_segments,
        threshold,
        cast(Statistic, statistic),
    )


def choose_k(k: int | None, k_grid: Sequence[int]) -> int:
    """Take the K that was asked for, else the paper's, or the smallest where the grid lacks it.

    Raises:
        OptionError: If there is no margin for the one that was asked for.
    """
    if k is None:
        return K if K in k_grid else min(k_grid)
    if k not in k_grid:
        raise OptionError(f"k: {k}; expected one of {', '.join(map(str, k_grid))}")
    return k
