"""The page without a browser: what it holds, what it escapes, how large it gets."""

import json
import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import opd_diag as od
from opd_diag.datasets import null_run, save_run
from opd_diag.errors import OptionError
from opd_diag.reports import inline_figures, token_data
from opd_diag.reports.comparison import compare_means
from opd_diag.reports.inline_figures import interval_figure
from opd_diag.reports.rollout_sample import choose_rollouts_to_read
from opd_diag.reports.token_data import token_view
from opd_diag.stats import cluster_mean
from opd_diag.tables.run import Run


class Outline(HTMLParser):
    """Tags and where they point; texts of scripts apart."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.handlers: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script"
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


@pytest.fixture(scope="module")
def page(hostile_run: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    written = od.report(hostile_run, out=tmp_path_factory.mktemp("page") / "report.html")
    assert written.size == written.path.stat().st_size
    return written.path.read_text(encoding="utf-8")


def test_nothing_is_fetched_and_nothing_foreign_runs(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    assert all(link.startswith(("#", "data:")) for link in outline.links)
    assert outline.handlers == []
    assert len(outline.scripts) == 2  # the data and the script of the page
    assert "Content-Security-Policy" in page
    markup = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    assert "<script>window.hacked" not in markup
    assert "<img src=x" not in markup
    assert "{{ 7 * 7 }}" in page  # shown, not evaluated
    assert "<b>0</b>" not in page


def test_the_data_are_those_of_the_tables(hostile_run: Run, page: str) -> None:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.S)
    assert found is not None
    data = json.loads(found[1])
    assert data["checkpoints"] == list(hostile_run.checkpoints)
    assert data["left_out"] == 0
    for rollout in data["rollouts"]:
        for name in data["checkpoints"]:
            own = hostile_run.tokens(name).filter(pl.col("rollout") == rollout["row"]).collect()
            assert rollout["ids"] == own["token_id"].to_list()
            columns = rollout["columns"][name]
            for column in ("reverse_kl", "teacher_logp", "grad_logits"):
                values = np.frombuffer(b64decode(columns[column]), "<f4")
                assert np.array_equal(values, own[column].to_numpy(), equal_nan=True)
            ranks = np.frombuffer(b64decode(columns["student_rank"]), "<i4")
            assert ranks.tolist() == own["student_rank"].to_list()


def test_rollouts_are_chosen_for_their_reasons(hostile_run: Run) -> None:
    reasons = choose_rollouts_to_read(hostile_run, 12)
    assert len(reasons) == 12
    last = hostile_run.checkpoints[-1]
    means = (
        hostile_run.tokens(last).filter("in_loss").group_by("rollout")
        .agg(pl.col("reverse_kl").mean()).sort("reverse_kl", descending=True).collect()
    )  # fmt: skip
    assert "highest KL" in reasons[means["rollout"][0]]
    correct = hostile_run.rollouts.filter("correct")["rollout"].to_list()
    for row, words in reasons.items():
        if "correct with high KL" in words:
            assert row in correct
        if "wrong with low KL" in words:
            assert row not in correct
    together = [row for row, words in reasons.items() if "samples of one prompt" in words]
    prompts = hostile_run.rollouts.filter(pl.col("rollout").is_in(together))["prompt_id"]
    assert len(together) > 1
    assert prompts.n_unique() == 1


def test_the_page_stays_small_however_long_the_responses_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = save_run(null_run(prompts=6, samples=2, tokens=3000, types=80), tmp_path / "run")
    monkeypatch.setattr(token_data, "BYTES", 1_000_000)
    reasons = choose_rollouts_to_read(run, 12)
    data = token_view(run, reasons)
    assert len(json.dumps(data)) < 1_300_000
    assert data["left_out"] > 0
    shown = data["rollouts"][0]
    assert len(shown["ids"]) < shown["tokens"] == 3000


def test_two_runs_side_by_side(hostile_run: Run, tmp_path: Path) -> None:
    other = save_run(null_run(prompts=6, samples=2, tokens=60, types=80), tmp_path / "other")
    written = od.report(hostile_run, other, rollouts=3, out=tmp_path / "two.html")
    text = written.path.read_text()
    assert 'id="comparison"' in text
    assert "Second minus first" in text
    last = hostile_run.tokens(hostile_run.checkpoints[-1]).filter("in_loss").collect()
    assert f"{last['reverse_kl'].cast(pl.Float64).mean():.3g} nat" in text


def test_means_of_two_runs_have_intervals_and_what_is_missing_a_reason(tmp_path: Path) -> None:
    data = null_run(prompts=12, samples=2, tokens=30, types=80)
    ids = pl.Series(
        [[3, 4 + n // 2] for n in range(24)], dtype=data.rollouts.schema["prompt_token_ids"]
    )
    data = data._replace(rollouts=data.rollouts.with_columns(prompt_token_ids=ids))
    without = data.tokens.with_columns(reverse_kl=pl.lit(None, pl.Float32))
    one = save_run(data, tmp_path / "one")
    other = save_run(data._replace(tokens=without), tmp_path / "other")
    compared = compare_means(one, other)
    assert compared["prompts"] == 12
    reverse, forward, *_ = compared["rows"]
    mean = cluster_mean(data.tokens["reverse_kl"], np.repeat(np.arange(12), 60))
    assert reverse["means"][1] == "n/a (no token has a value)"
    numbers = re.fullmatch(r"(\S+) nat \[(\S+), (\S+)\]", reverse["means"][0])
    assert numbers is not None
    value, low, high = map(float, numbers.groups())
    assert value == pytest.approx(float(mean.estimate), rel=5e-3)
    assert [low, high] == pytest.approx(
        [float(mean.low), float(mean.high)], rel=0.05
    )  # other draws
    assert reverse["difference"] == "n/a (no values on shared prompts)"
    assert forward["means"][0] == forward["means"][1]
    assert forward["difference"].startswith("0 nat")


def test_a_run_without_results_says_what_to_run(tmp_path: Path) -> None:
    run = save_run(null_run(prompts=5, samples=1, tokens=40, types=80), tmp_path / "run")
    written = od.report(run, rollouts=0)
    text = written.path.read_text()
    assert written.path == tmp_path / "run" / "report.html"
    assert "opd-diag analyze release-points" in text
    assert 'id="data"' not in text
    shown = written._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert "<html" not in shown
    with pytest.raises(OptionError, match="expected 0 to 200"):
        od.report(run, rollouts=-1)


def test_large_drawings_are_put_in_as_pixels(hostile_run: Run, monkeypatch) -> None:
    monkeypatch.setattr(inline_figures, "LARGEST_SVG", 0)
    drawn = inline_figures.figures_of(hostile_run, "rock_tokens")
    assert drawn
    assert all("data:image/png;base64," in figure.markup for figure in drawn)


def test_the_small_figure_puts_numbers_in_order() -> None:
    row = {"estimate": 2.0, "estimate_low": 1.0, "estimate_high": 4.0, "control": 0.0}
    text = str(interval_figure(row))
    low, high = (
        float(v) for v in re.search(r'class="interval" x1="([\d.]+)" x2="([\d.]+)"', text).groups()
    )
    centre = float(re.search(r'cx="([\d.]+)"', text)[1])
    control = float(re.search(r'class="control" x1="([\d.]+)"', text)[1])
    assert control < low < centre < high
    assert (centre - low) / (high - low) == pytest.approx(1 / 3, abs=0.02)
    assert str(interval_figure(dict.fromkeys(row))) == ""
