"""opd-diag info: what a run holds."""

from pathlib import Path
from typing import Annotated, Any

import typer

import opd_diag
from opd_diag.cli.printing import print_lines, print_table
from opd_diag.cli.read_dump import counts, notes
from opd_diag.cli.root_command import app


@app.command(epilog="Example: opd-diag info run --json")
def info(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read every file again; exit with 1 if one has changed."),
    ] = False,
    accept_edits: Annotated[
        bool,
        typer.Option("--accept-edits", help="Take changed files as they are, and record them."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a run holds: models, rows, columns, results (stale ones marked), warnings."""
    contents = opd_diag.info(run, verify=verify, accept_edits=accept_edits)
    if as_json:
        import json

        typer.echo(json.dumps(contents, indent=1))
    else:
        _print(contents)
    if contents.get("faults"):
        raise typer.Exit(1)


def _print(contents: dict[str, Any]) -> None:
    rollouts, columns = contents["rollouts"], contents["columns"]
    print_lines(
        [
            f"run       {contents['path']}",
            f"teacher   {contents['teacher']['path']}",
            f"rollouts  {rollouts['rows']:,} of {rollouts['prompts']:,} prompts, "
            f"{rollouts['tokens']:,} response tokens, {rollouts['token_exact']:,} token-exact",
            f"trusted   {', '.join(contents['trusted']) or 'no code of models, no pickles'}",
            f"columns   {len(columns)} of the token table: {', '.join(columns)}",
        ]
    )
    for name in ("retokenised", "skipped", "unknown_keys"):
        if count := rollouts["report"].get(name):
            print_lines([f"{name.replace('_', ' '):9} {counts(count)}"])
    print_lines(notes(rollouts["report"]))
    print_table(
        "checkpoints",
        ("name", "path", "parts", "of", "rows", "bytes"),
        [
            (name, one["path"], one["parts"], one["parts_expected"], one["rows"], one["bytes"])
            for name, one in contents["checkpoints"].items()
        ],
    )
    if contents["results"]:
        rows = [
            (name, one["state"], ", ".join(one.get("checkpoints", [])), one.get("reason"))
            for name, one in contents["results"].items()
        ]
        width = 4 if any(row[-1] for row in rows) else 3
        header = ("name", "state", "checkpoints", "why")[:width]
        print_table("results", header, [row[:width] for row in rows])
    print_lines(f"accepted  {name}" for name in contents.get("accepted", ()))
    if "faults" in contents:
        faults = contents["faults"]
        print_lines([f"verified  {'all files are as they were written' if not faults else ''}"])
        print_lines(f"{name}: {fault}" for name, fault in faults.items())
    print_lines(f"warning: {text}" for text in contents["warnings"])
