"""Seeded runs with known truth: planted effects, and nulls in which there is nothing to find."""

from opd_diag.datasets.base import Dataset, null_run
from opd_diag.datasets.disk import save_run
from opd_diag.datasets.nulls import NULLS, ugly_run
from opd_diag.datasets.releases import release_run
from opd_diag.datasets.rocks import equal_gradients, rock_run, unchanged_run
from opd_diag.datasets.teachability import teachable_run
from opd_diag.datasets.traps import trap_run

__all__ = [
    "NULLS",
    "Dataset",
    "equal_gradients",
    "null_run",
    "release_run",
    "rock_run",
    "save_run",
    "teachable_run",
    "trap_run",
    "ugly_run",
    "unchanged_run",
]
