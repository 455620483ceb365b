import numpy as np
import polars as pl
import pytest
import scipy.stats

from opd_diag.analyses.findings import needed_tables
from opd_diag.analyses.questions import QUESTIONS
from opd_diag.analyses.teachability import findings, summary_lines, teachability
from opd_diag.analyses.teachability.options import choose_pair
from opd_diag.datasets import save_run, teachable_run
from opd_diag.datasets.nulls import ugly_run
from opd_diag.errors import OptionError, TableError
from opd_diag.tables.columns.teachability import TABLES
from opd_diag.tables.schema import check_table
from opd_diag.tables.source import as_source


@pytest.fixture(scope="module")
def data():
    return teachable_run(prompts=14, samples=2, tokens=50, compatibility=0.1)


@pytest.fixture(scope="module")
def found(data):
    return teachability(data.tokens, data.rollouts)


def names(data, **renamed):
    column = pl.col("checkpoint").replace(renamed)
    return data.tokens.with_columns(checkpoint=column)


def test_every_table_passes_its_schema(found):
    for name, table in found._asdict().items():
        check_table(table, TABLES[name], name)
        if name != "teachability_kl":
            assert table["checkpoint"].unique().to_list() == ["step1"]
            assert table["features_from"].unique().to_list() == ["step0"]
            assert table["gain_from"].unique().to_list() == ["step0"]


def test_a_run_on_disk_gives_the_tables_of_its_frames(data, found, tmp_path):
    run = save_run(data, tmp_path / "run")
    on_disk = teachability(run.path)
    for left, right in zip(found, on_disk, strict=True):
        assert left.equals(right)
    run.save(on_disk._asdict(), arguments={})
    assert run.result("teachability_overlap").equals(found.teachability_overlap)


def test_one_checkpoint_gives_features_only_and_says_why(data):
    one = teachability(data.tokens.filter(pl.col("checkpoint") == "step0"), data.rollouts)
    for name, table in one._asdict().items():
        check_table(table, TABLES[name], name)
        assert table["checkpoint"].unique().to_list() == ["step0"]
    why = "one checkpoint: a change needs two on the same tokens"
    for table in one[:4]:
        assert why in table["reason"].to_list()
    assert one.teachability["gain"].null_count() == one.teachability.height
    assert one.teachability.filter(pl.col("n") > 0)["base"].null_count() == 0
    assert one.teachability_overlap["jaccard"].null_count() == 0
    assert one.teachability_support["mean"].null_count() == 0
    assert any(why in line for line in summary_lines(one))


def test_features_of_a_later_checkpoint_are_refused_with_the_reason(data):
    for options in ({"features_from": "step1"}, {"gain_from": "step1"}):
        with pytest.raises(OptionError, match="features of a later one have seen the gain"):
            teachability(data.tokens, data.rollouts, **options)
    with pytest.raises(OptionError, match="features_from: 'step9'; expected one of step0, step1"):
        teachability(data.tokens, data.rollouts, features_from="step9")


@pytest.fixture(scope="module")
def three():
    return teachable_run(prompts=14, samples=2, tokens=50, checkpoints=("a", "b", "c"))


def test_checkpoints_are_chosen_by_name(three):
    source = as_source(three.tokens, three.rollouts)
    cases = {
        (None, None, None): ("a", "b", "c"),
        ("c", None, None): ("a", "b", "c"),
        ("b", None, None): ("a", "a", "b"),
        (("b", "c"), None, None): ("a", "b", "c"),
        (("c", "b"), None, None): ("a", "b", "c"),  # the order of the run, whatever was asked
        (("a", "c"), None, None): ("a", "a", "c"),
        (None, "b", None): ("b", "b", "c"),
        (None, None, "a"): ("a", "a", "c"),
        (None, "a", "a"): ("a", "a", "c"),
        ("a", None, None): ("a", None, None),
    }
    for (checkpoint, features_from, gain_from), expected in cases.items():
        chosen = choose_pair(source, checkpoint, features_from, gain_from)
        assert chosen[:3] == expected
        assert chosen.out_of_time == (expected[0] != expected[1] is not None)
    for wanted, number in ((("a", "b", "c"), 3), ((), 0)):
        with pytest.raises(OptionError, match=f"checkpoint: {number} names; expected the one aft"):
            teachability(three.tokens, three.rollouts, checkpoint=wanted)
    with pytest.raises(TableError, match="checkpoint: no 'step9'; expected one of a, b, c"):
        teachability(three.tokens, three.rollouts, checkpoint="step9")
    table = teachability(three.tokens, three.rollouts, checkpoint="b").teachability
    assert table.select("features_from", "gain_from", "checkpoint").row(0) == ("a", "a", "b")


def test_with_three_checkpoints_features_are_older_than_the_gain(three):
    tables = teachability(three.tokens, three.rollouts)
    first, start, last = three.tokens.partition_by("checkpoint", maintain_order=True)
    whole = tables.teachability.filter(group="all", feature="all", kl="forward_kl")
    whole = whole.row(0, named=True)
    assert whole["base"] == pytest.approx(start["forward_kl"].cast(float).mean())
    gain = start["forward_kl"].cast(float) - last["forward_kl"].cast(float)
    assert whole["gain"] == pytest.approx(gain.mean())
    bins = tables.teachability.filter(group="all", feature="divergence", kl="forward_kl")
    assert bins["bin_high"].max() == pytest.approx(first["forward_kl"].max())
    matched = tables.teachability_contrast.filter(contrast="matched")
    assert matched["p"].null_count() == 0
    assert not any("regression" in (why or "") for why in matched["reason"])


def test_with_two_checkpoints_nothing_is_tested_and_the_reason_says_so(found):
    for table in (found.teachability_contrast, found.teachability_selectors):
        assert table["p"].null_count() == table.height
    for row in found.teachability_contrast.iter_rows(named=True):
        assert "regression to the mean not excluded" in row["reason"]
    asked = {one.question: one for one in findings(*tables_asked(found))}
    one = asked["compatibility-matters"]
    assert one.p is None
    assert one.answer(None) == "not asked"
    assert "regression to the mean not excluded" in one.reason
    assert asked["selector-beats-divergence"].p is None


def test_a_selector_that_surely_captures_less_does_not_beat_divergence(three):
    tables = dict(zip(needed_tables(findings), tables_asked(teachability(*three[:2])), strict=True))
    rows = tables["teachability_selectors"].with_columns(over_divergence=-0.1, p_adjusted=0.001)
    (one,) = (
        f for f in findings(**tables | {"teachability_selectors": rows}) if "beats" in f.question
    )
    assert (one.p, one.difference) == (1, -0.1)
    more = rows.with_columns(over_divergence=0.1)
    (one,) = (
        f for f in findings(**tables | {"teachability_selectors": more}) if "beats" in f.question
    )
    assert one.p == 0.001


def tables_asked(found):
    return [getattr(found, name) for name in needed_tables(findings)]


def test_the_table_of_kl_is_that_of_the_rows(three):
    table = teachability(three.tokens, three.rollouts).teachability_kl
    first = three.tokens.filter(checkpoint="a").join(three.rollouts, on="rollout")
    for row in table.iter_rows(named=True):
        kl = row["kl"]
        now = three.tokens.filter(checkpoint=row["checkpoint"])[kl].cast(float)
        rows = first.with_columns(now=now, change=now - pl.col(kl).cast(float))
        if row["group"] != "all":
            rows = rows.filter(correct=row["group"] == "correct")
        assert row["n"] == rows.height
        assert row["mean"] == pytest.approx(rows["now"].mean())
        if row["checkpoint"] == "a":
            assert row["change"] is None
            assert row["reason"] == "the first checkpoint: nothing to compare with"
            continue
        assert row["change"] == pytest.approx(rows["change"].mean())
        share = rows["change"].sum() / rows[kl].cast(float).sum()
        assert row["relative"] == pytest.approx(share)
        large = rows.filter(pl.col(kl) > 0.01)
        median = (large["change"] / large[kl].cast(float)).median()
        assert row["relative_median"] == pytest.approx(median)


def test_the_direction_that_fell_leads_unless_another_is_asked_for(three):
    rose = pl.when(pl.col("checkpoint") == "c").then(pl.col("reverse_kl") * 3)
    tokens = three.tokens.with_columns(reverse_kl=rose.otherwise("reverse_kl"))
    for options, lead in (
        ({}, "forward_kl"),
        ({"kl": "reverse_kl"}, "reverse_kl"),
        ({"kl": "forward_kl"}, "forward_kl"),
    ):
        tables = teachability(tokens, three.rollouts, **options)
        assert {table["kl"][0] for table in tables if "kl" in table} == {lead}
        assert f"gain in KL({'student' if lead == 'reverse_kl' else 'teacher'}" in "\n".join(
            summary_lines(tables)
        )
    with pytest.raises(OptionError, match="kl: 'js'; expected one of auto, forward_kl, reverse_kl"):
        teachability(tokens, three.rollouts, kl="js")


def test_findings_are_found_where_they_were_planted_and_nowhere_else():
    run = teachable_run(prompts=48, samples=2, tokens=80, sigma=2.0, compatibility=0.2,
                        checkpoints=("a", "b", "c"))  # fmt: skip
    asked = {one.question: one for one in findings(*tables_asked(teachability(*run[:2])))}
    assert list(asked) == [
        key for key, question in QUESTIONS.items() if question.analysis == "teachability"
    ]
    for one in asked.values():
        assert one.margin > 0
        assert one.n_prompts == 48
    for name in ("reverse-kl-fell", "forward-kl-fell", "compatibility-matters"):
        assert asked[name].answer(4 * asked[name].p) == "yes"
    null = ugly_run(seed=3, prompts=40, tokens=60, sigma=2.0, zeros=0.7, prompt_effect=0.5)
    for one in findings(*tables_asked(teachability(*null[:2]))):
        assert one.answer(one.p) != "yes"


def test_exchangeable_snapshots_are_seldom_told_apart():
    """Share of p at most 0.05 over 20 nulls of three snapshots and four tests each."""
    p = []
    for seed in range(20):
        run = ugly_run(seed=seed, prompts=24, tokens=40, sigma=2.0, zeros=0.5, snapshots=0.5)
        asked = findings(*tables_asked(teachability(*run[:2])))
        p += [one.p for one in asked if one.p is not None]
    assert len(p) >= 60
    assert (np.array(p) <= 0.05).sum() <= scipy.stats.binom.ppf(1 - 1e-4, len(p), 0.06)


def test_a_policy_and_a_step_choose_rollouts(data):
    half = pl.when(pl.col("rollout") < 14).then(pl.lit("x")).otherwise(pl.lit("y"))
    rollouts = data.rollouts.with_columns(policy=half)
    chosen = teachability(data.tokens, rollouts, policy="x")
    kept = teachability(
        data.tokens.filter(pl.col("rollout") < 14), rollouts.filter(pl.col("rollout") < 14)
    )
    for left, right in zip(chosen, kept, strict=True):
        assert left.equals(right)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"within": "rollout"}, "within: 'rollout'; expected one of run, prompt"),
        ({"trained_steps": (1,)}, "trained_steps: .1.; expected two training steps"),
        ({"trained_steps": (5, 5)}, "trained_steps: .5, 5.; expected .* the second later"),
        ({"noise_floor": -1e-9}, "noise_floor: -1e-09; expected a number from 0, in nat"),
        ({"noise_floor": float("nan")}, "noise_floor: nan; expected a number from 0"),
        ({"seed": -1}, "seed: -1; expected 0 or more"),
        ({"k": 3}, "k: 3; expected one of 2, 4, 8, 16, 32, 64"),
        ({"divergence": "js"}, "divergence: 'js'; expected one of full, union"),
        ({"scale": "z"}, "scale: 'z'"),
    ],
)
def test_unknown_choices_are_refused(data, options, message):
    with pytest.raises(OptionError, match=message):
        teachability(data.tokens, data.rollouts, **options)


def test_other_tokens_under_the_second_checkpoint_are_refused(data):
    with pytest.raises(TableError, match="expected the same tokens, one to one"):
        teachability(data.tokens[:-1], data.rollouts)
    with pytest.raises(TableError, match="tokens: no column 'overlap'; expected it"):
        teachability(data.tokens.drop("overlap"), data.rollouts)


def test_the_summary_describes_with_intervals_and_controls(found):
    lines = summary_lines(found)
    text = "\n".join(lines)
    assert len(lines) <= 12
    row = found.teachability_kl.filter(checkpoint="step1", kl="forward_kl", group="all")
    assert f"change {row['change'].item():.3g} nat" in text
    pairs = found.teachability_contrast.filter(contrast="matched", kl="forward_kl")
    assert f"{pairs['n_pairs'].item():,} pairs alike" in text
    assert "regression to the mean not excluded" in text
    assert "rock-free: no result 'rock_tokens'" in text
    assert "under any change of the student" in text


def test_five_prompts_are_needed_for_an_interval():
    few = teachable_run(prompts=4, samples=2, tokens=40)
    found = teachability(few.tokens, few.rollouts)
    whole = found.teachability.filter(group="all", feature="all")
    assert whole["reason"].to_list() == ["too few prompts"] * 2
    assert whole["gain_low"].null_count() == 2
    base = found.teachability_models.filter(model="base")
    assert base["coefficient_low"].null_count() == base.height
    assert any("too few prompts" in line for line in summary_lines(found))
