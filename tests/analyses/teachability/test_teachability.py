import re

import polars as pl
import pytest

from opd_diag.analyses.teachability import summary_lines, teachability
from opd_diag.analyses.teachability.options import before_and_after
from opd_diag.datasets import save_run, teachable_run
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
        assert table["checkpoint"].unique().to_list() == ["step1"]
        assert table["features_from"].unique().to_list() == ["step0"]


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
    with pytest.raises(
        OptionError, match="features_from: 'step1'; expected 'step0'.*have seen the gain"
    ):
        teachability(data.tokens, data.rollouts, features_from="step1")
    with pytest.raises(OptionError, match="features_from: 'step9'"):
        teachability(data.tokens, data.rollouts, features_from="step9")


def test_checkpoints_are_chosen_by_name(data):
    middle = names(data, step0="middle").filter(pl.col("checkpoint") == "middle")
    one, other = data.tokens.partition_by("checkpoint", maintain_order=True)
    three = pl.concat([one, middle, other])
    source = as_source(three, data.rollouts)
    found = {
        wanted: before_and_after(source, wanted, None)
        for wanted in (None, "middle", "step1", ("middle", "step1"), ("step1", "middle"), "step0")
    }
    assert found == {
        None: ("step0", "step1"),
        "middle": ("step0", "middle"),
        "step1": ("step0", "step1"),
        ("middle", "step1"): ("middle", "step1"),
        ("step1", "middle"): ("middle", "step1"),  # the order of the run, whatever was asked
        "step0": ("step0", None),
    }
    for wanted, number in ((("step0", "middle", "step1"), 3), ((), 0)):
        with pytest.raises(OptionError, match=f"checkpoint: {number} names; expected the one aft"):
            teachability(three, data.rollouts, checkpoint=wanted)
    with pytest.raises(TableError, match="checkpoint: no 'step9'; expected one of step0, middle"):
        teachability(three, data.rollouts, checkpoint="step9")
    table = teachability(three, data.rollouts, checkpoint="middle").teachability
    assert table.select("features_from", "checkpoint").row(0) == ("step0", "middle")


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
        ({"seed": -1}, "seed: -1; expected at least 0"),
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


def test_the_summary_gives_the_answer_with_its_controls(found):
    text = "\n".join(summary_lines(found))
    gain = found.teachability.filter(group="all", feature="all", kl="forward_kl")["gain"].item()
    assert f"fell by {gain:.4f} nat" in text
    pairs = found.teachability_contrast.filter(contrast="matched", kl="forward_kl")
    assert "compatible tokens gain more" in text
    assert f"{pairs['n_pairs'].item():,} matched pairs" in text
    assert "Descriptive: this is no test of compatibility." in text
    assert "not known from policy and step" in text
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


def test_a_kl_that_rose_is_said_to_have_risen(data):
    order = ["step1", "step0"]
    turned = data.tokens.sort(
        pl.col("checkpoint").replace_strict(order, [0, 1]), maintain_order=True
    )
    fell, rose = (
        summary_lines(teachability(tokens, data.rollouts))[0] for tokens in (data.tokens, turned)
    )
    assert "fell by" in fell
    assert "rose by" in rose
    amount = re.compile(r"(?:fell|rose) by ([0-9.]+) nat \[([0-9.]+), ([0-9.]+)\]")
    low_to_high = [float(number) for number in amount.search(rose).groups()]
    assert low_to_high[1] < low_to_high[0] < low_to_high[2]
    assert amount.search(fell).group(1) == amount.search(rose).group(1)
