"""All figures that the results of a run allow, as files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from opd_diag import plots
from opd_diag.errors import OptionError, TableError
from opd_diag.plots.style import style
from opd_diag.tables.columns import ANALYSES, RESULTS
from opd_diag.tables.files import atomic_path
from opd_diag.tables.run import Run, open_run

FORMATS = ("png", "svg", "pdf")


class Plotted(NamedTuple):
    """What `plot` has drawn.

    Attributes:
        paths: Files written.
        missing: Why a figure was not drawn, by its name.
    """

    paths: list[Path]
    missing: dict[str, str]


def plot(
    run: Run | str | Path,
    names: Sequence[str] = (),
    *,
    format: str = "png",  # noqa: A002
    out: str | Path | None = None,
) -> Plotted:
    """Draw the figures that a run's results allow, and write them to files.

    Args:
        run: A run, or its folder.
        names: Analyses, all of whose figures are drawn, or single figures; none: everything.
        format: `png`, `svg` or `pdf`.
        out: Folder of the files; by default RUN/plots.

    Raises:
        OptionError: If a name or the format is unknown.
        StorageError: If a file cannot be written.
    """
    if format not in FORMATS:
        raise OptionError(f"format: {format!r}; expected {', '.join(FORMATS)}")
    run = run if isinstance(run, Run) else open_run(run)
    folder = run.path / "plots" if out is None else Path(out)
    drawn = Plotted([], {})
    for name, table in choose_figures(names).items():
        try:
            rows = run.result(table)
        except TableError as error:
            drawn.missing[name] = str(error)
            continue
        ax: Axes = getattr(plots, name)(rows)
        figure = ax.get_figure(root=True)
        assert figure is not None
        drawn.paths.append(folder / f"{name}.{format}")
        with style(), atomic_path(drawn.paths[-1]) as temporary:
            figure.savefig(temporary, format=format)
        plt.close(figure)
    return drawn


def figures() -> dict[str, str]:
    """Return all figures, and the table that each draws: the longest name that begins its own."""
    found = {}
    for name in plots.__all__:
        tables = [table for table in RESULTS if name == table or name.startswith(f"{table}_")]
        if tables:
            found[name] = max(tables, key=len)
    return found


def choose_figures(names: Sequence[str]) -> Mapping[str, str]:
    """Return the figures of analyses or of their own names, with the table of each.

    Raises:
        OptionError: If a name is neither an analysis nor a figure.
    """
    known = figures()
    if not names:
        return known
    chosen: dict[str, str] = {}
    for given in names:
        name = given.replace("-", "_")
        tables: Mapping[str, object] = ANALYSES.get(name, {})
        wanted = {figure: table for figure, table in known.items() if table in tables}
        if not wanted and name in known:
            wanted = {name: known[name]}
        if not wanted:
            raise OptionError(
                f"name: {given!r}; expected an analysis ({', '.join(ANALYSES)}) or a figure "
                f"({', '.join(known)})"
            )
        chosen |= wanted
    return chosen
