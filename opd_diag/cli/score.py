"""opd-diag score: run both models over saved rollouts and write the token table."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import opd_diag
from opd_diag.cli import model_options, read_dump
from opd_diag.cli.model_options import DEVICES, MODELS
from opd_diag.cli.option_values import name_students, name_teachers, names, numbers
from opd_diag.cli.printing import print_table, print_written
from opd_diag.cli.root_command import app

if TYPE_CHECKING:
    from opd_diag.tables.run import Run


@app.command(
    epilog="Example: opd-diag score dump/*.jsonl --teacher teacher --student step0=student "
    "--student step40=checkpoints/40 --out run"
)
def score(
    rollouts: read_dump.Dumps,
    teacher: model_options.Teacher,
    students: model_options.Students,
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run.")],
    format: read_dump.FormatName = None,  # noqa: A002
    eos: read_dump.Eos = "auto",
    template: read_dump.Template = "auto",
    map: read_dump.MappedKeys = None,  # noqa: A002
    group_by: read_dump.GroupBy = None,
    teacher_system: read_dump.TeacherSystem = None,
    teacher_prompts: read_dump.TeacherPrompts = None,
    trust_pickle: read_dump.TrustPickle = False,
    limit: read_dump.Limit = None,
    max_response_tokens: model_options.MaxResponseTokens = None,
    overlong: model_options.Overlong = "skip",
    temperature: model_options.Temperature = 1.0,
    k_grid: Annotated[
        str,
        typer.Option(
            metavar="K,K,...",
            callback=numbers(int),
            help="The K of columns with one value for each K.",
        ),
    ] = "2,4,8,16,32,64",
    union_k: Annotated[int, typer.Option(min=1, metavar="K", help="K of union_kl.")] = 16,
    segmenter: Annotated[
        str, typer.Option(metavar="NAME", help="punkt, newline or block:N.")
    ] = "punkt",
    tokenizer: model_options.Tokenizer = None,
    dtype: model_options.Dtype = None,
    device: model_options.Device = None,
    teacher_device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Default: the students' device.", rich_help_panel=DEVICES
        ),
    ] = None,
    teacher_bits: Annotated[
        int | None,
        typer.Option(
            metavar="4|8", help="Quantise the teacher (bitsandbytes).", rich_help_panel=MODELS
        ),
    ] = None,
    teacher_by: model_options.TeacherBy = None,
    teacher_states: model_options.TeacherStates = None,
    teacher_norm: model_options.TeacherNorm = False,
    teacher_logprobs: model_options.TeacherLogprobs = None,
    teacher_floor: model_options.TeacherFloor = None,
    device_map: Annotated[
        str | None,
        typer.Option(
            metavar="auto",
            help="auto: spread the teacher over devices (accelerate).",
            rich_help_panel=DEVICES,
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            callback=names,
            help="Share the work: one process for each device.",
            rich_help_panel=DEVICES,
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="local, or ray: the workers of a Ray cluster.",
            rich_help_panel=DEVICES,
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Ray workers; default: one for each GPU, or for each machine without GPUs.",
            rich_help_panel=DEVICES,
        ),
    ] = None,
    attn: model_options.Attn = None,
    fused: Annotated[
        bool,
        typer.Option(
            "--fused",
            help="Use one Triton kernel for all sums over the vocabulary (CUDA).",
            rich_help_panel=MODELS,
        ),
    ] = False,
    revision: model_options.Revision = None,
    trust_remote_code: model_options.TrustCode = False,
    batch_tokens: model_options.BatchTokens = None,
    part_tokens: model_options.PartTokens = 262_144,
    keep_teacher_states: Annotated[
        bool,
        typer.Option(
            "--keep-teacher-states",
            help="Keep the teacher's hidden states in the run for checkpoints added later.",
            rich_help_panel=DEVICES,
        ),
    ] = False,
    noise_floor: Annotated[
        Literal["on", "off"],
        typer.Option(
            help="Score 5 % of the tokens again, in other batches, to learn how far numbers move."
        ),
    ] = "on",
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed of the sample for the noise floor.")
    ] = 0,
) -> None:
    """Score saved rollouts with the teacher and each student checkpoint."""
    options = locals() | {"students": name_students(students)}
    options["teacher"] = name_teachers(teacher, teacher_by)
    checkpoints = options["students"]
    dump, options = read_dump.read_dump(options.pop("rollouts"), options=options)
    run = opd_diag.score(dump, limit=limit, **options)
    _print_means(run, list(checkpoints))
    print_written([run.path], "run")


def _print_means(run: "Run", checkpoints: list[str]) -> None:
    """Print means of the headline columns, with intervals over prompts."""
    means = opd_diag.score_summary(run, checkpoint=checkpoints).score_summary
    print_table(
        f"{run.path}: means over response tokens in the loss, 95 % intervals over prompts",
        ("checkpoint", "column", "unit", "mean", "low", "high", "tokens", "note"),
        (
            (row["checkpoint"], row["column"], row["unit"], row["value"], row["value_low"],
             row["value_high"], row["n"], row["reason"])
            for row in means.iter_rows(named=True)
            if row["group"] == "all"
        ),
    )  # fmt: skip
