"""opd-diag check: look at a job before it starts."""

from pathlib import Path
from typing import Annotated

import typer

from opd_diag.cli import read
from opd_diag.cli.app import app
from opd_diag.cli.score import (
    Attn,
    BatchTokens,
    Device,
    Dtype,
    PartTokens,
    Revision,
    Teacher,
    Temperature,
    TrustCode,
)

COLOURS = {"green": "green", "yellow": "yellow", "red": "red"}


@app.command()
def check(
    rollouts: read.Dumps,
    teacher: Teacher,
    student: Annotated[
        str, typer.Option(metavar="PATH", help="Student checkpoint: a folder or hub id.")
    ],
    format: read.FormatName = None,  # noqa: A002
    eos: read.Eos = "auto",
    template: read.Template = "auto",
    trust_pickle: read.TrustPickle = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Read only so many rollouts.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Where the run would be written.")
    ] = None,
    max_response_tokens: Annotated[
        int | None, typer.Option(min=1, help="Only so many tokens of each response.")
    ] = None,
    temperature: Temperature = 1.0,
    dtype: Dtype = None,
    device: Device = None,
    attn: Attn = None,
    revision: Revision = None,
    trust_remote_code: TrustCode = False,
    batch_tokens: BatchTokens = None,
    part_tokens: PartTokens = 262_144,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at rollouts, tokenizers and models, score one batch, foresee time, memory and disk.

    Exits with 1 if a line is red.
    """
    from opd_diag.scoring.check import check as library_check

    found = read.rollouts(
        rollouts,
        student,
        format=format,
        eos=eos,
        template=template,
        trust_pickle=trust_pickle,
        limit=limit,
    )
    findings = library_check(
        found,
        teacher=teacher,
        student=student,
        out=out,
        max_response_tokens=max_response_tokens,
        temperature=temperature,
        dtype=dtype,
        device=device,
        attn=attn,
        revision=revision,
        trust_remote_code=trust_remote_code,
        batch_tokens=batch_tokens,
        part_tokens=part_tokens,
    )
    if as_json:
        import json

        typer.echo(json.dumps([finding._asdict() for finding in findings], indent=1))
    else:
        for level, what, detail in findings:
            typer.echo(f"{typer.style(f'{level:6}', fg=COLOURS[level])}  {what}: {detail}")
    if any(finding.level == "red" for finding in findings):
        raise typer.Exit(1)
