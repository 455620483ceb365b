"""A scored run of tiny models whose rollouts have answers, with its rocks and cuts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opd_diag as od
from opd_diag.interventions.generation import Decoding, Request, TransformersEngine
from opd_diag.scoring.models.loading import load_model
from opd_diag.tables.run import Run
from tests.interventions.quiet import Quiet

PROMPTS, EACH, LENGTH = 8, 3, 24


@pytest.fixture(scope="session")
def rolled(
    student: str, teacher: str, ids: int, make_rollouts: Callable[..., Any],
    tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory,
) -> Run:  # fmt: skip
    """Rollouts of the student itself; right is what holds the letter e."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(8, ids, 4 + i % 3).tolist() for i in range(PROMPTS)]
    engine = TransformersEngine(load_model(student), Decoding(ids, (2,), 1.0, LENGTH, 9))
    requests = [Request(f"p{i}", s, prompts[i]) for i in range(PROMPTS) for s in range(EACH)]
    responses = [one.token_ids for one in engine.generate(requests)]
    texts = tiny_tokenizer.batch_decode(responses, skip_special_tokens=True)
    rollouts = make_rollouts(
        [one.prompt for one in requests],
        responses,
        prompt_id=[one.problem for one in requests],
        half=[int(one.problem[1:]) % 2 for one in requests],
        sample=[one.sample for one in requests],
        answer=["e"] * len(requests),
        correct=["e" in text for text in texts],
    )
    folder = tmp_path_factory.mktemp("interventions") / "run"
    run = od.score(rollouts, teacher=teacher, students={"s": student}, out=folder, progress=Quiet())
    run.save(od.rock_tokens(run, top=12))
    return run


@pytest.fixture
def run(rolled: Run, tmp_path: Path) -> Run:
    """The same run, whose results and studies are the test's own."""
    import shutil

    shutil.copytree(rolled.path, tmp_path / "run")
    return od.open_run(tmp_path / "run")
