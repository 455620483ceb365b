"""opd-diag score: run both models over saved rollouts and write the token table."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from opd_diag.cli import read, show
from opd_diag.cli.app import app

_NAME = re.compile(r"([A-Za-z0-9_.-]+)=(.+)", re.DOTALL)

Teacher = Annotated[str, typer.Option(metavar="PATH", help="Teacher: a folder or hub id.")]
Device = Annotated[str | None, typer.Option(help="Default: a GPU if there is one.")]
Dtype = Annotated[str | None, typer.Option(help="Default: float32 on the CPU, as saved on a GPU.")]
Attn = Annotated[str | None, typer.Option(help="Attention, as transformers names it.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of hub ids.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with a model.")
]
Temperature = Annotated[
    float, typer.Option(callback=show.positive, help="Temperature of both models.")
]
PartTokens = Annotated[
    int, typer.Option(min=1, help="Response tokens of a part of the table, about.")
]
BatchTokens = Annotated[
    int | None, typer.Option(min=1, help="Most tokens of a batch; default: from free memory.")
]


@app.command()
def score(
    rollouts: read.Dumps,
    teacher: Teacher,
    students: Annotated[
        list[str],
        typer.Option(
            "--student", metavar="[NAME=]PATH", help="Checkpoint; repeat for more, in order."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run.")],
    format: read.FormatName = None,  # noqa: A002
    eos: read.Eos = "auto",
    template: read.Template = "auto",
    trust_pickle: read.TrustPickle = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Score only so many rollouts.")] = None,
    max_response_tokens: Annotated[
        int | None, typer.Option(min=1, help="Score only so many tokens of each response.")
    ] = None,
    temperature: Temperature = 1.0,
    k_grid: Annotated[
        str, typer.Option(metavar="K,K,...", help="The K of columns with one value per K.")
    ] = "2,4,8,16,32,64",
    union_k: Annotated[int, typer.Option(min=1, help="K of union_kl.")] = 16,
    segmenter: Annotated[
        str, typer.Option(metavar="NAME", help="punkt, newline or block:N.")
    ] = "punkt",
    dtype: Dtype = None,
    device: Device = None,
    teacher_device: Annotated[
        str | None, typer.Option(help="Default: the students' device.")
    ] = None,
    teacher_bits: Annotated[
        int | None, typer.Option(help="4 or 8: quantise the teacher (bitsandbytes).")
    ] = None,
    device_map: Annotated[
        str | None, typer.Option(help="auto: spread the teacher over devices (accelerate).")
    ] = None,
    devices: Annotated[
        str | None, typer.Option(metavar="D,D,...", help="Share the work: a process for each.")
    ] = None,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="local, or ray: the workers of a Ray cluster.")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Ray's workers; default: one for each GPU, or else machine."),
    ] = None,
    attn: Attn = None,
    fused: Annotated[
        bool, typer.Option("--fused", help="One Triton kernel over the vocabulary (CUDA).")
    ] = False,
    revision: Revision = None,
    trust_remote_code: TrustCode = False,
    batch_tokens: BatchTokens = None,
    part_tokens: PartTokens = 262_144,
    keep_teacher_states: Annotated[
        bool,
        typer.Option(
            "--keep-teacher-states", help="Keep them in the run for checkpoints added later."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the sample for the noise floor.")] = 0,
) -> None:
    """Score saved rollouts with the teacher and each student checkpoint."""
    named = name_students(students)
    grid = show.numbers("--k-grid", k_grid, int)

    from opd_diag.scoring.score import score as library_score

    found = read.rollouts(
        rollouts,
        next(iter(named.values())),
        format=format,
        eos=eos,
        template=template,
        trust_pickle=trust_pickle,
        limit=limit,
    )
    run = library_score(
        found,
        teacher=teacher,
        students=named,
        out=out,
        limit=limit,
        max_response_tokens=max_response_tokens,
        temperature=temperature,
        k_grid=grid,
        union_k=union_k,
        segmenter=segmenter,
        dtype=dtype,
        device=device,
        teacher_device=teacher_device,
        teacher_bits=teacher_bits,
        device_map=device_map,
        devices=None if devices is None else [name.strip() for name in devices.split(",")],
        engine=engine,
        workers=workers,
        attn=attn,
        fused=fused,
        revision=revision,
        trust_remote_code=trust_remote_code,
        batch_tokens=batch_tokens,
        part_tokens=part_tokens,
        keep_teacher_states=keep_teacher_states,
        seed=seed,
    )
    _print(run, list(named))


def name_students(given: Sequence[str]) -> dict[str, str]:
    """Give every student its name: an existing path its folder's, NAME=PATH the one it states.

    Raises:
        typer.BadParameter: If two have the same name.
    """
    named: dict[str, str] = {}
    for text in given:
        stated = None if Path(text).exists() else _NAME.fullmatch(text)
        name, path = stated.groups() if stated else (Path(text).resolve().name, text)
        if name in named:
            raise typer.BadParameter(f"--student: {name!r} twice; expected one name for each")
        named[name] = path
    return named


def _print(run: Any, names: Sequence[str]) -> None:
    """Print means of the headline columns, with intervals over prompts."""
    from opd_diag.analyses.means import column_means

    table = column_means(run, checkpoint=names)
    show.table(
        f"{run.path}: means over response tokens in the loss, 95 % intervals over prompts",
        ("checkpoint", "column", "unit", "mean", "low", "high", "n", "note"),
        table.iter_rows(),
    )
    show.paths([run.path])
