"""A result keeps the arguments that made it, and a run stores them beside its tables."""

import copy
import pickle

import pytest

import opd_diag as od
from opd_diag.analyses.release_points import ReleasePoints
from opd_diag.datasets import release_run, save_run
from opd_diag.errors import OptionError, TableError
from opd_diag.tables.arguments import at_least
from opd_diag.tables.results import read_result_metadata


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = release_run(prompts=6, samples=1, segment_tokens=5)
    return save_run(data, tmp_path_factory.mktemp("runs") / "run")


def test_a_saved_result_tells_every_choice_defaults_too(run) -> None:
    points = od.release_points(run, preset="paper", checkpoint=["step0"])
    paths = run.save(points)
    assert [path.stem for path in paths] == list(points._fields)
    arguments = read_result_metadata(paths[0])["arguments"]
    assert (arguments["preset"], arguments["checkpoint"]) == ("paper", ["step0"])
    assert (arguments["threshold"], arguments["k"], arguments["seed"]) == (None, None, 0)
    assert not {"run", "rollouts", "k_grid"} & arguments.keys()
    assert run.result("release_points").equals(points.release_points)


def test_the_grid_is_a_choice_where_tables_are_in_memory() -> None:
    data = release_run(prompts=6, samples=1, segment_tokens=5, k_grid=(2, 4, 8))
    points = od.release_points(data.tokens, data.rollouts, k_grid=(2, 4, 8), k=8)
    assert points.arguments["k_grid"] == [2, 4, 8]
    assert points.arguments["k"] == 8


def test_tables_stay_the_named_tuple_that_they_are(run) -> None:
    points = od.release_points(run)
    assert isinstance(points, ReleasePoints)
    first, *others = points
    assert first is points.release_points
    assert len(others) == len(points._fields) - 1
    for copied in (copy.deepcopy(points), pickle.loads(pickle.dumps(points))):
        assert copied.arguments == points.arguments
        assert copied.release_points.equals(points.release_points)


def test_tables_put_together_by_hand_need_arguments(run) -> None:
    points = od.release_points(run)
    with pytest.raises(OptionError, match="arguments: unknown for these tables; expected what an"):
        run.save(points._asdict())
    paths = run.save(points._asdict(), arguments={"note": "by hand"})
    assert read_result_metadata(paths[0])["arguments"] == {"note": "by hand"}


def test_a_missing_column_is_named(run) -> None:
    tokens = run.tokens().drop("margin")
    with pytest.raises(TableError, match="margin.*; expected it for this analysis"):
        od.release_points(tokens, run.rollouts)


def test_at_least_names_the_first_number_that_is_too_small() -> None:
    at_least(1, top=1, draws=None, share=1.5)
    for number in (0, -1, float("nan")):
        with pytest.raises(OptionError, match=rf"^draws: {number}; expected 1 or more$"):
            at_least(1, top=3, draws=number, block=0)
