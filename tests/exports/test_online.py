"""The calibrated rule, applied to the very rollouts that it came from, gives their weights."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import opd_diag as od
from opd_diag.exports import online
from opd_diag.stats.changepoints import Statistic, downward_shift, scan_shifts
from opd_diag.stats.hashing import hashed_uniform
from opd_diag.tables.rollouts import SHORTEST_TURN
from opd_diag.tables.run import Run

COLUMNS = {
    "release": ("segments", "margins"),
    "trap": ("reverse_kl",),
    "rock": ("token_ids", "loss"),
    "selector:d_incompat@15%": ("entropy", "divergence", "compatibility"),
}


def columns_of(run: Run, checkpoint: str) -> pl.DataFrame:
    mass = run.k_grid.index(16)
    return (
        run.tokens(checkpoint)
        .filter("in_loss")
        .select(
            "rollout",
            "position",
            "reverse_kl",
            segments=pl.col("segment"),
            margins=pl.col("margin").arr.get(run.k_grid.index(4)),
            token_ids=pl.col("token_id"),
            loss=pl.col("reverse_kl"),
            entropy=pl.col("student_entropy"),
            divergence=pl.col("forward_kl"),
            compatibility=pl.col("teacher_mass").arr.get(mass),
        )
        .collect()
    )


@pytest.mark.parametrize("rule", list(COLUMNS))
def test_the_reference_gives_the_weights_of_the_export(
    exported_run: Run, out: Path, rule: str
) -> None:
    options = {"window": 1, "rock_weight": 0.5} if rule == "rock" else {}
    exported = od.export(exported_run, rule=rule, to="parquet", out=out, **options)
    assert exported.rule is not None
    calibrated = json.loads(exported.rule.read_text())
    name = exported_run.checkpoints[0 if rule.startswith("selector") else -1]
    weights = od.token_weights(exported_run, rule=rule, **options)
    table = columns_of(exported_run, name).join(
        weights, on=["rollout", "position"], maintain_order="left"
    )
    differ = 0
    for _, rows in table.group_by("rollout", maintain_order=True):
        given = {column: rows[column].to_list() for column in COLUMNS[rule]}
        answer = online.weights(calibrated, positions=rows["position"].to_list(), **given)
        differ += int((~np.isclose(answer, rows["weight"].to_numpy(), rtol=1e-5)).any())
    if rule == "trap":  # each rollout had its own threshold, the rule has their median
        assert differ < 0.4 * table["rollout"].n_unique()
    else:
        assert differ == 0


def differing_rollouts(
    run: Run, rule: str, calibrated: dict[str, object], *, positions: bool = True, **options: Any
) -> tuple[int, int]:
    """Count rollouts that the mask cuts, and those where the rule gives other weights."""
    table = columns_of(run, run.checkpoints[-1]).join(
        od.token_weights(run, rule=rule, **options),
        on=["rollout", "position"],
        maintain_order="left",
    )
    cut = differ = 0
    for _, rows in table.group_by("rollout", maintain_order=True):
        given = {column: rows[column].to_list() for column in COLUMNS[rule]}
        if positions:
            given["positions"] = rows["position"].to_list()
        answer = online.weights(calibrated, **given)
        cut += rows["weight"].min() == 0
        differ += not np.allclose(answer, rows["weight"].to_numpy(), rtol=1e-5)
    return cut, differ


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("release", {"statistic": "cusum"}),
        ("release", {"statistic": "cusum", "threshold": 1.2, "min_size": 5}),
        ("release", {"token_weighted": True, "preset": "paper"}),
        ("release", {"token_weighted": True, "statistic": "cusum", "threshold": 1.0}),
        ("trap", {"grace": 150, "threshold": 0.2}),
        ("trap", {"window": 16, "consecutive": 9, "threshold": 0.2}),
    ],
)
def test_the_rule_holds_every_option_that_made_the_mask(
    sized_run: Run, out: Path, rule: str, options: dict[str, object]
) -> None:
    name = {"release": "release_points", "trap": "agreement_traps"}[rule]
    sized_run.save(getattr(od, name)(sized_run, **options)._asdict(), arguments=options)
    exported = od.export(sized_run, rule=rule, to="parquet", out=out)
    assert exported.rule is not None
    calibrated = json.loads(exported.rule.read_text())
    assert calibrated.items() >= {k: v for k, v in options.items() if k != "preset"}.items()
    cut, differ = differing_rollouts(sized_run, rule, calibrated)
    assert cut >= 4
    assert differ == 0
    # The options matter here: the usual ones cut elsewhere.
    usual = {"statistic": "bic", "token_weighted": False, "grace": 0, "consecutive": 4}
    changed = {k: v for k, v in usual.items() if calibrated.get(k, v) != v}
    assert differing_rollouts(sized_run, rule, calibrated | changed)[1] > 0


@pytest.mark.parametrize(
    ("rule", "made_with", "options"),
    [
        ("release", {"min_segments": 6}, {}),
        ("release", {"statistic": "cusum", "threshold": 1.3}, {"keep": "tokens"}),
        ("release", {"preset": "paper", "token_weighted": True}, {}),
        ("trap", {"threshold": 0.05}, {}),
        ("trap", {"threshold": 0.05, "grace": 150}, {}),
        ("trap", {"threshold": 0.1, "window": 1, "consecutive": 30}, {}),
        ("rock", {}, {"window": 2, "rock_weight": 0.5}),
    ],
)
def test_no_scan_or_window_goes_across_what_a_tool_wrote(
    turns_run: Run, out: Path, rule: str, made_with: dict[str, Any], options: dict[str, Any]
) -> None:
    names = {"release": "release_points", "trap": "agreement_traps", "rock": "rock_tokens"}
    result = getattr(od, names[rule])(turns_run, **made_with)
    turns_run.save(result._asdict(), arguments=made_with)
    exported = od.export(turns_run, rule=rule, to="parquet", out=out, **options)
    assert exported.rule is not None
    calibrated = json.loads(exported.rule.read_text())
    cut, differ = differing_rollouts(turns_run, rule, calibrated, **options)
    assert cut >= (0 if rule == "rock" else 4)
    assert differ == 0
    # Where the tokens are taken to follow each other, turns are run together.
    assert differing_rollouts(turns_run, rule, calibrated, positions=False, **options)[1] > 0


def test_a_turn_is_as_short_as_the_analyses_take_it() -> None:
    assert online.SHORTEST_TURN == SHORTEST_TURN
    rule = {"rule": "trap", "window": 2, "consecutive": 2, "threshold": 1.0, "grace": 0}
    kl = [5.0, 0.0, 0.0, 0.0]
    apart = [0, 1, 2, 3 + SHORTEST_TURN]
    near = [0, 1, 2, 2 + SHORTEST_TURN]
    assert online.weights(rule, reverse_kl=kl, positions=apart) == [1.0] * 4
    assert online.weights(rule, reverse_kl=kl, positions=near) == [1.0, 0.0, 0.0, 0.0]
    assert online.weights(rule, reverse_kl=kl) == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("budget", ["1%", "4%", "10%", "35%"])
@pytest.mark.parametrize(
    "name",
    ["d_learn", "d_incompat", "tip", "soft_or", "entropy", "divergence", "compatibility"],
)
def test_a_selector_holds_its_budget_where_scores_tie(
    tied_run: Run, out: Path, name: str, budget: str
) -> None:
    rule = f"selector:{name}@{budget}"
    exported = od.export(tied_run, rule=rule, to="parquet", out=out)
    assert exported.rule is not None
    calibrated = json.loads(exported.rule.read_text())
    table = columns_of(tied_run, tied_run.checkpoints[0])
    own, others = [], []
    for (rollout,), rows in table.group_by("rollout", maintain_order=True):
        given = {column: rows[column].to_list() for column in COLUMNS["selector:d_incompat@15%"]}
        given["positions"] = rows["position"].to_list()
        own += online.weights(calibrated, rollout=int(str(rollout)), **given)
        others += online.weights(calibrated, rollout=1000 + int(str(rollout)), **given)
    weights = od.token_weights(tied_run, rule=rule)["weight"].to_numpy()
    assert np.array_equal(own, weights)
    # Rollouts of other numbers draw other ties, as new rollouts do, to the same share.
    column, level = "divergence", calibrated["divergence_threshold"]
    if level is None:
        column, level = name, calibrated["threshold"]
    ties = table.filter(pl.col(column) == level).height
    assert abs(sum(others) - weights.sum()) <= 4 * np.sqrt(ties / 4)


def test_ties_are_drawn_as_the_analyses_draw_them() -> None:
    rollout, position = (np.random.default_rng(0).integers(0, 10**6, 50) for _ in range(2))
    for seed in (0, 7):
        expected = hashed_uniform(rollout, position, seed=seed)
        keys = zip(rollout.tolist(), position.tolist(), strict=True)
        assert [online.hashed_uniform(*key, seed=seed) for key in keys] == expected.tolist()


@pytest.mark.parametrize("seed", range(40))
def test_the_shift_is_that_of_the_analysis(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=int(rng.integers(4, 60))) - (np.arange(1) * 0)
    values[len(values) // 2 :] -= rng.choice([0, 1, 3])
    for size in (1, 3):
        tau, gain = online.downward_shift(values.tolist(), min_size=size)
        shift = downward_shift(values, min_size=size)
        if shift is None:
            assert (tau, gain) == (0, -math.inf)
        else:
            assert (tau, gain) == (shift.tau, pytest.approx(shift.gain, rel=1e-9))


@pytest.mark.parametrize("statistic", ["bic", "cusum"])
@pytest.mark.parametrize("seed", range(20))
def test_weights_and_cusum_are_those_of_the_analysis(seed: int, statistic: Statistic) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 60, 5)
    values, sizes = rng.normal(size=lengths.sum()), rng.integers(1, 40, lengths.sum())
    values[rng.random(values.size) < 0.3] -= 2
    shifts = scan_shifts(values, lengths, min_size=2, weights=sizes, statistic=statistic)
    stops = np.cumsum(lengths)
    for i, (stop, length) in enumerate(zip(stops, lengths, strict=True)):
        part = slice(stop - length, stop)
        tau, value = online.downward_shift(
            values[part].tolist(), min_size=2, sizes=sizes[part].tolist(), statistic=statistic
        )
        expected = (shifts.gain if statistic == "bic" else shifts.cusum)[i]
        assert tau == max(shifts.tau[i], 0)
        assert value == pytest.approx(expected if tau else -math.inf, rel=1e-9)


def test_it_needs_nothing_but_python(exported_run: Run, out: Path) -> None:
    od.export(exported_run, rule="trap", to="tinker", out=out)
    code = (
        "import json, apply_rule; rule = json.load(open('rule.json')); "
        "print(sum(apply_rule.weights(rule, reverse_kl=[0.0] * 100)))"
    )
    answer = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, '.'); {code}"],
        cwd=out, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert answer.stdout.strip() == "0.0"


def test_bad_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="unequal lengths"):
        online.weights({"rule": "rock"}, token_ids=[1, 2], loss=[0.5])
    with pytest.raises(ValueError, match="positions: not rising"):
        online.weights({"rule": "rock"}, token_ids=[1, 2], positions=[3, 3])
    with pytest.raises(ValueError, match="expected one of release"):
        online.weights({"rule": "other"})
