"""Seeded runs with known truth: planted effects, and nulls in which there is nothing to find."""

from opd_diag.datasets.base import Dataset, null_run
from opd_diag.datasets.disk import save_run

__all__ = ["Dataset", "null_run", "save_run"]
