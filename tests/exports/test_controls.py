"""Control arms drop as many tokens, in the same shape."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opd_diag.exports import _weigh
from opd_diag.exports.controls import control_weights, equal_total
from opd_diag.exports.weights import TokenWeights
from opd_diag.stats.ragged import run_lengths, run_starts
from opd_diag.tables.run import Run

DEFAULTS = {
    "checkpoint": None, "keep": "tokens", "rock_weight": 0.0, "window": 0, "soft": False, "seed": 0
}  # fmt: skip


def arm(run: Run, rule: str, **options: object) -> TokenWeights:
    return _weigh(run, rule, **{**DEFAULTS, **options})


def kept_by_rollout(weights: TokenWeights) -> list[int]:
    frame = weights.frame().group_by("rollout", maintain_order=True)
    return frame.agg((pl.col("weight") > 0).sum())["weight"].to_list()


@pytest.mark.parametrize("rule", ["release", "trap"])
@pytest.mark.parametrize("seed", range(5))
def test_cut_fractions_go_to_other_rollouts_at_equal_tokens(
    exported_run: Run, rule: str, seed: int
) -> None:
    weights = arm(exported_run, rule)
    control = control_weights(weights, seed=seed)
    assert (control.weight > 0).sum() == (weights.weight > 0).sum()
    assert not np.array_equal(control.weight, weights.weight)
    whole = weights.frame().with_columns(inside=weights.in_loss).filter("inside")
    before, after = (
        whole.with_columns(weight=one.weight[one.in_loss]).group_by("rollout", maintain_order=True)
        .agg("weight")["weight"].to_list()
        for one in (weights, control)
    )  # fmt: skip
    for own, other in zip(before, after, strict=True):
        assert sorted(other, reverse=True) == other  # a prefix is kept
        assert min(own) > 0 or min(other) == 0 or len(own) == sum(w > 0 for w in other)
        assert min(other) > 0 or min(own) == 0  # only rollouts that are cut are cut


def test_a_control_of_the_release_rule_keeps_the_mass_of_the_loss(exported_run: Run) -> None:
    control = control_weights(arm(exported_run, "release", keep="loss"), seed=1)
    sums = control.frame().with_columns(inside=control.in_loss).group_by("rollout").agg(
        pl.col("weight").sum(), pl.col("inside").sum()
    )  # fmt: skip
    some = sums.filter(pl.col("weight") > 0)
    assert some["weight"].to_numpy() == pytest.approx(some["inside"].to_numpy(), rel=1e-5)


@pytest.mark.parametrize("rule", ["rock", "selector:divergence@20%", "selector:tip@60%"])
def test_token_sets_move_inside_their_rollout_with_their_runs(exported_run: Run, rule: str) -> None:
    weights = arm(exported_run, rule)
    control = control_weights(weights, seed=2)
    assert kept_by_rollout(control) == kept_by_rollout(weights)
    assert not np.array_equal(control.weight, weights.weight)
    assert control.weight[~control.in_loss].sum() == 0
    rare = min((0.0, 1.0), key=lambda w: (weights.weight[weights.in_loss] == w).sum())
    rollout = weights.frame()["rollout"].to_numpy()[weights.in_loss]
    runs = []
    for one in (weights, control):
        marked = one.weight[one.in_loss] == rare
        starts = run_starts(rollout, marked)
        runs.append(sorted(run_lengths(starts, marked.size)[marked[starts]].tolist()))
    assert runs[0] == runs[1]


def test_the_control_matches_frequency_better_than_a_single_placement(exported_run: Run) -> None:
    weights = arm(exported_run, "rock")
    token_id = weights.tokens.column("token_id")[weights.in_loss]
    counts = np.bincount(token_id)
    classes = np.log2(counts[token_id]).astype(int)
    dropped = classes[weights.weight[weights.in_loss] == 0]
    control = control_weights(weights, seed=0)
    matched = classes[control.weight[control.in_loss] == 0]
    rng = np.random.default_rng(0)
    chance = classes[rng.permutation(classes.size)[: dropped.size]]

    def away(other: np.ndarray) -> float:
        counted, wanted = (np.bincount(one, minlength=20) for one in (other, dropped))
        return float(np.abs(counted - wanted).sum())

    assert away(matched) < away(chance)


def test_soft_weights_are_permuted_inside_rollout_and_frequency(exported_run: Run) -> None:
    weights = arm(exported_run, "selector:tip@10%", soft=True)
    control = control_weights(weights, seed=0)
    assert not np.array_equal(control.weight, weights.weight)
    lists = [
        one.frame().group_by("rollout", maintain_order=True).agg("weight")["weight"].to_list()
        for one in (weights, control)
    ]
    for one, other in zip(*lists, strict=True):
        assert sorted(one) == sorted(other)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_rounding_to_a_total_is_exact(data: st.DataObject) -> None:
    most = np.array(data.draw(st.lists(st.integers(0, 50), min_size=1, max_size=30)), np.int64)
    total = data.draw(st.integers(0, int(most.sum())))
    shares = data.draw(st.lists(st.floats(0, 1), min_size=most.size, max_size=most.size))
    sizes = equal_total(np.array(shares) * most, most, total, np.random.default_rng(0))
    assert sizes.sum() == total
    assert ((sizes >= 0) & (sizes <= most)).all()
