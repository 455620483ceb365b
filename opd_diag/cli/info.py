"""opd-diag info: what a run holds."""

from pathlib import Path
from typing import Annotated, Any

import typer

from opd_diag.cli import read, show
from opd_diag.cli.app import app


@app.command()
def info(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what a run holds: models, rows, columns, results (stale ones marked), warnings."""
    from opd_diag.tables.info import info as library_info

    found = library_info(run)
    if as_json:
        import json

        typer.echo(json.dumps(found, indent=1))
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    rollouts = found["rollouts"]
    show.lines(
        [
            f"run       {found['path']}",
            f"teacher   {found['teacher']['path']}",
            f"rollouts  {rollouts['rows']:,} of {rollouts['prompts']:,} prompts, "
            f"{rollouts['tokens']:,} response tokens, {rollouts['token_exact']:,} token-exact",
            f"trusted   {', '.join(found['trusted']) or 'no code of models, no pickles'}",
            f"columns   {len(found['columns'])} of the token table: {', '.join(found['columns'])}",
        ]
    )
    for name in ("retokenised", "skipped", "unknown_keys"):
        if counts := rollouts["report"].get(name):
            show.lines([f"{name.replace('_', ' '):9} {read.counted(counts)}"])
    show.table(
        "checkpoints",
        ("name", "path", "parts", "of", "rows", "bytes"),
        [
            (name, one["path"], one["parts"], one["parts_expected"], one["rows"], one["bytes"])
            for name, one in found["checkpoints"].items()
        ],
    )
    if found["results"]:
        show.table(
            "results",
            ("name", "state", "checkpoints"),
            [
                (name, one["state"], ", ".join(one.get("checkpoints", [])) or one.get("reason"))
                for name, one in found["results"].items()
            ],
        )
    show.lines(f"warning: {text}" for text in found["warnings"])
