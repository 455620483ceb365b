"""The columns of every table, one module for each stage.

A module of an analysis names its result tables in `TABLES`; `RESULTS` gathers them.
"""

from collections.abc import Mapping

from opd_diag.tables.schema import Column

RESULTS: Mapping[str, tuple[Column, ...]] = {}
