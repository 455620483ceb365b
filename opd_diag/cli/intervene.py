"""opd-diag intervene: the commands that generate."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import opd_diag
from opd_diag.cli.analyze import print_findings, save_findings
from opd_diag.cli.model_options import MODELS, Device, Dtype, TrustCode
from opd_diag.cli.option_values import positive
from opd_diag.cli.printing import print_lines, print_written
from opd_diag.cli.root_command import app

interventions = typer.Typer(
    no_args_is_help=True,
    help="Change what the student writes, and measure what that costs.",
    epilog="Example: opd-diag intervene knock-out run --problems problems.jsonl --verifier boxed",
)
app.add_typer(interventions, name="intervene")

GENERATION = "Generation"
ARMS = "Arms"

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
VerifierName = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="exact, boxed, last-number, math (math-verify), or module:function (code that is "
        "run).",
    ),
]
Student = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|PATH",
        help="Checkpoint that generates; default: the last one, as scored.",
        rich_help_panel=MODELS,
    ),
]
Problems = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Problems, one JSON object a line: prompt_id and answer, with prompt where the run "
        "has none; default: those of the run with an answer.",
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Most tokens of a response; default: as the run's longest.",
        rich_help_panel=GENERATION,
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        callback=lambda value: value if value is None else positive(value),
        help="Default: as scored.",
        rich_help_panel=GENERATION,
    ),
]
EngineName = Annotated[
    Literal["transformers", "vllm"],
    typer.Option(
        help="vllm (extra) has no common random numbers: wider intervals for the same cost.",
        rich_help_panel=GENERATION,
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(metavar="N", min=1, help="Most responses at a time.", rich_help_panel=GENERATION),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where the responses go, and whence an interrupted study goes on; default: a folder "
        "in RUN/interventions.",
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of every random draw.")]


@interventions.command(
    "knock-out",
    epilog="Example: opd-diag intervene knock-out run --problems problems.jsonl --verifier boxed "
    "--top 20 --each 5",
)
def knock_out(
    run: RunFolder,
    verifier: VerifierName,
    student: Student = None,
    problems: Problems = None,
    top: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Ban N rocks by rank; default: all that rock-tokens lists.",
            rich_help_panel=ARMS,
        ),
    ] = None,
    ban: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIST",
            help="One more list: NAME=ID,ID,... or a class of tokens such as digit; repeat for "
            "more.",
            rich_help_panel=ARMS,
        ),
    ] = None,
    each: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Ban each of N rocks alone, too.", rich_help_panel=ARMS
        ),
    ] = 0,
    random_lists: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Lists of random types, as exposed as the rocks.",
            rich_help_panel=ARMS,
        ),
    ] = 3,
    repeats: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=3,
            help="Arms without a ban, each with random numbers of its own.",
            rich_help_panel=ARMS,
        ),
    ] = 3,
    samples: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Responses of each problem and repeat.",
            rich_help_panel=GENERATION,
        ),
    ] = 1,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    engine: EngineName = "transformers",
    batch_size: BatchSize = 64,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: TrustCode = False,
    out: Out = None,
    seed: Seed = 0,
) -> None:
    """Ban rock tokens while the student generates, beside types as frequent and random types."""
    _intervene("knock_out", **locals())


@interventions.command(
    "continuation",
    epilog="Example: opd-diag intervene continuation run --problems problems.jsonl "
    "--verifier boxed --cut trap",
)
def continuation(
    run: RunFolder,
    verifier: VerifierName,
    cut: Annotated[Literal["trap", "release"], typer.Option(help="Rule that cuts.")] = "trap",
    student: Student = None,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Teacher; default: as scored.", rich_help_panel=MODELS),
    ] = None,
    problems: Problems = None,
    rollouts: Annotated[
        int, typer.Option(metavar="N", min=1, help="Most rollouts that are continued.")
    ] = 64,
    samples: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Continuations of each prefix.",
            rich_help_panel=GENERATION,
        ),
    ] = 4,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    engine: EngineName = "transformers",
    batch_size: BatchSize = 64,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: TrustCode = False,
    out: Out = None,
    seed: Seed = 0,
) -> None:
    """Let student and teacher go on from a cut, and from as deep in other rollouts."""
    _intervene("continuation", **locals())


@interventions.command(
    "replacement",
    epilog="Example: opd-diag intervene replacement run --tokens 400",
)
def replacement(
    run: RunFolder,
    student: Student = None,
    tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Most rocks that are replaced.")
    ] = 200,
    top: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Take N rocks by rank; default: all that rock-tokens lists."
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Responses scored at a time.", rich_help_panel=GENERATION
        ),
    ] = 16,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: TrustCode = False,
    seed: Seed = 0,
) -> None:
    """Replace rock tokens of correct rollouts, and score the answer again; generates nothing."""
    _intervene("replacement", **locals())


def _intervene(name: str, *, run: Path, **options: Any) -> None:
    """Call the library function, write its tables, print its findings and its summary."""
    from opd_diag.interventions import summary_lines

    opened = opd_diag.open_run(run)
    result = getattr(opd_diag, name)(opened, **options)
    written = opened.save(result)
    findings, path = save_findings(opened, None)
    print_findings(findings, name)
    print_lines(summary_lines(result))
    print_written([*written, path], "table")
