"""Rollouts for the tiny models, a whole run of them, and what makes two runs the same."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opd_diag.scoring.score import score
from opd_diag.tables.rollouts import Rollouts
from opd_diag.tables.run import Run, open_run
from tests.conftest import rollouts_of
from tests.faults.kills import Server, server

PART_TOKENS = 60
Score = Callable[..., Run]


def make_rollouts(responses: list[list[int]], **columns: Any) -> Rollouts:
    """Make rollouts from responses; two in a row have the same prompt."""
    n = len(responses)
    pairs = {
        "prompt_id": [f"p{i // 2}" for i in range(n)],
        "half": [i // 2 % 2 for i in range(n)],
        "sample": [i % 2 for i in range(n)],
    }
    prompts = [[5 + i // 2, 7] for i in range(n)]
    return rollouts_of(prompts, responses, **pairs, **columns)


def assert_same_run(one: Run, other: Run) -> None:
    """Assert that two runs hold the same bytes, whatever their folders are called."""
    assert one.manifest == other.manifest
    for kind in ("tokens", "gradients"):
        ours, theirs = (
            {
                path.relative_to(run.path): path.read_bytes()
                for path in (run.path / kind).rglob("*.*")
            }
            for run in (one, other)
        )
        assert ours == theirs
    assert one.rollouts.equals(other.rollouts)
    assert one.tokens().collect().equals(other.tokens().collect())
    assert not list(one.path.rglob("*.tmp"))


@pytest.fixture(scope="session")
def rollouts(ids: int) -> Rollouts:
    """Sixteen rollouts of 0 to 40 tokens."""
    rng = np.random.default_rng(3)
    lengths = [40, 1, 0, 17, 25, 3, 33, 12, 8, 30, 22, 5, 19, 28, 11, 36]
    return make_rollouts([rng.integers(3, ids, length).tolist() for length in lengths])


@pytest.fixture(scope="session")
def options(teacher: str, student: str, later: str) -> dict[str, Any]:
    """Options of `score` for a run of five parts and two checkpoints."""
    students = {"a": student, "b": later}
    return {"teacher": teacher, "students": students, "part_tokens": PART_TOKENS}


@pytest.fixture(scope="session")
def clean(
    rollouts: Rollouts, options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A run that nothing happened to."""
    return score(rollouts, **options, out=tmp_path_factory.mktemp("clean") / "run")


@pytest.fixture(scope="session")
def same_as_clean(clean: Run) -> Callable[[Path], None]:
    """Assert that the run in a folder is the clean one."""
    return lambda folder: assert_same_run(open_run(folder), clean)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A process that runs calls in children."""
    with server(tmp_path_factory.mktemp("calls")) as one:
        yield one
