"""opd-diag teacher-requests: what a teacher elsewhere is to be asked, and the script that asks."""

from pathlib import Path
from typing import Annotated, Literal

import typer

import opd_diag
from opd_diag.cli import model_options
from opd_diag.cli.option_values import name_students
from opd_diag.cli.printing import print_lines, print_written
from opd_diag.cli.root_command import app


@app.command(
    "teacher-requests", epilog="Example: opd-diag teacher-requests run --to vllm --out requests"
)
def teacher_requests(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    to: Annotated[
        Literal["vllm", "sglang"],
        typer.Option(help="An offline engine of vLLM, or a server of SGLang."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where both files go.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Student whose likeliest ids are asked; default: last."),
    ] = None,
    students: Annotated[
        list[str] | None,
        typer.Option(
            "--student",
            metavar="NAME=PATH",
            help="Checkpoint that has moved; repeat for more; default: as scored.",
        ),
    ] = None,
    k: Annotated[
        int, typer.Option(min=1, metavar="K", help="Ids beside the token that stands there.")
    ] = 16,
    dtype: model_options.Dtype = None,
    device: model_options.Device = None,
    trust_remote_code: model_options.TrustCode = False,
) -> None:
    """Write requests for a teacher that runs elsewhere, and the script that sends them."""
    paths = opd_diag.teacher_requests(
        run,
        to=to,
        out=out,
        checkpoint=checkpoint,
        students=name_students(students) if students else None,
        k=k,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    print_written(paths, "file")
    print_lines([f"Run {paths[1].name} where the teacher is; score then reads its teacher.jsonl."])
