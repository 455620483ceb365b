"""All tables in Markdown, as README shows them: `python -m opd_diag.tables.describe`.

With a file as argument, the text between the two markers in that file is replaced.
"""

import sys
from pathlib import Path

from opd_diag.tables.columns import RESULTS
from opd_diag.tables.columns.rollouts import ROLLOUTS, VOCAB
from opd_diag.tables.columns.tokens import TOKENS
from opd_diag.tables.schema import describe

BEGIN = "<!-- tables: written by `python -m opd_diag.tables.describe README.md` -->"
END = "<!-- end of tables -->"


def all_tables() -> str:
    """Write the columns of every table of a run in Markdown, a `?` where null may stand."""
    inputs = {"rollouts": ROLLOUTS, "vocab": VOCAB, "tokens": TOKENS}
    blocks = [
        f"<details><summary><code>{name}</code>: {len(columns)} columns</summary>\n\n"
        f"{describe(columns)}\n\n</details>"
        for name, columns in (inputs | dict(RESULTS)).items()
    ]
    return "\n\n".join(blocks)


def replace_tables(text: str) -> str:
    """Replace what stands between the markers by `all_tables`.

    Raises:
        ValueError: If a marker is missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"no {BEGIN} ... {END}; expected both markers")
    head, rest = text.split(BEGIN, 1)
    return f"{head}{BEGIN}\n\n{all_tables()}\n\n{END}{rest.split(END, 1)[1]}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
        path.write_text(replace_tables(path.read_text()))
    else:
        print(all_tables())
