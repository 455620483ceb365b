"""opd-diag check: look at a job before it starts."""

from pathlib import Path
from typing import Annotated

import typer

import opd_diag
from opd_diag.cli import model_options, read_dump
from opd_diag.cli.option_values import name_students, name_teachers
from opd_diag.cli.root_command import app
from opd_diag.text.escaping import for_terminal


@app.command(
    epilog="Example: opd-diag check dump/*.jsonl --teacher teacher --student checkpoints/40"
)
def check(
    rollouts: read_dump.Dumps,
    teacher: model_options.Teacher,
    students: model_options.Students,
    format: read_dump.FormatName = None,  # noqa: A002
    eos: read_dump.Eos = "auto",
    template: read_dump.Template = "auto",
    map: read_dump.MappedKeys = None,  # noqa: A002
    group_by: read_dump.GroupBy = None,
    teacher_system: read_dump.TeacherSystem = None,
    teacher_prompts: read_dump.TeacherPrompts = None,
    trust_pickle: read_dump.TrustPickle = False,
    limit: read_dump.Limit = None,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Where the run would be written.")
    ] = None,
    max_response_tokens: model_options.MaxResponseTokens = None,
    overlong: model_options.Overlong = "skip",
    temperature: model_options.Temperature = 1.0,
    tokenizer: model_options.Tokenizer = None,
    dtype: model_options.Dtype = None,
    device: model_options.Device = None,
    teacher_by: model_options.TeacherBy = None,
    teacher_states: model_options.TeacherStates = None,
    teacher_norm: model_options.TeacherNorm = False,
    teacher_logprobs: model_options.TeacherLogprobs = None,
    teacher_floor: model_options.TeacherFloor = None,
    attn: model_options.Attn = None,
    revision: model_options.Revision = None,
    trust_remote_code: model_options.TrustCode = False,
    batch_tokens: model_options.BatchTokens = None,
    part_tokens: model_options.PartTokens = 262_144,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check rollouts, tokenizers and models; score one batch; estimate time, memory and disk.

    Exits with 1 if a line is red.
    """
    options = locals() | {"students": name_students(students)}
    options["teacher"] = name_teachers(teacher, teacher_by)
    del options["as_json"]
    dump, options = read_dump.read_dump(options.pop("rollouts"), options=options)
    findings = opd_diag.check(dump, **options)
    if as_json:
        import json

        typer.echo(json.dumps([finding._asdict() for finding in findings], indent=1))
    else:
        for level, what, detail in findings:
            typer.echo(
                f"{typer.style(f'{level:6}', fg=level)}  {for_terminal(what)}: "
                f"{for_terminal(detail)}"
            )
    if any(finding.level == "red" for finding in findings):
        raise typer.Exit(1)
