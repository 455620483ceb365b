"""`plot` draws what the results allow, names what they do not, and writes whole files."""

import inspect

import matplotlib.pyplot as plt
import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

import opd_diag as od
from opd_diag.analyses.release_points import release_points
from opd_diag.cli import app
from opd_diag.datasets import release_run, save_run
from opd_diag.errors import OptionError, StorageError, TableError
from opd_diag.plots.catalogue import CAPTIONS, DEFAULT
from opd_diag.plots.figures import choose_figures, figures
from opd_diag.tables.columns import ANALYSES, RESULTS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with the results of one analysis."""
    data = release_run(prompts=5, samples=1, segment_tokens=5)
    run = save_run(data, tmp_path_factory.mktemp("runs") / "run")
    run.save(release_points(run)._asdict(), arguments={})
    return run


def test_every_figure_draws_a_table_that_an_analysis_makes():
    known = figures()
    assert known.pop("overview") == ""
    assert set(known.values()) <= set(RESULTS)
    assert known["release_curves_margin"] == "release_curves"
    assert known["rock_tokens_change"] == "rock_tokens"
    public = set(od.plots.__all__) - {"overview", "token_strip"}
    assert set(known) == public


def test_all_figures_are_drawn_or_named(run, tmp_path):
    before = plt.get_fignums()
    drawn = od.plot(run, ["all"], out=tmp_path)
    names = {path.stem for path in drawn.paths}
    ours = {name for name, table in figures().items() if table.startswith("release")}
    assert names | {"release_curves_policy"} == ours | {"overview"}
    assert "release_curves_policy" not in names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn.paths)
    assert set(drawn.missing) == set(figures()) - names
    expected = f"run `opd-diag analyze rock-tokens {run.path}` first"
    assert drawn.missing["rock_groups"] == expected
    assert plt.get_fignums() == before


def test_a_figure_with_nothing_in_it_is_named_and_not_written(run, tmp_path):
    drawn = od.plot(run, ["release_curves_policy"], out=tmp_path)
    assert drawn.missing == {"release_curves_policy": "all rollouts are of one policy"}
    assert not list(tmp_path.iterdir())


def test_the_default_is_a_few_figures_of_each_analysis(run, tmp_path):
    drawn = od.plot(run, out=tmp_path)
    assert {path.stem for path in drawn.paths} | set(drawn.missing) == set(DEFAULT)
    of = [next((a for a, t in ANALYSES.items() if figures()[n] in t), n) for n in DEFAULT]
    assert {of.count(name) for name in set(ANALYSES) - {"findings", "update_alignment"}} <= {
        1,
        2,
        3,
    }


def test_every_figure_has_a_caption_of_its_own():
    assert set(CAPTIONS) == set(figures()) | {"rollout"}
    assert len(set(CAPTIONS.values())) == len(CAPTIONS)
    for caption in CAPTIONS.values():
        assert caption.endswith(".")
        assert len(caption) <= 200


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_a_file_says_what_it_shows_and_how_to_read_it(run, tmp_path, form):
    (path,) = od.plot(run, ["release_points_positions"], format=form, out=tmp_path).paths
    if form == "png":
        with Image.open(path) as image:
            words = " ".join(image.text.values())
    else:
        words = path.read_bytes().decode("latin-1")
    assert "release_points_positions" in words
    assert CAPTIONS["release_points_positions"] in words


def test_a_run_without_results_is_one_error_that_names_the_command(tmp_path):
    bare = save_run(release_run(prompts=3, samples=1, segment_tokens=5), tmp_path / "bare")
    for names, command in (([], "all"), (["rock-tokens"], "rock-tokens"), (["overview"], "all")):
        with pytest.raises(TableError, match=f"no results; run `opd-diag analyze {command} "):
            od.plot(bare, names)


def test_a_stale_result_is_not_drawn(run, tmp_path):
    other = od.open_run(run.path)
    other.manifest.fingerprint["generated"] = 1
    drawn = od.plot(other, ["release-summary"], out=tmp_path)
    assert not drawn.paths
    assert "made from another run" in drawn.missing["release_summary"]


@pytest.mark.parametrize(("form", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_formats(run, tmp_path, form, start):
    (path,) = od.plot(run, ["release_points_positions"], format=form, out=tmp_path).paths
    assert path.name == f"release_points_positions.{form}"
    assert path.read_bytes().startswith(start)


def test_a_rollout_is_drawn_by_id_and_named_by_row(run, tmp_path):
    by_id = od.plot(run, ["rollout"], id="rollout000002", column="margin_8", out=tmp_path)
    by_row = od.plot(run.path, ["rollout"], id=2, column="margin_8", out=tmp_path)
    assert by_id.paths == by_row.paths == [tmp_path / "rollout_2_step0_margin_8.png"]
    assert not by_id.missing


def test_a_single_name_is_one_name(run, tmp_path):
    (path,) = od.plot(run, "rollout", id=2, out=tmp_path).paths
    assert path.name == "rollout_2_step0_reverse_kl.png"
    (path,) = od.plot(run, "release_points_positions", out=tmp_path).paths
    assert path.name == "release_points_positions.png"


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["release-pints"], {}, "name: 'release-pints'; expected an analysis"),
        ([], {"format": "jpg"}, "format: 'jpg'; expected png, svg, pdf"),
        ([], {"size": "poster"}, "size: 'poster'; expected screen, one-column, two-columns"),
        (["rollout"], {}, "id: none for the figure 'rollout'"),
        (["overview"], {"id": 3}, "id: 3; expected it with the figure 'rollout' only"),
        ([], {"column": "gain"}, "column: 'gain'; expected it with the figure 'rollout' only"),
        (["rollout"], {"id": 0, "column": "x"}, "column: 'x'; expected one of"),
    ],
)
def test_bad_options_are_refused(run, tmp_path, names, options, message):
    with pytest.raises(OptionError, match=message):
        od.plot(run, names, **options, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_rollout_is_refused(run):
    with pytest.raises(TableError, match="rollout: no row 77"):
        od.plot(run, ["rollout"], id=77)


def test_a_figure_that_cannot_be_written_is_closed(run, tmp_path):
    (tmp_path / "file").write_text("")
    before = plt.get_fignums()
    with pytest.raises(StorageError):
        od.plot(run, ["release_points_positions"], out=tmp_path / "file")
    assert plt.get_fignums() == before


def test_a_name_may_be_an_analysis_a_figure_or_the_page():
    assert set(choose_figures(["release-points"]).values()) == {
        name for name in RESULTS if name.startswith("release")
    }
    assert choose_figures(["knock-out"]) == {"knock_out": "knock_out"}
    with pytest.raises(
        OptionError, match=r"an intervention \(knock_out, continuation, replacement"
    ):
        choose_figures(["knock-in"])
    assert choose_figures(["release-summary"]) == {"release_summary": "release_summary"}
    assert choose_figures(["overview", "rollout"]) == {"overview": ""}
    assert choose_figures(["all"]) == figures()
    assert list(choose_figures([])) == list(DEFAULT)


def test_the_command_has_the_options_of_the_function():
    command = get_command(app).commands["plot"].callback
    options = [
        {
            name: parameter.default
            for name, parameter in inspect.signature(inspect.unwrap(function)).parameters.items()
            if name not in ("run", "names")
        }
        for function in (command, od.plot)
    ]
    assert options[0] == options[1]


def test_the_command_prints_what_it_drew_and_what_not(run, tmp_path):
    names = ["release-summary", "rock-groups", "rock-cutoff", "rollout", "--id", "1"]
    done = CliRunner().invoke(app, ["plot", str(run.path), *names, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        f"wrote 2 figures to {tmp_path}",
        f"not drawn: rock_groups, rock_cutoff: run `opd-diag analyze rock-tokens {run.path}` first",
    ]
    done = CliRunner().invoke(app, ["plot", str(run.path), "rollout"])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: id: none for the figure 'rollout'")
