"""The columns of every table, one module for each stage.

A module of an analysis names its result tables in `TABLES`; `ANALYSES`, `INTERVENTIONS` and
`RESULTS` gather them.
"""

from collections.abc import Mapping

from opd_diag.tables.columns import (
    agreement_traps,
    findings,
    interventions,
    loss_audit,
    release_points,
    rock_tokens,
    score_summary,
    teachability,
    update_alignment,
)
from opd_diag.tables.schema import Column

ANALYSES: Mapping[str, Mapping[str, tuple[Column, ...]]] = {
    "agreement_traps": agreement_traps.TABLES,
    "findings": findings.TABLES,
    "loss_audit": loss_audit.TABLES,
    "release_points": release_points.TABLES,
    "rock_tokens": rock_tokens.TABLES,
    "score_summary": score_summary.TABLES,
    "teachability": teachability.TABLES,
    "update_alignment": update_alignment.TABLES,
}

INTERVENTIONS: Mapping[str, Mapping[str, tuple[Column, ...]]] = interventions.TABLES

RESULTS: Mapping[str, tuple[Column, ...]] = {
    name: columns
    for tables in (*ANALYSES.values(), *INTERVENTIONS.values())
    for name, columns in tables.items()
}
