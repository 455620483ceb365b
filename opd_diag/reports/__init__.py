"""Write one page that a person opens, sends and reads: findings, figures, and the tokens."""

from html import escape
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from opd_diag.analyses import wording
from opd_diag.analyses.findings import findings
from opd_diag.errors import OptionError, TableError
from opd_diag.reports.comparison import compare_findings, compare_means
from opd_diag.reports.inline_figures import figures_of, interval_figure
from opd_diag.reports.rollout_sample import choose_rollouts_to_read, describe_reasons
from opd_diag.reports.token_data import token_view
from opd_diag.tables.columns import ANALYSES
from opd_diag.tables.files import atomic_path
from opd_diag.tables.info import info
from opd_diag.tables.run import Run, open_run
from opd_diag.text.escaping import for_html

__all__ = ["Report", "report"]

TITLES = {
    "score_summary": "Scores: how far the student is from the teacher",
    "loss_audit": "Loss audit: what usual losses make of the same tokens",
    "release_points": "Release points: where supervision stops telling tokens apart",
    "rock_tokens": "Rock tokens: types that stay far from the teacher",
    "agreement_traps": "Agreement traps: stretches of low KL",
    "teachability": "Teachability: which disagreement was learned",
}
MOST_ROLLOUTS = 200
# The noise floor that the page gives is of the first of these that the run knows.
FLOORS = {
    "reverse_kl": "KL(student ‖ teacher)",
    "reverse_kl_low": "lower bound of KL(student ‖ teacher)",
    "student_logp": "student's log-prob of the token",
}


class Report(NamedTuple):
    """A report that was written; in a notebook it shows itself.

    Attributes:
        path: The file.
        size: Its size in bytes.
    """

    path: Path
    size: int

    def _repr_html_(self) -> str:
        page = escape(self.path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 80vh; border: 0"></iframe>'


def report(
    run: Run | str | Path,
    other: Run | str | Path | None = None,
    *,
    rollouts: int = 40,
    out: str | Path | None = None,
) -> Report:
    """Write a report of a run: one HTML file that needs no network and nothing beside it.

    It holds what was scored, the findings, the default figures of each analysis, and the tokens of
    rollouts that are worth reading, chosen by KL, release point, low-KL stretch and outcome. Its
    size stays below 10 MB however large the run is.

    Args:
        run: A run, or its folder.
        other: A second run, whose findings and means are set beside those of the first.
        rollouts: Most rollouts whose tokens are shown.
        out: The file; None: `report.html` in the run's folder.

    Returns:
        Where the report stands, and its size.

    Raises:
        OptionError: If the number of rollouts is out of range.
        ManifestError: If a folder holds no run.
        TableError: If no checkpoint of the run is complete.
        StorageError: If the file cannot be written.
    """
    if not 0 <= rollouts <= MOST_ROLLOUTS:
        raise OptionError(f"rollouts: {rollouts}; expected 0 to {MOST_ROLLOUTS}")
    opened = run if isinstance(run, Run) else open_run(run)
    path = opened.path / "report.html" if out is None else Path(out)
    reasons = choose_rollouts_to_read(opened, rollouts) if rollouts else {}
    about = info(opened)
    page = (
        _environment()
        .get_template("report.html.jinja")
        .render(
            name=opened.path.resolve().name,
            version=version("opd-diag"),
            about=about,
            floors=_floors(about),
            findings=_findings(opened),
            sections=[_section(opened, name) for name in TITLES],
            comparison=None if other is None else _comparison(opened, other),
            reasons=describe_reasons(reasons),
            data=token_view(opened, reasons) if reasons else None,
            style=_text("report.css"),
            script=_text("report.js"),
        )
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Report(path, path.stat().st_size)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("opd_diag.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_as_markup,
    )
    environment.filters["count"] = wording.count
    return environment


def _as_markup(value: object) -> Markup:
    """Escape a value of the template, unless it is markup already."""
    return value if isinstance(value, Markup) else Markup(for_html(str(value)))


def _text(name: str) -> str:
    return files("opd_diag.reports").joinpath("templates", name).read_text(encoding="utf-8")


def _floors(about: dict[str, Any]) -> dict[str, str]:
    """Write the noise floor of each checkpoint that has one, whatever the run knows of KL."""
    floors = {}
    for checkpoint, one in about["checkpoints"].items():
        floor = one.get("noise_floor") or {}
        p95 = floor.get("p95") or {}
        if name := next((name for name in FLOORS if name in p95), None):
            floors[checkpoint] = (
                f"{FLOORS[name]} {p95[name]:.2g} nat, on {floor['rollouts']} rollouts scored again"
            )
    return floors


def _findings(run: Run) -> list[dict[str, Any]]:
    """Return the rows of the findings with their numbers in words and a small figure."""
    rows = []
    for row in findings(run).iter_rows(named=True):
        control = row["control"]
        share = row["unit"] == "share"
        rows.append(
            row
            | {
                "numbers": wording.estimate(row, "estimate", row["unit"]),
                "beside": wording.share(control) if share else wording.number(control),
                "reason": wording.in_full(row["reason"]) or None,
                "p_text": wording.p_value(row["p_adjusted"]),
                "figure": interval_figure(row),
            }
        )
    return rows


def _section(run: Run, analysis: str) -> dict[str, Any]:
    """Gather what the page shows of one analysis: its figures, its lines, its tables."""
    tables: dict[str, pl.DataFrame] = {}
    missing = ""
    for name in ANALYSES[analysis]:
        try:
            tables[name] = run.result(name)
        except TableError as error:
            missing = str(error)
    lines: list[str] = []
    if not missing:
        module = import_module(f"opd_diag.analyses.{analysis}")
        words = "".join(part.capitalize() for part in analysis.split("_"))
        lines = module.summary_lines(getattr(module, words)(**tables))
    return {
        "analysis": analysis,
        "title": TITLES[analysis],
        "command": f"opd-diag analyze {analysis.replace('_', '-')} {run.path}",
        "missing": missing,
        "lines": lines,
        "figures": figures_of(run, analysis),
        "tables": [(name, table.height, len(table.columns)) for name, table in tables.items()],
    }


def _comparison(run: Run, other: Run | str | Path) -> dict[str, Any]:
    second = other if isinstance(other, Run) else open_run(other)
    return {
        "names": [run.path.resolve().name, second.path.resolve().name],
        "paths": [str(run.path), str(second.path)],
        "findings": compare_findings(run, second),
        "means": compare_means(run, second),
    }
