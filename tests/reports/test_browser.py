"""The page in a real browser: numbers on hover, recolouring, search, keyboard, foreign text."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import opd_diag as od
from opd_diag.datasets import null_run, save_run
from opd_diag.tables.run import Run

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield started
        started.close()


@pytest.fixture(scope="module")
def written(hostile_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return od.report(hostile_run, out=tmp_path_factory.mktemp("browser") / "report.html").path


@pytest.fixture
def page(browser: Any, written: Path) -> Iterator[Any]:
    """The report at desktop size, without a word on the console."""
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(written.as_uri())
    yield opened
    opened.close()
    assert said == []


def facts(page: Any) -> dict[str, str]:
    return {
        one.get_attribute("data-fact"): one.inner_text()
        for one in page.locator("#card [data-fact]").all()
    }


def three_digits(value: float) -> float:
    return float(f"{value:.3g}")


def test_hover_shows_the_numbers_of_the_table(page: Any, hostile_run: Run) -> None:
    row = int(page.locator("#rollout").input_value())
    for checkpoint in hostile_run.checkpoints:
        page.locator("#checkpoint").select_option(checkpoint)
        tokens = hostile_run.tokens(checkpoint).filter(pl.col("rollout") == row).collect()
        for place in (0, 17, 59):
            page.locator(f".t[data-place='{place}']").hover()
            shown, own = facts(page), tokens.row(place, named=True)
            assert shown["position"] == str(place)
            assert shown["token"].endswith(f"#{own['token_id']}")
            for name in ("forward_kl", "student_logp", "teacher_logp"):
                assert float(shown[name]) == pytest.approx(three_digits(own[name]), rel=1e-6)
            assert float(shown["reverse_kl"].split()[0]) == pytest.approx(
                three_digits(own["reverse_kl"]), rel=1e-6
            )
            assert float(shown["margin"]) == pytest.approx(three_digits(own["margin"][1]), rel=1e-6)
            assert shown["student_rank"] == str(own["student_rank"])
            assert shown["teacher_rank"] == str(own["teacher_rank"])


def colours(page: Any) -> list[str]:
    return page.eval_on_selector_all(".t", "spans => spans.map(s => s.style.backgroundColor)")


def test_column_and_checkpoint_recolour(page: Any) -> None:
    before = colours(page)
    page.locator("#column").select_option("teacher_entropy")
    other = colours(page)
    assert other != before
    page.locator("#checkpoint").select_option("step1")
    assert colours(page) != other
    page.locator("#column").select_option("advantage")
    signs = {re.search(r"--(high|low)", colour)[1] for colour in colours(page) if "--" in colour}
    assert signs == {"high", "low"}


def test_search_finds_text_over_tokens(page: Any) -> None:
    spans = page.locator(".t")
    text = "".join(span.text_content() for span in spans.all()[10:12])
    page.locator("#search").fill(text)
    assert page.locator(".t.found").count() >= 2
    assert re.fullmatch(r"\d+ match(es)?", page.locator("#matches").inner_text())
    page.locator("#search").fill("no such text anywhere")
    assert page.locator(".t.found").count() == 0
    assert page.locator("#matches").inner_text() == "0 matches"


def test_the_keyboard_walks_the_tokens_and_the_chart_follows(page: Any) -> None:
    page.locator(".t[data-place='0']").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert facts(page)["position"] == "3"
    assert page.locator(".chart .here").get_attribute("x1") == "3.5"
    page.keyboard.press("End")
    assert facts(page)["position"] == str(page.locator(".t").count() - 1)
    page.locator(".chart").hover(position={"x": 2, "y": 20})
    assert int(facts(page)["position"]) < 3


def test_rollouts_change_sort_and_stand_side_by_side(page: Any) -> None:
    values = page.eval_on_selector_all("#rollout option", "all => all.map(o => o.value)")
    page.locator("#sort").select_option("kl")
    ordered = page.eval_on_selector_all("#rollout option", "all => all.map(o => o.value)")
    assert sorted(ordered) == sorted(values)
    page.locator("#rollout").select_option(ordered[-1])
    assert page.locator(".rollout").count() == 1
    for value in ordered:
        page.locator("#rollout").select_option(value)
        page.locator("#beside").check()
        if page.locator(".rollout").count() > 1:
            break
        page.locator("#beside").uncheck()
    assert page.locator(".view.beside .rollout").count() > 1


def test_overlays_mark_what_the_tables_say(page: Any, hostile_run: Run) -> None:
    traps = hostile_run.result("agreement_traps").filter("triggered")
    for row in traps.iter_rows(named=True):
        if page.locator(f"#rollout option[value='{row['rollout']}']").count():
            break
    page.locator("#rollout").select_option(str(row["rollout"]))
    page.locator("#checkpoint").select_option(row["checkpoint"])
    marked = page.eval_on_selector_all(".t.stretch", "all => all.map(s => Number(s.dataset.place))")
    assert marked[0] == row["cut_token"]
    assert len(marked) == row["n_agreement"]


def test_foreign_text_is_text(page: Any) -> None:
    for value in page.eval_on_selector_all("#rollout option", "all => all.map(o => o.value)"):
        page.locator("#rollout").select_option(value)
    assert page.evaluate("window.hacked") is None
    assert page.locator("#view img, #view script").count() == 0
    texts = page.eval_on_selector_all(".t", "all => all.map(s => s.textContent)")
    assert any("onerror" in text or "</script>" in text for text in texts)


def test_a_narrow_screen_scrolls_down_only(browser: Any, written: Path) -> None:
    narrow = browser.new_page(viewport={"width": 400, "height": 800})
    narrow.goto(written.as_uri())
    width = narrow.evaluate("document.documentElement.scrollWidth")
    assert width <= 400
    narrow.locator(".t[data-place='5']").hover()
    assert facts(narrow)["position"] == "5"
    narrow.close()


def test_ten_thousand_tokens_open_and_answer(browser: Any, tmp_path: Path) -> None:
    data = null_run(prompts=2, samples=1, tokens=10_000, types=80)
    run = save_run(data, tmp_path / "run")
    path = od.report(run, rollouts=1, out=tmp_path / "long.html").path
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.locator(".t").count() > 5_000
    page.locator(".t[data-place='4321']").hover()
    assert facts(page)["position"] == "4321"
    page.close()


def test_it_prints_and_darkens(browser: Any, written: Path, tmp_path: Path) -> None:
    dark = browser.new_page(color_scheme="dark")
    dark.goto(written.as_uri())
    colour = dark.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == "rgb(23, 24, 26)"
    dark.pdf(path=str(tmp_path / "report.pdf"))
    assert (tmp_path / "report.pdf").stat().st_size > 10_000
    dark.close()
