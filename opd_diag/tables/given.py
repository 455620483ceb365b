"""The former name of `opd_diag.tables.arguments.public_analysis`."""

from opd_diag.tables.arguments import public_analysis as names_missing_columns

__all__ = ["names_missing_columns"]
