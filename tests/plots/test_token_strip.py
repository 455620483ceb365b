"""One rollout as text: the table says what the run and its results say, the figure what it says."""

import re
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
import pytest
from matplotlib.collections import LineCollection

import opd_diag as od
from opd_diag.datasets import release_run, save_run, trap_run
from opd_diag.errors import OptionError, TableError
from opd_diag.plots.saving import save_figure
from opd_diag.plots.wrapping import wrapped
from opd_diag.tables.columns.token_strip import TOKEN_STRIP
from opd_diag.tables.schema import polars_schema


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with two checkpoints, a fourth of whose tokens are outside the loss."""
    data = trap_run(prompts=24, samples=1, tokens=200, length=90, seed=1)
    tokens = data.tokens.with_columns(in_loss=pl.col("position") % 4 != 1)
    run = save_run(data._replace(tokens=tokens), tmp_path_factory.mktemp("runs") / "run")
    traps = od.agreement_traps(run, draws=1)
    run.save(traps._asdict(), arguments={})
    return run


def tokens(run, checkpoint, rollout):
    return run.tokens(checkpoint).filter(pl.col("rollout") == rollout).collect()


@pytest.mark.parametrize("asked", [7, "7", "rollout000007"])
def test_a_rollout_is_found_by_id_or_row(run, asked):
    table = od.token_strip(run, asked)
    assert set(table["rollout"]) == {7}
    assert set(table["rollout_id"]) == {"rollout000007"}
    np.testing.assert_array_equal(table["value"], tokens(run, "step0", 7)["reverse_kl"])
    assert table["text"].to_list() == [f" {i}" for i in tokens(run, "step0", 7)["token_id"]]


def test_an_id_comes_before_a_row_number():
    data = trap_run(prompts=2, samples=2, tokens=80, length=20)
    names = pl.Series(["3", "2", "1", "0"])
    table = od.token_strip(data.tokens, "3", data.rollouts.with_columns(rollout_id=names))
    assert set(table["rollout"]) == {0}
    assert table["text"].is_null().all()


@pytest.mark.parametrize("column", ["margin_8", "margin", "overlap", "advantage", "repeat"])
def test_every_kind_of_column_can_colour(run, column):
    rows = tokens(run, "step1", 3)
    expected = {
        "margin_8": ("margin_8", "nat", rows["margin"].to_numpy()[:, 2]),
        "margin": ("margin_4", "nat", rows["margin"].to_numpy()[:, 1]),
        "overlap": ("overlap_16", "share", rows["overlap"].to_numpy()[:, 3]),
        "advantage": ("advantage", "nat", (rows["teacher_logp"] - rows["student_logp"]).to_numpy()),
        "repeat": ("repeat", "tokens", rows["repeat"].to_numpy()),
    }[column]
    table = od.token_strip(run, 3, column=column, checkpoint="step1")
    assert set(table.select("checkpoint", "column", "unit").rows()) == {("step1", *expected[:2])}
    np.testing.assert_array_equal(table["value"], expected[2])


def test_gain_is_forward_kl_lost_since_the_first_checkpoint(run):
    before, after = (
        tokens(run, name, 2)["forward_kl"].cast(pl.Float64) for name in run.checkpoints
    )
    table = od.token_strip(run, 2, column="gain")
    assert set(table["checkpoint"]) == {"step1"}
    np.testing.assert_allclose(table["value"], before - after)


def test_phases_begin_where_the_result_cuts(run):
    found = run.result("agreement_traps").filter("triggered", checkpoint="step0")
    assert found.height >= 5
    for row in found.iter_rows(named=True):
        table = od.token_strip(run, row["rollout"])
        inside = table.filter(phase="agreement")
        assert inside["position"][0] == row["cut_token"]
        counts = [table.filter(phase=name).height for name in ("pre", "agreement", "post")]
        assert counts == [row["n_pre"], row["n_agreement"], row["n_post"]]
        assert table.filter(~pl.col("in_loss"))["phase"].is_null().all()
    quiet = run.result("agreement_traps").filter(~pl.col("triggered"), checkpoint="step0")
    table = od.token_strip(run, quiet["rollout"][0])
    assert set(table["phase"]) == {"untriggered", None}


def test_what_was_not_analysed_is_unknown(run):
    table = od.token_strip(run, 0)
    assert table["is_rock"].is_null().all()
    assert table["is_released"].is_null().all()
    title = od.plots.token_strip(table).get_title(loc="left")
    assert "rocks unknown, release point unknown" in title


def test_rocks_and_release_points_come_from_their_results(tmp_path):
    data = release_run(prompts=6, samples=1, checkpoints=("a", "b"), segment_tokens=5, drop=2.0)
    run = save_run(data, tmp_path / "run")
    for name in ("release_points", "rock_tokens"):
        run.save(getattr(od, name)(run)._asdict(), arguments={})
    points = run.result("release_points").filter("accepted", checkpoint="b")
    assert points.height >= 3
    rocks = set(run.result("rock_tokens").filter("is_rock")["token_id"])
    for row in points.iter_rows(named=True):
        table = od.token_strip(run, row["rollout"], checkpoint="b")
        assert table.filter("is_released")["position"].min() == row["release_token"]
        assert [token in rocks for token in table["token_id"]] == table["is_rock"].to_list()
    run.manifest.fingerprint["generated"] = 1  # other rollouts: results are stale
    stale = od.token_strip(run, 0)
    assert stale.select(pl.col("is_rock", "is_released").is_null().all()).row(0) == (True, True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rollout": "x"}, TableError, "rollout: no 'x'; expected a rollout_id or a row number"),
        ({"rollout": 99}, TableError, "rollout: no row 99; expected .* below 24"),
        ({"rollout": -1}, TableError, "rollout: no row -1"),
        ({"checkpoint": "z"}, TableError, "checkpoint: no 'z'; expected one of step0, step1"),
        ({"column": "segment"}, OptionError, "column: 'segment'; expected one of student_logp, "),
        ({"column": "margin_5"}, OptionError, r"'margin_5'; .* margin_K, .*\(K: 2, 4, 8,"),
        ({"column": "gain", "checkpoint": "step0"}, OptionError, "'gain' under 'step0'; expected"),
    ],
)
def test_what_is_not_there_is_named(run, arguments, error, message):
    with pytest.raises(error, match=message):
        od.token_strip(run, **{"rollout": 0, **arguments})


def test_each_column_is_listed_with_the_k_that_it_has(run):
    with pytest.raises(OptionError) as raised:
        od.token_strip(run, 0, column="reverse_kl_top_2")
    lists = re.findall(r"([^;(]+) \(K: ([\d, ]+)\)", str(raised.value).partition("one of ")[2])
    offered = [f"{name.strip()[:-1]}{k}" for names, grid in lists for name in names.split(",")
               for k in grid.split(", ")]  # fmt: skip
    assert len(offered) > 10
    assert "reverse_kl_top_2" not in offered
    for column in (*offered, "reverse_kl", "teacher_mass"):
        assert od.token_strip(run, 0, column=column).height


WORDS = ["The", " answer", "\n\n", " is", " $x^2$", " naïve", " 中文", "\U0001f469", "\\xe4",
         "x" * 230, " is\nso", "<|end|>", "\t", "", None, "привет"]  # fmt: skip


UNKNOWN = ("correct", "prompt", "student_prob", "teacher_prob", "teacher_top_id",
           "teacher_top_text", "teacher_top_prob")  # fmt: skip


def strip(values, **columns):
    """A table of as many tokens, in the loss and of one segment unless told."""
    n = len(values)
    return pl.DataFrame(
        {
            "checkpoint": ["a"] * n,
            "rollout": [5] * n,
            "rollout_id": ["id"] * n,
            **{name: [None] * n for name in UNKNOWN},
            "position": range(n),
            "token_id": range(n),
            "text": [f" w{i}" for i in range(n)],
            "column": ["reverse_kl"] * n,
            "unit": ["nat"] * n,
            "value": values,
            "segment": [0] * n,
            "in_loss": [True] * n,
            "is_rock": [None] * n,
            "is_released": [None] * n,
            "phase": [None] * n,
        }
        | columns,
        schema=polars_schema(TOKEN_STRIP),
        strict=False,
    )


def marks(ax):
    return {artist.get_label(): artist for artist in ax.collections}


def places(artist):
    paths = artist.get_segments() if isinstance(artist, LineCollection) else artist.get_paths()
    return [getattr(path, "vertices", path)[0].tolist() for path in paths]


def test_cells_hold_the_values_of_the_tokens_in_the_loss():
    ax = od.plots.token_strip(
        strip([0.1, 0.2, None, 0.4], in_loss=[True, False, True, True], text=["a", "bb", "c", "d"])
    )
    cells = marks(ax)["_cells"]
    np.testing.assert_allclose(cells.get_array(), [0.1, 0.4])
    assert [at for at, _ in places(cells)] == [0, 4]
    assert [text.get_text() for text in ax.texts] == ["a", "bb", "c", "d"]
    assert [text.get_position() for text in ax.texts] == [(0, 0), (1, 0), (3, 0), (4, 0)]
    assert "4 tokens, 3 in the loss" in ax.get_title(loc="left")
    assert "not in the loss" in ax.get_legend_handles_labels()[1] + [
        text.get_text() for text in ax.get_legend().get_texts()
    ]


def test_marks_stand_at_their_tokens():
    ax = od.plots.token_strip(
        strip(
            [1.0] * 6,
            text=list("abcdef"),
            segment=[0, 0, 1, 1, 2, 2],
            is_rock=[True, False, False, True, False, False],
            is_released=[False] * 4 + [True] * 2,
            phase=["pre", "agreement", "agreement", "post", "post", "post"],
        )
    )
    found = marks(ax)
    assert [at for at, _ in places(found["segment border"])] == [2, 4]
    assert [at for at, _ in places(found["token of a rock type"])] == [0, 3]
    assert [at for at, _ in places(found["low-KL stretch"])] == [1, 2]
    assert [at for at, _ in places(found["after it"])] == [3, 4, 5]
    assert [at for at, _ in places(found["release point"])] == [4]
    assert {text.get_text() for text in ax.get_legend().get_texts()} == set(found) - {"_cells"}
    assert "release" not in ax.get_title(loc="left")


def test_nothing_found_is_said():
    nothing = {"is_rock": [False] * 3, "is_released": [False] * 3, "phase": ["untriggered"] * 3}
    title = od.plots.token_strip(strip([1.0] * 3, **nothing)).get_title(loc="left")
    assert title.endswith("no release point, no low-KL stretch")


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([0.0, 4.0], (0, 4)),
        ([-2.0, 1.0], (-2, 2)),
        ([-3.0, -1.0], (-3, 0)),
        ([0.0, 0.0], (0, 1)),
        ([2.5, 2.5], (0, 2.5)),
        ([None, None], (0, 1)),
    ],
)
def test_colours_cover_the_values_and_nought(values, ends, tmp_path):
    ax = od.plots.token_strip(strip(values))
    norm = marks(ax)["_cells"].norm
    assert (norm.vmin, norm.vmax) == ends
    ax.figure.savefig(tmp_path / "x.png")


def test_any_text_is_drawn_without_a_warning(tmp_path):
    words = WORDS * 5
    ax = od.plots.token_strip(strip([0.5] * len(words), text=words, rollout_id=["$中$" * 40] * 80))
    ax.figure.savefig(tmp_path / "x.png")
    shown = {text.get_text() for text in ax.texts}
    assert {"The", "⏎⏎", " $x^2$", r" \u4e2d\u6587", r"\U0001f469", "·", "[14]", " is⏎"} <= shown
    assert max(len(text) for text in shown) == 100


def test_a_thousand_tokens_can_be_read():
    ax = od.plots.token_strip(strip([0.1] * 1000))
    assert len(ax.texts) == 1000
    assert min(text.get_fontsize() for text in ax.texts) > 7
    figure = ax.figure
    figure.draw_without_rendering()
    for text, following in pairwise(ax.texts):
        box, after = text.get_window_extent(), following.get_window_extent()
        if text.get_position()[1] == following.get_position()[1]:
            assert box.x1 <= after.x0 + 1
        assert box.x1 <= figure.bbox.x1


def test_a_very_long_response_is_cut_and_says_so():
    ax = od.plots.token_strip(strip([0.1] * 500, text=["\n"] * 500))
    assert len(ax.texts) == 400
    assert "500 tokens, 500 in the loss; the first 400 are drawn" in ax.get_title(loc="left")


def test_an_empty_response_is_said():
    ax = od.plots.token_strip(strip([]))
    assert ax.texts[0].get_text() == "the response has no tokens"


def test_it_draws_on_the_axes_it_is_given():
    _, ax = plt.subplots()
    assert od.plots.token_strip(strip([0.1] * 30), ax=ax) is ax
    assert len(ax.texts) == 30


def test_the_outcome_and_the_end_of_the_prompt_stand_above():
    prompt = f"{'far ' * 200}near"
    table = strip([0.1] * 3, correct=[False] * 3, prompt=[prompt] * 3)
    ax = od.plots.token_strip(table)
    assert ax.get_title(loc="left").splitlines()[0].endswith(", wrong")
    above = [text.get_text() for text in ax.texts if text.get_position()[1] < 0]
    assert above[0].startswith("prompt: … far")
    assert above[-2].endswith("near")
    assert len(above) == 4
    assert max(map(len, above)) <= 100
    bottom, top = ax.get_ylim()
    assert top < min(text.get_position()[1] for text in ax.texts) < bottom


def test_what_the_teacher_prefers_is_numbered_and_listed():
    """The largest values in the loss at which it prefers another token, in their order."""
    n = 14
    values = [float(i) for i in range(n)]
    top = [100] * n
    top[13] = 13  # the largest value, where both agree
    in_loss = [True] * n
    in_loss[12] = False
    table = strip(
        values, in_loss=in_loss, teacher_top_id=top, teacher_prob=[0.125] * n,
        teacher_top_prob=[0.75] * n, teacher_top_text=[" other"] * 7 + [None] * 7,
    )  # fmt: skip
    ax = od.plots.token_strip(table)
    shown = " ".join(t.get_text() for t in ax.texts if t.get_position()[1] > 0)
    assert "1 ' other' 0.750, not ' w4' 0.125" in shown
    assert "8 '[100]' 0.750, not ' w11' 0.125" in shown
    assert not any(f"' w{i}'" in shown for i in (3, 12, 13))
    numbers = {t.get_text(): t.get_position()[0] for t in ax.texts if t.get_text().isdigit()}
    assert list(numbers) == [str(i) for i in range(1, 9)]
    ends = {t.get_text(): t.get_position()[0] + len(t.get_text()) for t in ax.texts}
    assert numbers["1"] == ends[" w4"]
    assert numbers["8"] == ends[" w11"]


def test_the_table_says_what_both_models_make_of_a_token(run):
    table, rows = od.token_strip(run, 7), tokens(run, "step0", 7)
    np.testing.assert_allclose(table["teacher_prob"], np.exp(rows["teacher_logp"].cast(float)))
    np.testing.assert_allclose(
        table["teacher_top_prob"], np.exp(rows["teacher_top_logp"].cast(float))
    )
    assert table["teacher_top_id"].equals(rows["teacher_top_id"])
    assert table["teacher_top_text"].to_list() == [f" {i}" for i in rows["teacher_top_id"]]
    rollout = run.rollouts.row(7, named=True)
    assert table["correct"][0] == rollout["correct"]
    assert table["prompt"][0] == "".join(f" {i}" for i in rollout["prompt_token_ids"])


def test_words_are_placed_whole_and_side_by_side():
    rng = np.random.default_rng(0)
    letters = list("ab ⏎中")
    for _ in range(50):
        words = ["".join(rng.choice(letters, rng.integers(1, 40))) for _ in range(30)]
        pieces = list(wrapped(words, 12))
        for i, word in enumerate(words):
            assert "".join(piece.text for piece in pieces if piece.token == i) == word
        for piece, following in pairwise(pieces):
            assert 0 < piece.at + piece.width <= 12
            same = piece.line == following.line
            assert following.at == (piece.at + piece.width if same else 0)
            assert following.line - piece.line in (0, 1)
            assert not (same and piece.text.endswith("⏎"))


def test_a_strip_can_be_saved_twice_and_stays_in_place(tmp_path):
    ax = od.plots.token_strip(strip([0.1] * 30))
    before = ax.get_position().bounds
    for name in ("x.png", "x.svg"):
        save_figure(ax.figure, tmp_path / name)
        assert ax.get_position().bounds == before
