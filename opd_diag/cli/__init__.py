"""The command line: thin commands over the library functions of the same names."""

from opd_diag.cli import analyze, info, plot, score
from opd_diag.cli.app import app


def main() -> None:
    """Run `opd-diag`."""
    app(prog_name="opd-diag")


__all__ = ["analyze", "app", "info", "main", "plot", "score"]
