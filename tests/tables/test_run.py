from pathlib import Path

import polars as pl
import pytest

from opd_diag.analyses.findings import findings
from opd_diag.analyses.release_points import release_points
from opd_diag.datasets import null_run, save_run
from opd_diag.errors import OptionError, TableError
from opd_diag.plots.figures import plot
from opd_diag.tables.columns import RESULTS
from opd_diag.tables.info import info
from opd_diag.tables.rollouts import Rollouts
from opd_diag.tables.run import Run, open_run
from opd_diag.tables.source import as_source, gradient_sums, vocabulary
from opd_diag.tables.tokens import part_path
from opd_diag.text.token_strip import token_strip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    data = null_run(prompts=6, samples=2, tokens=30, types=80, checkpoints=("step0", "40"))
    return save_run(data, tmp_path / "run")


def test_a_saved_run_gives_back_its_tables(run: Run) -> None:
    data = null_run(prompts=6, samples=2, tokens=30, types=80, checkpoints=("step0", "40"))
    assert run.tokens().collect().equals(data.tokens)
    assert run.rollouts.equals(data.rollouts)
    assert run.checkpoints == ("step0", "40")
    assert run.vocab.height > data.tokens["token_id"].max()


def test_a_checkpoint_with_a_number_for_a_name_stays_text(run: Run) -> None:
    tokens = run.tokens("40").collect()
    assert tokens.schema["checkpoint"] == pl.String
    assert tokens["checkpoint"].unique().to_list() == ["40"]


def test_gradient_sums_count_every_token_in_loss(run: Run) -> None:
    sums = gradient_sums(run, "step0")
    assert sums is not None
    assert sums.n.sum() == run.tokens("step0").filter("in_loss").collect().height
    assert ((sums.S**2).sum(axis=1) <= sums.n * sums.Q * (1 + 1e-5)).all()  # Cauchy and Schwarz


def test_a_run_is_a_source(run: Run) -> None:
    source = as_source(run.path)
    assert source.tokens("40").collect().equals(run.tokens("40").collect())
    assert vocabulary(source) is not None


def test_unknown_and_incomplete_checkpoints_are_refused(run: Run) -> None:
    with pytest.raises(TableError, match="no checkpoint 'x'; expected one of step0, 40"):
        run.tokens("x")
    for read in (run.gradients, run.noise_floor, lambda name: run.input_hash(["40", name])):
        with pytest.raises(TableError, match="no checkpoint 'x'; expected one of step0, 40"):
            read("x")
    part_path(run.path, "40", 0).unlink()
    with pytest.raises(TableError, match="1 of 1 parts are missing, first part-00000.parquet"):
        run.tokens("40")
    assert any("checkpoint 40: 0 of 1 parts" in warning for warning in info(run)["warnings"])


def test_a_truncated_part_is_named(run: Run) -> None:
    path = part_path(run.path, "step0", 0)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TableError, match=r"part-00000.parquet: damaged"):
        run.tokens("step0")


def test_a_part_of_another_run_is_refused(run: Run, tmp_path: Path) -> None:
    other = null_run(prompts=6, samples=2, tokens=30, types=80, checkpoints=("40",), seed=1)
    stranger = save_run(other, tmp_path / "other")
    part_path(run.path, "40", 0).write_bytes(part_path(stranger.path, "40", 0).read_bytes())
    with pytest.raises(TableError, match="damaged, edited or of another run"):
        run.tokens("40")


def test_info_tells_what_a_run_holds(run: Run) -> None:
    found = info(run.path)
    assert found["rollouts"]["rows"] == 12
    assert found["rollouts"]["prompts"] == 6
    assert found["rollouts"]["tokens"] == 360
    assert list(found["checkpoints"]) == ["step0", "40"]
    assert found["checkpoints"]["40"]["parts"] == 1
    assert "reverse_kl" in found["columns"]
    assert found["results"] == {}
    assert found["warnings"] == []
    assert open_run(run.path).manifest == run.manifest


def test_a_table_of_ones_own_is_kept_with_what_it_was_made_from(run: Run, tmp_path: Path) -> None:
    frame = pl.DataFrame({"prompt_id": ["a", "b"], "my_number": [1.0, 2.5]})
    (path,) = run.save({"my_table": frame})
    assert path == run.path / "results/my_table.parquet"
    assert run.result("my_table").equals(frame)
    assert "my_table" in run.results()
    assert info(run)["results"]["my_table"]["state"] == "fresh"
    assert info(run)["results"]["my_table"]["checkpoints"] == ["step0", "40"]
    (path,) = run.save({"by_checkpoint": frame.with_columns(checkpoint=pl.lit("40"))},
                       arguments={"power": 2}, folder=tmp_path)  # fmt: skip
    assert run.results(tmp_path) == ["by_checkpoint"]
    assert run.result("by_checkpoint", tmp_path).height == 2
    assert not run.is_stale("by_checkpoint", tmp_path)


def test_a_result_is_stale_once_a_checkpoint_is_added(run: Run) -> None:
    """One of all checkpoints is; one of those that were asked for by name is not."""
    before = open_run(run.path)
    del before.manifest.checkpoints["40"]
    before.save(release_points(before))
    assert not before.is_stale("release_points")
    why = "made while the run held step0 only"
    assert run.why_stale("release_points") == why
    with pytest.raises(TableError, match=f"release_points.parquet: {why}; expected a result of"):
        run.result("release_points")
    told = info(run, verify=True)
    assert told["results"]["release_points"]["state"] == "stale"
    assert told["results"]["release_points"]["reason"] == why
    assert told["faults"] == {}  # nothing is damaged
    assert findings(run)["reason"].str.contains(why).any()
    assert plot(run, ["release_points"]).missing["release_points"].count(why) == 1
    assert token_strip(run, 0)["is_released"].is_null().all()
    del run.manifest.files["tokens/checkpoint=40/part-00000.parquet"]  # it is being scored
    assert run.why_stale("release_points") is None
    run = open_run(run.path)
    run.save(release_points(run, checkpoint="step0"))
    del run.manifest.checkpoints["40"]
    assert run.why_stale("release_points") is None


def test_a_result_is_stale_once_the_checkpoints_stand_in_another_order(run: Run) -> None:
    run.save(release_points(run))
    known = run.manifest.checkpoints
    run.manifest.checkpoints = dict(reversed(known.items()))
    why = "made while the order of the checkpoints was step0, 40"
    assert run.why_stale("release_points") == why
    run.save(release_points(run, checkpoint=["step0", "40"]))
    assert run.why_stale("release_points") is None


def test_a_result_with_the_columns_of_another_version_is_stale(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.save(release_points(run))
    columns = RESULTS["release_points"]
    other = (*columns[:-1], columns[-1]._replace(unit="furlong"))
    monkeypatch.setitem(RESULTS, "release_points", other)
    assert run.why_stale("release_points") == "made by a version of opd-diag with other columns"
    assert run.why_stale("release_summary") is None
    assert token_strip(run, 0)["is_released"].is_null().all()


def test_a_known_name_keeps_its_columns_and_a_path_is_no_name(run: Run) -> None:
    frame = pl.DataFrame({"checkpoint": ["step0"], "my_number": [1.0]})
    with pytest.raises(OptionError, match="arguments: unknown"):
        run.save({"rock_tokens": frame})
    with pytest.raises(TableError, match="rock_tokens: "):
        run.save({"rock_tokens": frame}, arguments={})
    for name in ("../elsewhere", "My Table", ""):
        with pytest.raises(TableError, match="expected lower-case letters"):
            run.save({name: frame})
    assert not run.results()


def test_a_file_that_no_run_saved_is_no_result(run: Run) -> None:
    run.results_folder.mkdir(exist_ok=True)
    pl.DataFrame({"a": [1]}).write_parquet(run.results_folder / "strange.parquet")
    with pytest.raises(TableError, match="no metadata of ours"):
        run.result("strange")


def test_rollouts_say_how_many_they_are() -> None:
    data = null_run(prompts=6, samples=2, tokens=30, types=80)
    assert repr(Rollouts(data.rollouts, {"format": "verl"})) == (
        "Rollouts(12 of 6 prompts, 360 response tokens, format verl)"
    )
