"""The two answers: their tables against plain counts, planted effects found, nulls not."""

import numpy as np
import polars as pl
import pytest
import scipy.stats

from opd_diag.analyses.agreement_traps import agreement_traps
from opd_diag.analyses.agreement_traps.checkpoint import read_checkpoint
from opd_diag.analyses.agreement_traps.findings import findings
from opd_diag.analyses.agreement_traps.options import Options
from opd_diag.analyses.agreement_traps.outcomes import trap_outcomes
from opd_diag.analyses.agreement_traps.persistence import shuffled_blocks, trap_persistence
from opd_diag.analyses.agreement_traps.shuffles import shuffled_cuts
from opd_diag.datasets import trap_run
from opd_diag.datasets.nulls import NULLS, ugly_run
from opd_diag.tables.columns.agreement_traps import AT_TRIGGER, CRUDE, LANDMARK, WITHIN
from opd_diag.tables.source import as_source, choose_rollouts


def two_tables(data, **options):
    """Make the tables that findings reads, and no more."""
    chosen = Options(**options)
    source = as_source(data.tokens, data.rollouts)
    rollouts = choose_rollouts(source.rollouts)
    checkpoint = read_checkpoint(source, source.checkpoints[0], rollouts, chosen)
    drawn = shuffled_cuts(
        checkpoint.sample_kl,
        checkpoint.sample_lengths,
        [chosen.rule],
        checkpoint.sample_thresholds([chosen.rule]),
        block=chosen.block,
        draws=chosen.draws,
        seed=chosen.seed,
    )
    nulls = shuffled_blocks(checkpoint, drawn[chosen.rule])
    return trap_persistence(checkpoint, nulls), trap_outcomes(checkpoint)


def answers(data, **options):
    return {one.question: one for one in findings(*two_tables(data, **options))}


@pytest.fixture(scope="module")
def uneven():
    """Rollouts of many lengths; planted stretches are wrong in 8 of 10."""
    data = trap_run(prompts=20, samples=6, tokens=300, length=100, degenerate=0.8, seed=4)
    last = 150 + 150 * pl.col("rollout").hash(1).mod(100) / 100
    return data._replace(tokens=data.tokens.filter(pl.col("position") < last))


@pytest.fixture(scope="module")
def found(uneven):
    return agreement_traps(uneven.tokens, uneven.rollouts, checkpoint="step0", draws=3)


def row(found, comparison, **more):
    return found.trap_outcomes.filter(comparison=comparison, **more).row(0, named=True)


def plain(sets):
    """Compare fired with others in sets of (fired, wrong), by a loop: difference and weight."""
    x = weight = 0.0
    for members in sets:
        fired = [w for f, w in members if f]
        others = [w for f, w in members if not f]
        if fired and others:
            w = len(fired) * len(others) / len(members)
            x += w * (np.mean(fired) - np.mean(others))
            weight += w
    return x / weight


def test_comparisons_equal_a_plain_loop(found):
    rows = found.agreement_traps
    assert rows["prompt_id"].n_unique() == 20
    by_prompt = [
        [
            (r["triggered"], not r["correct"], r["trigger_token"], r["n_tokens"])
            for r in part.iter_rows(named=True)
        ]
        for part in rows.partition_by("prompt_id")
    ]
    everyone = [one for members in by_prompt for one in members]
    crude = row(found, CRUDE)
    assert crude["difference"] == pytest.approx(plain([[one[:2] for one in everyone]]))
    assert crude["p"] is None
    within = plain([[one[:2] for one in members] for members in by_prompt])
    assert row(found, WITHIN)["difference"] == pytest.approx(within)
    for landmark in found.trap_outcomes.filter(comparison=LANDMARK).iter_rows(named=True):
        at = landmark["at_token"]
        sets = [[(f and t < at, w) for f, w, t, n in members if n >= at] for members in by_prompt]
        assert landmark["difference"] == pytest.approx(plain(sets))
        assert landmark["n"] == sum(map(len, sets))
        assert landmark["n_fired"] == sum(f for members in sets for f, _ in members)
    sets = [
        [(f and t == at, w) for f, w, t, n in members if (t >= at if f else n > at)]
        for members in by_prompt
        for at in sorted({t for f, _, t, _ in members if f})
    ]
    assert row(found, AT_TRIGGER)["difference"] == pytest.approx(plain(sets))


def test_the_run_is_held_against_blocks_of_every_size(found):
    rows = found.trap_persistence
    assert rows["block"].to_list() == [1, 16, 32, 64]
    assert rows["keeps_course"].to_list() == [False] * 3 + [True]
    run = found.agreement_traps["longest_run"].mean()
    assert rows["longest_run"].to_list() == pytest.approx([run] * 4)
    assert (rows["difference"] - (rows["longest_run"] - rows["shuffled"])).abs().max() < 1e-9
    assert rows["shuffled"][1:].is_sorted()  # the planted stretch survives in wide blocks


def test_planted_stretches_and_their_wrong_answers_are_found():
    data = trap_run(prompts=48, samples=4, tokens=400, degenerate=0.9, seed=2)
    found = answers(data)
    stretches, wrong = found["low-kl-stretches"], found["cut-rollouts-wrong"]
    assert stretches.p <= 0.001
    assert stretches.answer(stretches.p) == "yes"
    assert wrong.p <= 0.001
    assert wrong.answer(wrong.p) == "yes"
    assert wrong.difference > 0.2


def test_length_is_not_taken_for_the_rule():
    # Long rollouts are wrong and have more chances to fire; the rule itself tells nothing.
    data = ugly_run(
        prompts=60, samples=8, tokens=200, length_spread=0.5, checkpoints=("a",), seed=1
    )
    n = pl.col("response_token_ids").list.len()
    data = data._replace(rollouts=data.rollouts.with_columns(correct=n < n.median()))
    table = two_tables(data, draws=2)[1]
    p = dict(table.filter(pl.col("comparison") != LANDMARK).select("comparison", "p").rows())
    assert p[WITHIN] < 0.001 < 0.05 < p[AT_TRIGGER]
    assert answers(data, draws=2)["cut-rollouts-wrong"].p > 0.05


def test_two_comparisons_that_contradict_each_other_are_no_yes():
    # Short rollouts are right, those that fire are in the middle, long ones are all wrong: more are
    # wrong than of all others, and fewer than of those that still ran at the trigger.
    prompts, kinds = 40, np.array([0] * 6 + [1] * 2 + [2])
    data = trap_run(prompts=prompts, samples=9, tokens=300, share=0.0, seed=1)
    kind = np.tile(kinds, prompts)
    luck = np.random.default_rng(0).random(kind.size) < 0.6
    correct = np.select([kind == 0, kind == 2], [True, False], luck)
    own = pl.col("rollout").replace_strict(list(range(kind.size)), kind.tolist())
    low = (own == 1) & (pl.col("position") >= 120)
    kl = pl.when(low).then(0.001).otherwise(pl.col("reverse_kl") + 0.1).cast(pl.Float32)
    tokens = data.tokens.filter((own > 0) | (pl.col("position") < 100)).with_columns(reverse_kl=kl)
    rollouts = data.rollouts.with_columns(correct=pl.Series(correct))
    data = data._replace(tokens=tokens, rollouts=rollouts)
    table = two_tables(data, threshold=0.05, draws=2)[1]
    by_name = {row["comparison"]: row for row in table.to_dicts()}
    assert by_name[WITHIN]["difference"] > 0 > by_name[AT_TRIGGER]["difference"]
    assert max(by_name[WITHIN]["p"], by_name[AT_TRIGGER]["p"]) < 1e-3
    assert answers(data, threshold=0.05, draws=2)["cut-rollouts-wrong"].p == 1


def test_nulls_hold_the_level_and_are_answered_no():
    p = {"low-kl-stretches": [], "cut-rollouts-wrong": []}
    said = []
    for seed in range(10):
        for name in ("memory", "all", "trend", "lengths"):
            data = ugly_run(tokens=200, checkpoints=("a",), seed=seed, **NULLS[name])
            for question, one in answers(data, draws=10, seed=seed).items():
                p[question].append(one.p)
                said.append(one.answer(one.p))
    most = scipy.stats.binom.ppf(0.999, 40, 0.05)
    assert all((np.array(values) <= 0.05).sum() <= most for values in p.values()), p
    assert min(map(min, p.values())) > 0.001
    assert said.count("no") >= 10


def test_outcomes_of_rollouts_that_are_too_short_are_no_missing_outcomes():
    data = trap_run(prompts=6, samples=2, tokens=60, length=20, seed=2)
    row = two_tables(data, draws=2)[1].row(0, named=True)
    assert row["reason"] == "the rule could fire on no rollout that says whether it is correct"


def test_without_outcomes_the_question_is_not_asked():
    data = ugly_run(tokens=100, checkpoints=("a",), seed=0)
    data = data._replace(rollouts=data.rollouts.with_columns(correct=pl.lit(None, pl.Boolean)))
    wrong = answers(data, draws=2)["cut-rollouts-wrong"]
    assert wrong.answer(wrong.p) == "not asked"
    assert wrong.reason == "no rollout says whether it is correct"


def test_where_no_rollout_is_long_enough_nothing_is_asked():
    data = ugly_run(tokens=40, checkpoints=("a",), seed=0)
    for one in answers(data, draws=2).values():
        assert one.answer(one.p) == "not asked"
        assert one.reason
