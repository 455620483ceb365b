"""opd-diag export: write masks and weights that a trainer loads, with their control arms."""

from pathlib import Path
from typing import Annotated, Literal

import typer

import opd_diag
from opd_diag.cli.printing import print_lines, print_table
from opd_diag.cli.root_command import app

OF_A_RULE = "Options of a rule"


@app.command(
    epilog="Example: opd-diag export run --rule release --to verl --keep tokens --control 3 "
    "--out masks"
)
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    rule: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="release, trap, rock, selector:NAME@BUDGET (such as selector:d_learn@10%), "
            "mask:FILE or all.",
        ),
    ],
    to: Annotated[
        Literal[
            "parquet",
            "slime",
            "miles",
            "verl",
            "trl",
            "llama-factory",
            "axolotl",
            "skyrl",
            "ms-swift",
            "tinker",
            "prime-rl",
        ],
        typer.Option(help="Trainer that loads the files."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go.")],
    control: Annotated[
        int,
        typer.Option(metavar="N", help="Control arms that drop as many tokens by chance."),
    ] = 0,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Checkpoint whose results are used; default: the last."),
    ] = None,
    keep: Annotated[
        Literal["loss", "tokens"],
        typer.Option(
            help="release: scale what is kept to keep each rollout's loss mass, or leave it at 1.",
            rich_help_panel=OF_A_RULE,
        ),
    ] = "loss",
    rock_weight: Annotated[
        float,
        typer.Option(metavar="X", help="rock: weight of rock tokens.", rich_help_panel=OF_A_RULE),
    ] = 0.0,
    window: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="rock: also weigh N tokens on either side of their high-loss occurrences.",
            rich_help_panel=OF_A_RULE,
        ),
    ] = 0,
    soft: Annotated[
        bool,
        typer.Option(
            "--soft",
            help="selector: use the score as weight, with mean 1.",
            rich_help_panel=OF_A_RULE,
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Export rollouts that were tokenised again from text, too."),
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of ties and controls.")] = 0,
) -> None:
    """Write masks and weights that a trainer loads, with control arms and the rule behind them."""
    exported = opd_diag.export(**locals())
    header = ("arm", "tokens kept", "share", "KL kept", "gradient kept", "mean weight", "path")
    names = ("arm", "tokens_kept", "token_share", "reverse_kl_share", "gradient_share",
             "mean_weight", "path")  # fmt: skip
    print_table("What each arm keeps", header, exported.arms.select(names).rows())
    print_lines([f"loaded by: {exported.loaded_by}"])
    print_lines(f"wrote {path}" for path in (exported.manifest, exported.rule) if path is not None)
