"""Options of the commands that run models."""

from typing import Annotated, Literal

import typer

from opd_diag.cli.option_values import positive

MODELS = "Models"
DEVICES = "Devices and memory"

Teacher = Annotated[
    list[str],
    typer.Option(
        metavar="[NAME=]PATH",
        help="Teacher: a folder or hub id; repeat with the names of groups for several "
        "(--teacher-by).",
    ),
]
TeacherBy = Annotated[
    Literal["group"] | None,
    typer.Option(
        help="Score each rollout with the teacher named like its group, or with the one named "
        "default.",
        rich_help_panel=MODELS,
    ),
]
TeacherStates = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="The teacher's final hidden states, a safetensors file for each rollout; of --teacher "
        "only norm and head are then read.",
        rich_help_panel=MODELS,
    ),
]
TeacherNorm = Annotated[
    bool,
    typer.Option(
        "--teacher-norm",
        help="Take these states through the teacher's final norm: they were written before it.",
        rich_help_panel=MODELS,
    ),
]
TeacherLogprobs = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|dump",
        help="The teacher's log-probs of the responses (JSON lines, Parquet, or those of the "
        "rollouts); of --teacher only config and tokenizer are then read.",
        rich_help_panel=MODELS,
    ),
]
TeacherFloor = Annotated[
    float | None,
    typer.Option(
        metavar="NAT",
        help="Least log-prob of an id that the file does not tell, for an upper bound of KL.",
        rich_help_panel=MODELS,
    ),
]
Students = Annotated[
    list[str],
    typer.Option(
        "--student",
        metavar="[NAME=]PATH",
        help="Student checkpoint; repeat for more, in order of training.",
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Tokenizer for texts, and for models that come without one; default: the student's.",
        rich_help_panel=MODELS,
    ),
]
Overlong = Annotated[
    Literal["skip", "error", "cut"],
    typer.Option(help="What becomes of rollouts that are longer than a model's context."),
]
MaxResponseTokens = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Score at most N tokens of each response."),
]
Temperature = Annotated[float, typer.Option(callback=positive, help="Temperature of both models.")]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Default: float32 on a CPU, as saved on a GPU.",
        rich_help_panel=MODELS,
    ),
]
Attn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Attention implementation, as transformers names it.",
        rich_help_panel=MODELS,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Branch, tag or commit of hub ids.", rich_help_panel=MODELS),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run code that comes with a model.",
        rich_help_panel=MODELS,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Default: a GPU if there is one.", rich_help_panel=DEVICES),
]
BatchTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Put at most N tokens in a batch; default: from free memory.",
        rich_help_panel=DEVICES,
    ),
]
PartTokens = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="Write about N response tokens to each file of the token table.",
        rich_help_panel=DEVICES,
    ),
]
