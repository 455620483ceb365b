"""Names, ids, prompts and tokens of others on a terminal, in a page, a figure and a file's name."""

import json
import re

import polars as pl
import pytest
from typer.testing import CliRunner

import opd_diag as od
from opd_diag.cli import app
from opd_diag.datasets import save_run, trap_run
from opd_diag.errors import StorageError
from opd_diag.plots.style import drawable
from opd_diag.scoring.progress import StderrProgress
from opd_diag.tables.run import Run

RULE = "selector:entropy@50%"
ODD = "\x1b[31mred\x1b[0m\nerror: x\u202egnihton\u2069\x00\u2028\r\x07$\\frac{$<script>x</script>"
CHECKPOINTS = ("a$x^{1$", "<script>b<script>[red]{{ 7 * 7 }}")
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A run whose checkpoints, rollouts, prompts, policies, sources and tokens have odd names."""
    data = trap_run(prompts=6, samples=2, tokens=120, seed=1)
    names = dict(zip(("step0", "step1"), CHECKPOINTS, strict=True))
    n = pl.col("rollout").cast(pl.String)
    rollouts = data.rollouts.with_columns(
        rollout_id=pl.format("{}{}", pl.lit("a/../b" + ODD), n),
        prompt_id=pl.format("{}{}", pl.lit("../" + ODD), "prompt_id"),
        policy=pl.lit(ODD),
        source=pl.lit("/etc/" + ODD),
        finish_reason=pl.lit("stop"),
    )
    tokens = data.tokens.with_columns(pl.col("checkpoint").replace(names))
    folder = tmp_path_factory.mktemp("odd") / "run\x1b[31m\u202e<b>$x_$"
    save_run(data._replace(rollouts=rollouts, tokens=tokens), folder)
    vocab = pl.read_parquet(folder / "vocab.parquet", glob=False)
    texts = [ODD if i % 3 else text for i, text in enumerate(vocab["text"])]
    spelled = [text.encode() for text in texts]
    vocab.with_columns(text=pl.Series(texts), bytes=pl.Series(spelled)).write_parquet(
        folder / "vocab.parquet"
    )
    od.info(folder, accept_edits=True)
    made = od.open_run(folder)
    for name in ("release_points", "rock_tokens"):
        made.save(getattr(od, name)(made))
    return made


def test_a_page_has_no_markup_of_others_and_nothing_that_hides(run, tmp_path):
    page = od.report(run, rollouts=4, out=tmp_path / "page.html").path.read_text()
    assert not HIDDEN.search(page)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert not HIDDEN.search(str(json.loads(data[1])))
    outside = page.replace(data[0], "")
    assert outside.count("<script") == 1  # the page's own
    assert "{{ 7 * 7 }}" in outside
    assert r"run\x1b[31m\u202e&lt;b&gt;$x_$" in outside
    assert r"a/../b\x1b[31mred" in json.loads(data[1])["rollouts"][0]["rollout_id"]


def test_figures_are_drawn_and_their_files_stay_in_their_folder(run, tmp_path):
    names = ["rollout", "rock_groups", "release_curves"]
    drawn = od.plot(run, names, id=0, format="svg", out=tmp_path / "plots")
    assert len(drawn.paths) == 3, drawn.missing
    assert {path.parent for path in drawn.paths} == {tmp_path / "plots"}
    assert all(re.fullmatch(r"[A-Za-z0-9_.=-]+", path.name) for path in drawn.paths)
    assert not any(HIDDEN.search(path.read_text()) for path in drawn.paths)
    assert [path.name for path in tmp_path.iterdir()] == ["plots"]


def test_a_figure_writes_the_numbers_of_what_it_cannot_draw():
    assert drawable("a\x1b\u202e\ud83d\x00$") == r"a\x1b\u202e\ud83d\x00$"


@pytest.mark.parametrize("command", ["info", "analyze", "export", "plot"])
def test_no_command_lets_a_name_reach_the_terminal(run, tmp_path, command):
    out = ["--out", str(tmp_path / "out\x1b[31m\u202e")]
    arguments = {
        "info": [str(run.path)],
        "analyze": ["rock-tokens", str(run.path), *out],
        "export": [str(run.path), "--rule", RULE, "--to", "parquet", *out],
        "plot": [str(run.path), "rollout", "--id", "no" + ODD.replace("\x00", "")],
    }[command]
    done = CliRunner().invoke(app, [command, *arguments])
    assert done.exit_code == (command == "plot"), done.output
    assert not HIDDEN.search(done.output)
    assert r"\x1b[31m" in done.output
    assert all(path.name.startswith("out") for path in tmp_path.iterdir())


def test_a_wrong_command_line_is_repeated_in_letters_that_print():
    for arguments in (["--\u202eevil\x1b[31m"], ["info", "--\u202eevil"], ["\u202e\x1b[31m"]):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 2
        assert not HIDDEN.search(done.output)
        assert r"\u202e" in done.output


def test_files_of_an_export_are_named_after_nothing_foreign(run, tmp_path):
    formats = {"parquet", "slime", "trl", "axolotl", "skyrl", "ms-swift", "tinker"}
    for name in formats | {"prime-rl"}:
        od.export(run, rule=RULE, keep="tokens", to=name, control=1, out=tmp_path / name)
    written = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")]
    assert all(re.fullmatch(r"[a-z0-9_./-]+", path) for path in written), written
    assert {path.split("/")[0] for path in written} == formats | {"prime-rl"}


def test_an_export_beside_a_file_that_is_there_is_one_line(run, tmp_path):
    (tmp_path / "file\x1b\n").write_text("x")
    with pytest.raises(StorageError) as caught:
        od.export(run, rule=RULE, to="parquet", out=tmp_path / "file\x1b\n")
    assert "a file" in str(caught.value)


def test_a_name_on_a_bar_is_no_markup(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with StderrProgress() as shown:
        shown.start("[red]a[/b]\x1b]0;x\x07\u202e", 10)
        shown.advance(5)
    text = capsys.readouterr().err
    assert "\u202e" not in text
    assert "\x1b]0" not in text
