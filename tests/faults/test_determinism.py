"""The same command gives the same bytes."""

import pytest

from opd_diag.analyses.agreement_traps import agreement_traps
from opd_diag.analyses.release_points import release_points
from opd_diag.analyses.rock_tokens import rock_tokens
from opd_diag.analyses.teachability import teachability
from opd_diag.datasets import null_run, save_run
from opd_diag.scoring.score import score
from tests.faults.conftest import assert_same_run


def test_scoring_twice_gives_the_same_bytes(rollouts, options, clean, tmp_path):
    assert_same_run(score(rollouts, **options, out=tmp_path / "again"), clean)


@pytest.mark.parametrize("analysis", [release_points, agreement_traps, rock_tokens, teachability])
def test_analysing_twice_gives_the_same_bytes(tmp_path, analysis):
    run = save_run(null_run(prompts=8, samples=2, tokens=90, checkpoints=("a", "b")), tmp_path)
    written = []
    for name in ("one", "other"):
        paths = run.save(analysis(run)._asdict(), arguments={}, folder=tmp_path / name)
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
