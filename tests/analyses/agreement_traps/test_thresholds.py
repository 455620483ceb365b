"""Quantile and buffer by hand, and the replay against a plain loop over whole rollouts."""

from collections import deque

import numpy as np
import polars as pl
import pytest

from opd_diag.analyses.agreement_traps import agreement_traps
from opd_diag.analyses.agreement_traps.thresholds import from_others, replayed
from opd_diag.datasets import null_run


def replay(least, step, **options):
    defaults = {"eta": 0.5, "buffer": 3, "warmup_rollouts": 2, "warmup_steps": 0, "update": "step"}
    threshold, come = replayed(np.array(least), np.array(step), **defaults | options)
    return [None if np.isnan(t) else float(t) for t in threshold], come.tolist()


def test_the_buffer_by_hand_rollout_by_rollout():
    # The buffer holds three: before rollout 4 it is (2, 3, 4), 1 being forgotten: median 3.
    threshold, come = replay([1.0, 2.0, 3.0, 4.0, 0.0, 9.0], [0] * 6, update="rollout")
    assert come == [0, 1, 2, 3, 4, 5]
    # (1, 2) -> 1.5; (1, 2, 3) -> 2; (2, 3, 4) -> 3; (3, 4, 0) -> 3.
    assert threshold == [None, None, 1.5, 2.0, 3.0, 3.0]


def test_the_buffer_by_hand_step_by_step():
    # Rollouts of one step do not see each other.
    threshold, come = replay([1.0, 2.0, 3.0, 4.0, 0.0, 9.0], [1, 1, 2, 2, 3, 3])
    assert come == [0, 0, 2, 2, 4, 4]
    assert threshold == [None, None, 1.5, 1.5, 3.0, 3.0]


def test_steps_order_the_rollouts_and_warm_them_up():
    threshold, come = replay([3.0, 1.0, 2.0], [20, 0, 10], update="rollout", warmup_rollouts=1)
    assert come == [2, 0, 1]
    assert threshold == [1.5, None, 1.0]
    threshold, _ = replay([3.0, 1.0, 2.0], [20, 0, 10], warmup_rollouts=1, warmup_steps=15)
    assert threshold == [1.5, None, None]


def test_short_rollouts_leave_nothing_in_the_buffer():
    threshold, come = replay([1.0, np.nan, 3.0, 5.0], [0, 1, 2, 3], warmup_rollouts=1)
    assert come == [0, 1, 1, 2]
    assert threshold == [None, 1.0, 1.0, 2.0]


def test_eta_is_the_share_of_minima_above_the_threshold():
    least = np.arange(1000.0)
    threshold, others = from_others(least, np.arange(1000), eta=0.3)
    assert (least > threshold).mean() == pytest.approx(0.3, abs=0.002)
    assert set(others) == {999}


def test_fewer_than_twenty_others_give_no_threshold():
    least = np.append(np.arange(21.0), np.nan)
    prompt = np.append(np.arange(21), 0)
    threshold, others = from_others(least, prompt, eta=0.3)
    assert np.isfinite(threshold[:21]).all()
    assert others.tolist() == [20] * 21 + [0]
    threshold, _ = from_others(least[:20], prompt[:20], eta=0.3)
    assert np.isnan(threshold).all()


def plain_replay(kls, steps, *, window, eta, consecutive, buffer, rollouts, warm_steps, update):
    """Follow training one token after the other; the cut of each rollout, None without one."""
    held, pending, seen, cuts = deque(maxlen=buffer), [], 0, {}
    order = sorted(range(len(kls)), key=lambda i: steps[i])
    for turn, i in enumerate(order):
        if update == "rollout" or (turn and steps[i] != steps[order[turn - 1]]):
            held.extend(pending)
            seen, pending = seen + len(pending), []
        active = seen >= rollouts and steps[i] - steps[order[0]] >= warm_steps
        s = np.quantile(list(held), 1 - eta) if active else None
        run, cuts[i], least = 0, None, None
        for t in range(window, len(kls[i]) + 1):
            z = sum(kls[i][t - window : t]) / window
            least = z if least is None else min(least, z)
            run = run + 1 if active and z < s else 0
            if run == consecutive and cuts[i] is None:
                cuts[i] = t - consecutive + 1 - window
        if least is not None:
            pending.append(least)
    return [cuts[i] for i in range(len(kls))]


@pytest.mark.parametrize("update", ["step", "rollout"])
@pytest.mark.parametrize("seed", range(3))
def test_the_replay_equals_a_plain_loop_token_by_token(update, seed):
    rng = np.random.default_rng(seed)
    data = null_run(prompts=20, samples=4, tokens=60, seed=seed)
    lengths = rng.integers(5, 61, 80)
    # Multiples of 1/64: all sums are exact, so a tie with the threshold is a tie for both.
    tokens = data.tokens.join(
        pl.DataFrame({"rollout": np.arange(80, dtype=np.uint32), "n": lengths}), on="rollout"
    ).filter(pl.col("position") < pl.col("n"))
    tokens = tokens.with_columns((pl.col("reverse_kl") * 64).round() / 64)
    step = rng.permutation(np.repeat(np.arange(20) * 5, 4))
    found = agreement_traps(
        tokens,
        data.rollouts.with_columns(step=pl.Series(step)),
        mode="replay",
        window=16,
        consecutive=3,
        buffer=24,
        warmup_rollouts=10,
        warmup_steps=15,
        update=update,
        draws=1,
    ).agreement_traps
    kls = [
        y.to_list()
        for y in tokens.partition_by("rollout", maintain_order=True, as_dict=False)
        for y in [y["reverse_kl"]]
    ]
    expected = plain_replay(
        kls, step, window=16, eta=0.3, consecutive=3, buffer=24, rollouts=10, warm_steps=15,
        update=update,
    )  # fmt: skip
    assert found["cut_token"].to_list() == expected
    fired = [None if cut is None else cut + 16 - 1 + 3 - 1 for cut in expected]
    assert found["trigger_token"].to_list() == fired
    assert 10 < sum(cut is not None for cut in expected) < 70
    warm = found.filter(pl.col("reason") == "warm-up")
    assert warm.height >= 10
    assert warm["triggered"].null_count() == warm.height
