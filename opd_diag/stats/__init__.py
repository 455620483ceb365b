"""Numbers in, numbers out: intervals, change points, and what else knows no tokens or tables.

The names below are the ones to start with; every module of this folder can be reached as
`opd_diag.stats.<module>`.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opd_diag.stats.changepoints import downward_shift
    from opd_diag.stats.cluster_averages import cluster_mean, cluster_median
    from opd_diag.stats.intervals import Interval

_HOMES = {
    "Interval": "intervals",
    "cluster_mean": "cluster_averages",
    "cluster_median": "cluster_averages",
    "downward_shift": "changepoints",
}
_MODULES = sorted(module.name for module in iter_modules(__path__))

__all__ = ["Interval", "cluster_mean", "cluster_median", "downward_shift"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"opd_diag.stats.{_HOMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"opd_diag.stats.{name}")
    raise AttributeError(f"module 'opd_diag.stats' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
