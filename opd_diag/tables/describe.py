"""The columns of every table in Markdown: `python -m opd_diag.tables.describe docs/tables.md`."""

import sys
from collections.abc import Mapping
from pathlib import Path

from opd_diag.tables.columns import ANALYSES, INTERVENTIONS
from opd_diag.tables.columns.rollouts import ROLLOUTS, VOCAB
from opd_diag.tables.columns.token_strip import TOKEN_STRIP
from opd_diag.tables.columns.tokens import K_GRID, TOKENS
from opd_diag.tables.schema import Column, describe

_HEAD = """# Tables

<!-- Written by `python -m opd_diag.tables.describe docs/tables.md`; do not edit. -->

Every column of every table that `opd-diag` writes. A `?` after the dtype marks a column that may
hold null, which means that there is no value: no table holds NaN. Divergences, entropies and
log-probs are in nat. Columns of dtype Array hold one value per K of the K grid, which is {grid}
unless the run was scored with another. `<x>_low` and `<x>_high` are the ends of the 95 % interval
of `<x>`."""

_RUN: Mapping[str, tuple[str, Mapping[str, tuple[Column, ...]]]] = {
    "A scored run": (
        "`rollouts` and `vocab` are Parquet files in the folder of the run, `tokens` one file for "
        "each part and checkpoint. `token_strip` is made in memory by `opd_diag.token_strip`.",
        {"rollouts": ROLLOUTS, "vocab": VOCAB, "tokens": TOKENS, "token_strip": TOKEN_STRIP},
    )
}


def all_tables() -> str:
    """Write the columns of every table in Markdown, one section for each command."""
    sections = dict(_RUN)
    made_by = {"analyze": ANALYSES, "intervene": INTERVENTIONS}
    commands = [
        (of, name, tables) for of, all_of in made_by.items() for name, tables in all_of.items()
    ]
    for of, name, tables in commands:
        command = f"opd-diag {of} {name.replace('_', '-')}"
        sections[f"`{command}`"] = (f"Written by `{command}` into `RUN/results`.", tables)
    blocks = [_HEAD.format(grid=", ".join(map(str, K_GRID)))]
    for title, (text, tables) in sections.items():
        blocks.append(f"## {title}\n\n{text}")
        blocks += [f"### {name}\n\n{describe(columns)}" for name, columns in tables.items()]
    return "\n\n".join(blocks) + "\n"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(all_tables())
    else:
        print(all_tables(), end="")
