"""All figures that the results of a run allow, as files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opd_diag import plots
from opd_diag.errors import OptionError, TableError
from opd_diag.plots.catalogue import CAPTIONS, DEFAULT
from opd_diag.plots.overview import PANELS, overview
from opd_diag.plots.saving import save_figure
from opd_diag.plots.style import readable, style, why_blank
from opd_diag.plots.token_strip import token_strip as draw_token_strip
from opd_diag.tables.columns import ANALYSES, INTERVENTIONS, RESULTS
from opd_diag.tables.run import Run, open_run
from opd_diag.text.escaping import for_file_name
from opd_diag.text.token_strip import token_strip

FORMATS = ("png", "svg", "pdf")
ALL = "all"
OVERVIEW = "overview"
ROLLOUT = "rollout"


class Plotted(NamedTuple):
    """What `plot` has drawn.

    Attributes:
        paths: Files written.
        missing: Why a figure was not drawn, by its name: its table is not there or does not hold
            what it shows. A figure with nothing in it is not written.
    """

    paths: list[Path]
    missing: dict[str, str]


def plot(
    run: Run | str | Path,
    names: str | Sequence[str] = (),
    *,
    id: int | str | None = None,  # noqa: A002
    column: str | None = None,
    checkpoint: str | None = None,
    format: str = "png",  # noqa: A002
    size: str = "screen",
    results: str | Path | None = None,
    out: str | Path | None = None,
) -> Plotted:
    """Draw the figures that a run's results allow, and write them to files.

    Args:
        run: A run, or its folder.
        names: One name or several: analyses and interventions, all of whose figures are drawn,
            single figures, `overview` for a page with one figure of each analysis, `rollout` for
            the text of one rollout, or `all` for everything but `rollout`; none: the few of
            `opd_diag.plots.catalogue.DEFAULT`.
        id: For `rollout`: its `rollout_id` or row number.
        column: For `rollout`: the column that colours the tokens, as `token_strip` takes it;
            None: `reverse_kl`.
        checkpoint: For `rollout`: the student checkpoint, as `token_strip` takes it.
        format: `png`, `svg` or `pdf`.
        size: `screen`, or the width of a paper's page: `one-column` or `two-columns`.
        results: Folder of the result tables; by default RUN/results.
        out: Folder of the files; by default RUN/plots.

    Raises:
        OptionError: If a name, the column, the format or the size is unknown, or if `rollout`
            and its options do not stand together.
        TableError: If the run has no results, or the rollout or the checkpoint is unknown.
        StorageError: If a file cannot be written.
    """
    if format not in FORMATS:
        raise OptionError(f"format: {format!r}; expected {', '.join(FORMATS)}")
    names = [names] if isinstance(names, str) else names
    given = {"id": id, "column": column, "checkpoint": checkpoint}
    if ROLLOUT in names and id is None:
        raise OptionError("id: none for the figure 'rollout'; expected a rollout_id or row number")
    for option, value in given.items():
        if ROLLOUT not in names and value is not None:
            raise OptionError(f"{option}: {value!r}; expected it with the figure 'rollout' only")
    chosen = choose_figures(names)
    run = run if isinstance(run, Run) else open_run(run)
    source = None if results is None else Path(results)
    known = run.results(source)
    if chosen and not known and id is None:
        where = run.path if source is None else source
        raise TableError(f"{where}: no results; run `{_command(chosen.values(), run)}` first")
    folder = run.path / "plots" if out is None else Path(out)
    drawn = Plotted([], {})

    def keep(figure: Figure, name: str, file: str) -> None:
        try:
            if reason := why_blank(figure):
                drawn.missing[name] = reason
            else:
                path = folder / f"{file}.{format}"
                save_figure(figure, path, title=name, caption=CAPTIONS.get(name, ""))
                drawn.paths.append(path)
        finally:
            plt.close(figure)

    with style(size):
        if id is not None:
            strip = token_strip(run, id, column=column or "reverse_kl", checkpoint=checkpoint)
            keep(_figure(draw_token_strip(strip)), ROLLOUT, _strip_name(strip, id))
        for name, table in chosen.items():
            tables = {}
            for wanted in PANELS if name == OVERVIEW else (table,):
                if wanted not in known:
                    drawn.missing[name] = f"run `{_command([wanted], run)}` first"
                    continue
                try:
                    if why := run.why_stale(wanted, source):
                        drawn.missing[name] = f"{why}: run `{_command([wanted], run)}` again"
                    else:
                        tables[wanted] = run.result(wanted, source)
                except TableError as error:
                    drawn.missing[name] = str(error)
            if name == OVERVIEW and tables:
                drawn.missing.pop(name, None)
                keep(overview(tables, title=readable(run.path.resolve().name)), name, name)
            elif tables:
                keep(_figure(getattr(plots, name)(tables[table])), name, name)
    return drawn


def _command(tables: Iterable[str], run: Run) -> str:
    """Return the command that makes some tables: of their analysis, or of all where it is not one.

    Args:
        tables: Names of tables; empty for the overview.
        run: The run to analyse.
    """
    of = {"analyze": ANALYSES, "intervene": INTERVENTIONS}
    known = {
        t: (verb, name) for verb, all_of in of.items() for name in all_of for t in all_of[name]
    }
    makers = {known.get(table, ("analyze", ALL)) for table in tables}
    verb, name = makers.pop() if len(makers) == 1 else ("analyze", ALL)
    return f"opd-diag {verb} {name.replace('_', '-')} {run.path}"


def _figure(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def _strip_name(strip: pl.DataFrame, asked: int | str) -> str:
    """Name the file of a strip, in letters that every file system takes."""
    parts = strip.select("rollout", "checkpoint", "column").rows()[:1] or [(asked,)]
    return "_".join([ROLLOUT, *(for_file_name(str(part)) for part in parts[0])])


def figures() -> dict[str, str]:
    """Return all figures, and the table that each draws: the longest name that begins its own.

    The overview, which draws several tables, comes first and has an empty name.
    """
    drawn = {}
    for name in plots.__all__:
        tables = [table for table in RESULTS if name == table or name.startswith(f"{table}_")]
        if tables:
            drawn[name] = max(tables, key=len)
    return {OVERVIEW: ""} | drawn


def choose_figures(names: Sequence[str]) -> Mapping[str, str]:
    """Return the figures of analyses, of interventions or of their own names, with their tables.

    Args:
        names: Analyses, interventions, figures, `all` or `rollout`; none: the default figures.

    Raises:
        OptionError: If a name is none of them.
    """
    known = figures()
    if not names:
        return {name: known[name] for name in DEFAULT}
    chosen: dict[str, str] = {}
    for given in names:
        name = given.replace("-", "_")
        tables: Mapping[str, object] = {**ANALYSES, **INTERVENTIONS}.get(name, {})
        wanted = {figure: table for figure, table in known.items() if table in tables}
        if name == ALL:
            wanted = known
        elif not wanted and name in known:
            wanted = {name: known[name]}
        if not wanted and name != ROLLOUT:
            raise OptionError(
                f"name: {given!r}; expected an analysis ({', '.join(ANALYSES)}), an intervention "
                f"({', '.join(INTERVENTIONS)}), {ROLLOUT}, {ALL}, or a figure ({', '.join(known)})"
            )
        chosen |= wanted
    return chosen
