"""Write numbers for a person: one style for shares, units, intervals and what is missing."""

from collections.abc import Mapping
from typing import Any

from opd_diag.stats.intervals import FEWEST_CLUSTERS, TOO_FEW

MISSING = "n/a"

Row = Mapping[str, Any]


def number(value: float | None) -> str:
    """Write a number with three significant digits, thousands grouped."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def count(value: int | None) -> str:
    """Write a count, thousands grouped."""
    return MISSING if value is None else f"{value:,}"


def share(value: float | None) -> str:
    """Write a share as a percentage with one decimal, such as `83.4 %`."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def p_value(p: float | None) -> str:
    """Write a p value: `p = 0.032`, or `p < 0.001`."""
    if p is None:
        return f"p {MISSING}"
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def in_full(reason: str | None) -> str:
    """Write a reason with what would remove it: too few prompts, and how many would do."""
    return (reason or "").replace(TOO_FEW, f"{TOO_FEW}, {FEWEST_CLUSTERS} of like weight would do")


def estimate(row: Row, name: str = "value", unit: str | None = None) -> str:
    """Write an estimate with its 95 % interval.

    `83.4 % [81.0, 85.1]`, `0.0418 nat [0.0241, 0.0686]`, `1.31 [no interval: too few prompts, 5 of
    like weight would do]`.

    Args:
        row: A row of a result table with `<name>`, `<name>_low` and `<name>_high`; its `reason`,
            where it has one, says why there is no interval.
        name: Name of the estimate.
        unit: `share` for a percentage, another unit to print it; None: the row's `unit`, if any.
    """
    unit = row.get("unit", "") if unit is None else unit
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    reason = in_full(row.get("reason"))
    if value is None:
        return f"{MISSING} ({reason})" if reason else MISSING
    shared = unit == "share"
    text = share(value) if shared else f"{number(value)} {unit}".rstrip()
    if low is None or high is None:
        return f"{text} [no interval: {reason}]" if reason else f"{text} [no interval]"
    if shared:
        return f"{text} [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{text} [{number(low)}, {number(high)}]"
