"""The command line: thin commands over the library functions of the same names."""

from opd_diag.cli import (
    agreement_traps,
    analyze,
    check,
    export,
    findings,
    info,
    intervene,
    loss_audit,
    plot,
    release_points,
    report,
    rock_tokens,
    score,
    score_summary,
    teachability,
    teacher_requests,
    update_alignment,
)
from opd_diag.cli.root_command import app


def main() -> None:
    """Run `opd-diag`."""
    app(prog_name="opd-diag")


__all__ = [
    "agreement_traps",
    "analyze",
    "app",
    "check",
    "export",
    "findings",
    "info",
    "intervene",
    "loss_audit",
    "main",
    "plot",
    "release_points",
    "report",
    "rock_tokens",
    "score",
    "score_summary",
    "teachability",
    "teacher_requests",
    "update_alignment",
]
