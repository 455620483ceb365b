"""Diagnose on-policy distillation of language models, offline, from saved rollouts.

    import opd_diag as od

    rollouts = od.read_rollouts("dump/*.jsonl")
    run = od.score(rollouts, teacher="teacher", students={"step0": "student"}, out="run")
    points = od.release_points(run)

Names are imported when they are first used, so `import opd_diag` costs nothing.
"""

from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from opd_diag.errors import (
    ManifestError,
    ModelError,
    ModelMismatchError,
    OpdDiagError,
    OptionError,
    RolloutError,
    StorageError,
    TableError,
)

if TYPE_CHECKING:
    from opd_diag import datasets, plots, stats
    from opd_diag.analyses.agreement_traps import agreement_traps
    from opd_diag.analyses.findings import findings
    from opd_diag.analyses.loss_audit import loss_audit
    from opd_diag.analyses.release_points import release_points
    from opd_diag.analyses.rock_tokens import rock_tokens
    from opd_diag.analyses.score_summary import score_summary
    from opd_diag.analyses.teachability import teachability, teachability_features
    from opd_diag.exports import export, token_weights
    from opd_diag.interventions import continuation, knock_out, replacement
    from opd_diag.plots.figures import plot
    from opd_diag.reports import report
    from opd_diag.rollouts import read_rollouts
    from opd_diag.scoring.preflight.check import check
    from opd_diag.scoring.score import score
    from opd_diag.scoring.teacher_requests import teacher_requests
    from opd_diag.tables.info import info
    from opd_diag.tables.run import Run, open_run
    from opd_diag.text.token_strip import token_strip
    from opd_diag.updates import update_alignment

__version__ = _version("opd-diag")

_HOMES = {
    "Run": "opd_diag.tables.run",
    "agreement_traps": "opd_diag.analyses.agreement_traps",
    "check": "opd_diag.scoring.preflight.check",
    "continuation": "opd_diag.interventions",
    "export": "opd_diag.exports",
    "findings": "opd_diag.analyses.findings",
    "info": "opd_diag.tables.info",
    "loss_audit": "opd_diag.analyses.loss_audit",
    "knock_out": "opd_diag.interventions",
    "open_run": "opd_diag.tables.run",
    "plot": "opd_diag.plots.figures",
    "read_rollouts": "opd_diag.rollouts",
    "release_points": "opd_diag.analyses.release_points",
    "replacement": "opd_diag.interventions",
    "report": "opd_diag.reports",
    "rock_tokens": "opd_diag.analyses.rock_tokens",
    "score": "opd_diag.scoring.score",
    "score_summary": "opd_diag.analyses.score_summary",
    "teachability": "opd_diag.analyses.teachability",
    "teachability_features": "opd_diag.analyses.teachability",
    "teacher_requests": "opd_diag.scoring.teacher_requests",
    "token_strip": "opd_diag.text.token_strip",
    "token_weights": "opd_diag.exports",
    "update_alignment": "opd_diag.updates",
}
_SUBPACKAGES = ("datasets", "plots", "stats")

__all__ = [
    "ManifestError",
    "ModelError",
    "ModelMismatchError",
    "OpdDiagError",
    "OptionError",
    "RolloutError",
    "Run",
    "StorageError",
    "TableError",
    "agreement_traps",
    "check",
    "continuation",
    "datasets",
    "export",
    "findings",
    "info",
    "knock_out",
    "loss_audit",
    "open_run",
    "plot",
    "plots",
    "read_rollouts",
    "release_points",
    "replacement",
    "report",
    "rock_tokens",
    "score",
    "score_summary",
    "stats",
    "teachability",
    "teachability_features",
    "teacher_requests",
    "token_strip",
    "token_weights",
    "update_alignment",
]


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return import_module(f"opd_diag.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'opd_diag' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
