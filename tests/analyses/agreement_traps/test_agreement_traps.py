"""The public function: planted stretches found, nulls not found, bad input refused."""

import numpy as np
import polars as pl
import pytest
import scipy.stats
from polars.testing import assert_frame_equal

from opd_diag.analyses.agreement_traps import agreement_traps, summary_lines
from opd_diag.analyses.agreement_traps.checkpoint import read_checkpoint, sample_prompts
from opd_diag.analyses.agreement_traps.cuts import trap_cuts
from opd_diag.analyses.agreement_traps.options import Options
from opd_diag.analyses.agreement_traps.shuffles import shuffled_rules, shuffles, steady_course
from opd_diag.analyses.agreement_traps.summary import trap_summary
from opd_diag.datasets import null_run, save_run, trap_run
from opd_diag.errors import OptionError, TableError
from opd_diag.tables.columns.agreement_traps import TABLES
from opd_diag.tables.columns.release_points import RELEASE_POINTS
from opd_diag.tables.schema import check_table, empty_table
from opd_diag.tables.source import as_source


def measure(found, name, group="all", checkpoint="step0"):
    rows = found.trap_summary.filter(measure=name, group=group, checkpoint=checkpoint)
    return rows.row(0, named=True)


def phase(found, quantity, name, split="all", group="all", checkpoint="step0"):
    rows = found.trap_phases.filter(
        quantity=quantity, phase=name, split=split, group=group, checkpoint=checkpoint
    )
    return rows.row(0, named=True)


def compared(found, signal, rule):
    rows = found.trap_cuts.filter("is_setting", signal=signal, rule=rule, checkpoint="step0")
    return rows.row(0, named=True)


@pytest.fixture(scope="module")
def data():
    return trap_run(seed=1)


@pytest.fixture(scope="module")
def found(data):
    return agreement_traps(data.tokens, data.rollouts, draws=10)


@pytest.fixture(scope="module")
def short():
    return null_run(prompts=12, samples=2, tokens=90, seed=3)


def test_every_table_passes_its_schema(found):
    for name, table in found._asdict().items():
        check_table(table, TABLES[name], name)
        assert table["checkpoint"].unique(maintain_order=True).to_list() == ["step0", "step1"]


def test_planted_stretches_are_found_at_the_right_token(data):
    # Windows are at 0.28 outside and 0.014 inside: half-way down, 0.15, a window is half inside.
    rows = agreement_traps(
        data.tokens, data.rollouts, checkpoint="step0", threshold=0.05, draws=1
    ).agreement_traps.join(data.truth["onset"], on="rollout", how="left")
    planted = rows.filter(pl.col("onset").is_not_null())
    assert planted["triggered"].all()
    assert not rows.filter(pl.col("onset").is_null())["triggered"].any()
    off = planted["cut_token"].cast(pl.Int64) - planted["onset"].cast(pl.Int64)
    assert off.abs().max() <= 32
    length = planted["n_agreement"].cast(pl.Int64)
    assert (length - 150).abs().max() <= 64


def test_planted_stretches_stand_out_from_shuffled_tokens(found):
    stay, run = measure(found, "windows_below_after"), measure(found, "longest_run")
    assert stay["ratio_low"] > 1
    assert run["ratio_low"] > 1
    assert run["observed"] > 1.5 * run["shuffled"]
    assert (
        phase(found, "gain_forward_kl", "agreement")["value_high"]
        < phase(found, "gain_forward_kl", "pre")["value_low"]
    )
    gain = compared(found, "gain_forward_kl", "shuffled KL")
    assert gain["difference_low"] > 0
    assert compared(found, "grad_logits_other", "shuffled KL")["difference_low"] > 0


def test_low_kl_is_told_apart_by_outcome_and_repetition(data, found):
    rows = found.agreement_traps.filter(checkpoint="step0").join(data.truth["onset"], on="rollout")
    bad, good = rows.filter("degenerate"), rows.filter(~pl.col("degenerate"))
    assert bad["repeats"].all()
    assert not good["repeats"].any()
    both = measure(found, "wrong_and_repeats", "triggered")
    fired = found.agreement_traps.filter(pl.col("checkpoint") == "step0", pl.col("triggered"))
    expected = fired.filter(~pl.col("correct") & pl.col("repeats")).height / fired.height
    assert both["value"] == pytest.approx(expected)
    assert both["n"] == fired.height
    repeats = phase(found, "in_repeat", "agreement", "repeat", "repeats")
    assert repeats["value_low"] > 0.3
    assert phase(found, "in_repeat", "agreement", "repeat", "no repeats")["value"] == 0
    text = " ".join(summary_lines(found))
    assert "Low KL is also what training wants" in text
    assert "a setting, no finding" in measure(found, "prevalence")["note"]


def test_tables_agree_with_a_look_at_the_tokens(data, found):
    rows = found.agreement_traps.filter(checkpoint="step0")
    tokens = data.tokens.filter(checkpoint="step0").join(
        rows.select("rollout", "triggered", "cut_token", "n_agreement"), on="rollout"
    )
    place = pl.col("position").cast(pl.Int64) - pl.col("cut_token")
    inside = tokens.filter("triggered", place >= 0, place < pl.col("n_agreement"))
    mine = phase(found, "reverse_kl", "agreement")
    assert mine["value"] == pytest.approx(inside["reverse_kl"].cast(pl.Float64).mean(), rel=1e-9)
    assert mine["n"] == inside.height
    advantage = (inside["teacher_logp"] - inside["student_logp"]).cast(pl.Float64)
    spread = phase(found, "advantage_std", "agreement")
    assert spread["value"] == pytest.approx(advantage.std(ddof=0), rel=1e-9)
    assert spread["value_low"] < spread["value"] < spread["value_high"]
    top = inside["teacher_top_logp"].cast(pl.Float64).exp().mean()
    assert phase(found, "teacher_top_prob", "agreement")["value"] == pytest.approx(top, rel=1e-6)
    overlap = inside["overlap"].arr.get(3).mean()
    assert phase(found, "overlap", "agreement")["value"] == pytest.approx(overlap, rel=1e-6)
    kept = tokens.filter(~pl.col("triggered") | (place < 0))
    assert measure(found, "tokens_saved")["value"] == pytest.approx(1 - kept.height / tokens.height)
    own = compared(found, "reverse_kl", "prefix, same share")
    assert own["kept"] == pytest.approx(kept["reverse_kl"].cast(pl.Float64).mean(), rel=1e-9)
    assert own["tokens_kept"] == pytest.approx(kept.height / tokens.height)
    # The same share of equally long rollouts is their first tokens.
    first = tokens.filter(pl.col("position") < round(500 * own["tokens_kept"]))
    assert own["rule_kept"] == pytest.approx(first["reverse_kl"].mean(), rel=0.02)


@pytest.mark.parametrize("split", ["correct", "finish_reason", "repeat"])
def test_splits_part_the_rollouts(split, data, found):
    rows = found.trap_phases.filter(checkpoint="step0", quantity="reverse_kl")
    parts = rows.filter(split=split).group_by("phase").agg(pl.col("n", "n_rollouts").sum())
    whole = rows.filter(split="all").select("phase", "n", "n_rollouts")
    assert_frame_equal(
        parts.sort("phase"), whole.sort("phase"), check_dtypes=False, check_column_order=False
    )
    assert rows.filter(split=split)["group"].n_unique() > 1


@pytest.mark.parametrize(
    ("split", "group", "mine"),
    [
        ("correct", "correct", pl.col("correct")),
        ("correct", "wrong", ~pl.col("correct")),
        ("finish_reason", "length", pl.col("finish_reason") == "length"),
        ("repeat", "repeats", pl.col("repeats")),
    ],
)
def test_a_group_holds_its_own_rollouts(split, group, mine, found):
    rows = found.agreement_traps.filter(mine, pl.col("triggered"), checkpoint="step0")
    own = phase(found, "reverse_kl", "agreement", split, group)
    assert own["n_rollouts"] == rows.height
    assert own["n"] == rows["n_agreement"].sum()
    total = (rows["kl_agreement"] * rows["n_agreement"]).sum()
    assert own["value"] == pytest.approx(total / rows["n_agreement"].sum())


def test_what_falls_after_the_cut(data, found):
    rows = found.agreement_traps.filter(checkpoint="step0").select("rollout", "cut_token")
    first, last = (data.tokens.filter(checkpoint=name) for name in ("step0", "step1"))
    tokens = first.with_columns(gain=first["forward_kl"] - last["forward_kl"]).join(rows, "rollout")
    after = tokens.filter(pl.col("position") >= pl.col("cut_token"))
    for name, column in (
        ("kl", "reverse_kl"),
        ("grad_logits", "grad_logits"),
        ("gain_forward_kl", "gain"),
    ):
        share = after[column].cast(pl.Float64).sum() / tokens[column].cast(pl.Float64).sum()
        assert measure(found, f"{name}_after_cut")["value"] == pytest.approx(share)
    onset = rows["cut_token"].drop_nulls().mean()
    assert measure(found, "onset_tokens")["value"] == pytest.approx(onset)


def test_longer_rollouts_have_quarters_of_their_own(data):
    tokens = data.tokens.filter(
        pl.col("position") < 100 + 4 * pl.col("rollout"), checkpoint="step0"
    )
    found = agreement_traps(tokens, data.rollouts, draws=1)
    rows = found.trap_summary.filter(pl.col("group").str.starts_with("quarter"))
    assert rows["group"].to_list() == [
        f"quarter {i + 1}: {100 + 96 * i}-{192 + 96 * i} tokens" for i in range(4)
    ]
    fired = found.agreement_traps.sort("n_tokens")["triggered"].cast(pl.Float64).to_numpy()
    np.testing.assert_allclose(rows["value"], fired.reshape(4, 24).mean(axis=1))
    assert rows["note"].str.contains("more chances").all()


def test_the_grid_holds_what_a_call_with_its_numbers_finds(data, found):
    grid = found.trap_sensitivity.filter(checkpoint="step0")
    own = grid.filter("is_setting").row(0, named=True)
    run = measure(found, "longest_run")
    assert own["prevalence"] == pytest.approx(measure(found, "prevalence")["value"])
    assert own["longest_run"] == pytest.approx(run["observed"])
    options = {"window": 32, "eta": 0.5, "consecutive": 16, "grace": 64}
    other = agreement_traps(data.tokens, data.rollouts, checkpoint="step0", draws=1, **options)
    row = grid.filter(**options).row(0, named=True)
    assert row["prevalence"] == pytest.approx(measure(other, "prevalence")["value"])
    kept = 1 - measure(other, "tokens_saved")["value"]
    assert row["tokens_kept"] == pytest.approx(kept)
    assert row["longest_run"] == pytest.approx(measure(other, "longest_run")["observed"])
    gain = compared(other, "gain_forward_kl", "shuffled KL")
    assert row["signal_kept"] == pytest.approx(gain["kept"] / gain["all_tokens"])


def test_a_rule_without_a_threshold_has_no_row_of_the_grid(data):
    # Ten rollouts alone hold a window of 128 tokens: too few others for a threshold.
    tokens = data.tokens.filter((pl.col("position") < 120) | (pl.col("rollout") < 10))
    grid = agreement_traps(tokens, data.rollouts, checkpoint="step0", draws=1).trap_sensitivity
    long, short = grid.filter(window=128), grid.filter(window=64)
    assert set(long["n"]) == {0}
    for name in ("prevalence", "tokens_kept", "longest_run"):
        assert long[name].is_null().all()
        assert short[name].is_not_null().all()
    assert set(short["n"]) == {data.rollouts.height}


def test_a_stretch_ends_at_a_position_whatever_is_not_measured_in_it(data):
    gone = pl.struct("rollout", "position").hash(3) % 20
    kl = pl.when(gone != 0).then("reverse_kl").cast(pl.Float32)
    tokens = data.tokens.with_columns(reverse_kl=kl, in_loss=gone != 1)
    rows = agreement_traps(tokens, data.rollouts, checkpoint="step0", draws=1).agreement_traps
    fired = rows.filter("triggered")
    assert fired.height > 20
    seen = tokens.filter("in_loss", pl.col("reverse_kl").is_not_null(), checkpoint="step0")
    inside = seen.join(fired, on="rollout").filter(
        pl.col("position").is_between("cut_token", "stretch_end_token")
    )
    counted = inside.group_by("rollout").agg(pl.len(), pl.col("position").max())
    both = fired.join(counted, on="rollout")
    assert both["len"].to_list() == both["n_agreement"].to_list()
    assert both["position"].to_list() == both["stretch_end_token"].to_list()
    span = both["stretch_end_token"].cast(pl.Int64) - both["cut_token"].cast(pl.Int64) + 1
    assert (span > both["n_agreement"]).any()
    assert rows.filter(~pl.col("triggered"))["stretch_end_token"].is_null().all()


def test_no_text_calls_a_token_trapped(found):
    texts = [column.meaning for columns in TABLES.values() for column in columns]
    texts += [name for table in found for name in table.columns]
    texts += [
        text
        for table in found
        for column in table.select(pl.col(pl.String)).iter_columns()
        for text in column.drop_nulls().unique()
    ]
    texts += summary_lines(found)
    assert not [text for text in texts if "trapped" in text.lower()]


def test_under_noise_observed_over_shuffled_covers_1():
    names = ("prevalence", "windows_below_after", "longest_run", "kl_per_token_kept")
    signals = (
        "reverse_kl",
        "grad_logits",
        "gain_reverse_kl",
        "gain_forward_kl",
        "grad_logits_other",
        "correct",
    )
    hits = dict.fromkeys((*names, *signals), 0)
    seeds = range(20)
    for seed in seeds:
        summary, cuts = noise(seed)
        for row in summary.filter(pl.col("measure").is_in(names), group="all").iter_rows(
            named=True
        ):
            hits[row["measure"]] += row["ratio_low"] <= 1 <= row["ratio_high"]
        for row in cuts.filter(rule="shuffled KL").iter_rows(named=True):
            hits[row["signal"]] += row["difference_low"] <= 0 <= row["difference_high"]
    # With 92 % coverage so few hits come once in a thousand.
    least = scipy.stats.binom.ppf(0.001, len(seeds), 0.92)
    assert all(count >= least for count in hits.values()), hits


def noise(seed):
    """Make the two tables that compare noise with shuffled noise, and no more."""
    data = null_run(tokens=200, checkpoints=("step0", "step1"), seed=seed)
    options = Options(draws=10, seed=seed)
    rule = options.rule
    found = read_checkpoint(as_source(data.tokens, data.rollouts), "step0", data.rollouts, options)
    observed = found.cuts._make(field[found.sample] for field in found.cuts)
    shuffled = shuffled_rules(
        {name: quantity.sample for name, quantity in found.quantities.items()},
        found.sample_lengths,
        found.sample_thresholds([rule]),
        {rule: int(observed.kept.sum())},
        block=1,
        draws=10,
        seed=seed,
    )
    cuts = trap_cuts(found, {rule: observed}, shuffled, None)
    return trap_summary(found, shuffled[rule]), cuts


def test_shuffles_move_tokens_inside_their_rollout_only():
    lengths = np.array([3, 0, 5, 1])
    rollout = np.repeat(np.arange(4), lengths)
    orders = list(shuffles(lengths, block=1, draws=50, seed=0))
    for order in orders:
        assert np.array_equal(rollout[order], rollout)
        assert np.array_equal(np.sort(order), np.arange(9))
    # Every order of three is as likely: 50 draws miss one of the six once in 1,500.
    assert len({tuple(order[:3]) for order in orders}) == 6


def test_shuffles_keep_blocks_together():
    lengths = np.array([40, 7, 0, 64])
    rollout = np.repeat(np.arange(4), lengths)
    for order in shuffles(lengths, block=16, draws=50, seed=0):
        assert np.array_equal(rollout[order], rollout)
        assert np.array_equal(np.sort(order), np.arange(111))
        # Neighbours part only between blocks: at most one more than 40 / 16, 7 / 16 and 64 / 16.
        parted = (np.diff(order) != 1).sum()
        assert parted <= 3 + 1 + 4 + 2
    first = [order[:7] for order in shuffles(lengths[1:2], block=16, draws=50, seed=0)]
    assert len({tuple(one) for one in first}) > 3  # where the first block ends is drawn


def test_a_steady_fall_is_fitted_and_heavy_tails_do_not_carry_it_off():
    rng = np.random.default_rng(0)
    lengths = rng.integers(100, 300, 200)
    place = np.concatenate([(np.arange(n) + 0.5) / n for n in lengths])
    level = np.repeat(np.exp(rng.normal(size=200)), lengths)
    kl = level * np.exp(-2 * place + 1.5 * rng.normal(size=place.size))
    kl *= rng.random(place.size) < 0.5
    slope = np.polyfit(place, np.log(steady_course(kl, lengths)), 1)[0]
    assert slope == pytest.approx(-2, abs=0.1)
    assert steady_course(np.zeros(20), np.array([20])).tolist() == [1] * 20


def test_the_control_holds_whole_prompts():
    prompt = np.repeat(np.arange(30), 5)
    eligible = np.flatnonzero(np.arange(150) % 7 > 0)
    sample = sample_prompts(eligible, prompt, most=40, seed=0)
    assert 30 < sample.size <= 40
    whole = eligible[np.isin(prompt[eligible], prompt[sample])]
    assert np.array_equal(sample, whole)
    assert np.array_equal(sample_prompts(eligible, prompt, most=150, seed=0), eligible)


def test_the_order_of_rows_changes_nothing(short):
    options = {"window": 16, "draws": 2}
    found = agreement_traps(short.tokens, short.rollouts, **options)
    mixed = short.tokens.sample(fraction=1.0, shuffle=True, seed=0)
    again = agreement_traps(mixed.lazy(), short.rollouts.reverse(), **options)
    for one, other in zip(found, again, strict=True):
        assert_frame_equal(one, other)


def test_only_tokens_in_the_loss_count_and_missing_kl_is_told(short):
    masked = pl.col("position") % 3 == 1
    lost = (pl.col("rollout") == 2) & (pl.col("position") == 9)
    kl = pl.when(masked).then(pl.lit(1e6, pl.Float32)).otherwise("reverse_kl")
    tokens = short.tokens.with_columns(
        in_loss=~masked, reverse_kl=pl.when(lost).then(None).otherwise(kl)
    )
    rows = agreement_traps(tokens, short.rollouts, window=16, draws=1).agreement_traps
    assert rows["n_tokens"].to_list() == [60 - (i == 2) for i in range(24)]
    assert rows["n_missing"].to_list() == [int(i == 2) for i in range(24)]
    dropped = tokens.filter("in_loss", pl.col("reverse_kl").is_not_null())
    alone = agreement_traps(dropped, short.rollouts, window=16, draws=1).agreement_traps
    assert_frame_equal(rows.drop("n_missing"), alone.drop("n_missing"))


def test_what_cannot_be_judged_has_a_reason(short):
    cut = pl.when(pl.col("rollout") < 3).then(40).otherwise(90)
    tokens = short.tokens.filter(pl.col("position") < cut)
    found = agreement_traps(tokens, short.rollouts, draws=1)
    reasons = found.agreement_traps["reason"].to_list()
    # Two rollouts of the same prompt leave 22 others, less the three short ones: 19 or 20.
    assert reasons[:3] == ["too short"] * 3
    assert set(reasons[4:]) == {"too few others"}
    assert found.agreement_traps["triggered"].null_count() >= 23
    assert measure(found, "too_short")["value"] == pytest.approx(3 / 24)
    for name, table in found._asdict().items():
        check_table(table, TABLES[name], name)
    assert any("3 too short" in line for line in summary_lines(found))


def test_nothing_at_all_can_be_judged(short):
    tokens = short.tokens.filter(pl.col("position") < 20)
    found = agreement_traps(tokens, short.rollouts)
    assert found.agreement_traps["reason"].to_list() == ["too short"] * 24
    assert found.trap_phases.is_empty()
    assert measure(found, "prevalence")["value"] is None
    assert found.trap_trace.is_empty()
    for name, table in found._asdict().items():
        check_table(table, TABLES[name], name)
    assert "fires on 0 of 0 rollouts, 24 too short" in summary_lines(found)[0]


def test_thresholds_of_another_checkpoint_or_a_number(data):
    common = {"draws": 1, "control_rollouts": 40}
    own = agreement_traps(data.tokens, data.rollouts, **common).agreement_traps
    lent = agreement_traps(
        data.tokens, data.rollouts, checkpoint="step1", threshold="step0", **common
    )
    expected = own.filter(checkpoint="step0")["threshold"]
    assert lent.agreement_traps["threshold"].to_list() == expected.to_list()
    note = measure(lent, "prevalence", checkpoint="step1")["note"]
    assert "at 'step0'" in note
    given = agreement_traps(data.tokens, data.rollouts, threshold="0.1", **common)
    assert set(given.agreement_traps["threshold"]) == {0.1}
    assert given.trap_cuts["eta"].null_count() == given.trap_cuts.height
    assert measure(given, "too_short")["n"] == 96
    assert measure(given, "prevalence")["n_control"] <= 40


def test_one_checkpoint_has_no_gain_and_says_so(short):
    found = agreement_traps(short.tokens, short.rollouts, window=16, draws=1)
    assert measure(found, "gain_forward_kl_after_cut")["note"] == "needs a second checkpoint"
    row = compared(found, "gain_forward_kl", "prefix, same share")
    assert row["difference"] is None
    assert row["reason"] == "needs a second checkpoint"
    assert "release-points" in compared(found, "grad_logits", "release points")["reason"]
    assert set(found.trap_sensitivity["signal"]) == {"grad_logits"}


def test_release_points_of_the_run_are_compared(tmp_path, short):
    run = save_run(short, tmp_path)
    end = pl.when(pl.col("rollout") % 2 == 0).then(pl.lit(30, pl.UInt32))
    points = empty_table(RELEASE_POINTS).join(short.rollouts.select("rollout"), "rollout", "right")
    required = {"n_segments": 9, "n_tokens": 90, "accepted": True, "scale": 1.0, "prompt_id": "p"}
    points = points.with_columns(
        *(pl.lit(v).cast(points.schema[k]).alias(k) for k, v in required.items()),
        checkpoint=pl.lit("step0"),
        release_token=end,
    )
    run.save({"release_points": points}, arguments={})
    found = agreement_traps(run, draws=1, window=16)
    row = compared(found, "grad_logits", "release points")
    assert row["rule_tokens_kept"] == pytest.approx((30 + 90) / 180)
    assert row["difference"] is not None
    assert run.save(found._asdict(), arguments={})


def test_the_rollout_to_trace_can_be_chosen(data):
    found = agreement_traps(data.tokens, data.rollouts, checkpoint="step0", trace=7, draws=1)
    trace = found.trap_trace
    assert set(trace["rollout"]) == {7}
    mean = trace["kl"].rolling_mean(64)
    np.testing.assert_allclose(trace["mean_kl"][63:], mean[63:], rtol=1e-6)
    row = found.agreement_traps.filter(rollout=7).row(0, named=True)
    assert trace["mean_kl"].min() == pytest.approx(row["least_kl"])
    if row["triggered"]:
        assert trace.filter(phase="agreement")["position"][0] == row["cut_token"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "online"}, OptionError, "mode: 'online'; expected run or replay"),
        ({"update": "token"}, OptionError, "update: 'token'; expected step or rollout"),
        ({"eta": 1.0}, OptionError, "eta: 1.0; expected more than 0"),
        ({"eta": float("nan")}, OptionError, "eta: nan; expected more than 0"),
        ({"window": 0}, OptionError, "window: 0; expected 1 or more"),
        ({"consecutive": 0}, OptionError, "consecutive: 0; expected 1 or more"),
        ({"grace": -1}, OptionError, "grace: -1; expected 0 or more"),
        ({"buffer": 0}, OptionError, "buffer: 0; expected 1 or more"),
        ({"warmup_rollouts": -1}, OptionError, "warmup_rollouts: -1; expected 0 or more"),
        ({"warmup_steps": -1}, OptionError, "warmup_steps: -1; expected 0 or more"),
        ({"repeat_ngram": 0}, OptionError, "repeat_ngram: 0; expected 1 to 32"),
        ({"repeat_ngram": 33}, OptionError, "repeat_ngram: 33; expected 1 to 32"),
        ({"control_rollouts": 0}, OptionError, "control_rollouts: 0; expected 1 or more"),
        ({"draws": 0}, OptionError, "draws: 0; expected 1 or more"),
        ({"block": 0}, OptionError, "block: 0; expected 1 or more"),
        ({"seed": -1}, OptionError, "seed: -1; expected 0 or more"),
        ({"threshold": -0.1}, OptionError, "threshold: -0.1; expected a number above 0"),
        ({"threshold": "step9"}, OptionError, "threshold: 'step9'; expected a number"),
        ({"threshold": "nan"}, OptionError, "threshold: 'nan'"),
        ({"threshold": 0.1, "mode": "replay"}, OptionError, "leaves nothing to replay"),
        ({"policy": "other"}, TableError, "policy: no rollouts of 'other'; expected one of step0"),
        ({"step": 7}, TableError, "step: no rollouts of 7; expected one of 0"),
        ({"checkpoint": "x"}, TableError, "checkpoint: no 'x'"),
        ({"trace": 999}, TableError, "trace: no rollout 999"),
    ],
)
def test_bad_options_are_refused(short, options, error, message):
    with pytest.raises(error, match=message):
        agreement_traps(short.tokens, short.rollouts, **{"window": 16, "draws": 1} | options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, r: (t.drop("repeat"), r), "no column 'repeat'"),
        (lambda t, r: (pl.concat([t, t]), r), "occurs twice"),
        (lambda t, r: (t, r[1:]), "rollout 0 is not in the rollouts table"),
        (
            lambda t, r: (
                pl.concat([t, t[1:].with_columns(checkpoint=pl.lit("b"))]),
                r,
            ),
            "expected the same tokens, one to one",
        ),
    ],
)
def test_tables_that_do_not_fit_are_refused(short, change, message):
    tokens, rollouts = change(short.tokens, short.rollouts)
    with pytest.raises(TableError, match=message):
        agreement_traps(tokens, rollouts, window=16, draws=1)


def test_a_replay_needs_all_steps_or_none(short):
    some = pl.when(pl.col("rollout") > 0).then("step")
    with pytest.raises(TableError, match="1 without a training step"):
        agreement_traps(short.tokens, short.rollouts.with_columns(step=some), mode="replay")
    none = short.rollouts.with_columns(step=pl.lit(None, pl.Int64))
    found = agreement_traps(
        short.tokens, none, mode="replay", update="rollout", warmup_rollouts=5, warmup_steps=0,
        window=16, draws=1,
    )  # fmt: skip
    assert found.agreement_traps["reason"].to_list() == ["warm-up"] * 5 + [None] * 19
