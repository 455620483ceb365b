"""A dump, and the command line in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from opd_diag.cli import app


@pytest.fixture
def run_cli() -> Callable[..., Result]:
    """Run `opd-diag` with arguments; what is no error of ours keeps its traceback."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)

    return run


@pytest.fixture(scope="session")
def rows(ids: int) -> list[dict[str, Any]]:
    """24 rollouts of 12 prompts."""
    rng = np.random.default_rng(5)
    made = []
    for number in range(24):
        length = int(rng.integers(60, 100))
        made.append(
            {
                "id": f"r{number}",
                "prompt_id": f"p{number // 2}",
                "prompt_token_ids": [3, 4 + number // 2],
                "response_token_ids": rng.integers(3, ids, length).tolist(),
                "correct": bool(number % 3),
                "reward": 1.0,
            }
        )
    return made


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write lines to a file, each a row or a text as it is."""

    def to_file(lines: list[Any], name: str = "dump.jsonl") -> Path:
        path = tmp_path / name
        text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("".join(f"{line}\n" for line in text))
        return path

    return to_file
