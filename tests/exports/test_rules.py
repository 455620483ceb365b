"""Every rule against its definition, computed again from the tables."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import opd_diag as od
from opd_diag.errors import OptionError, TableError
from opd_diag.tables.run import Run


def tokens_of(run: Run, checkpoint: str) -> pl.DataFrame:
    return run.tokens(checkpoint).collect()


def test_all_weighs_what_is_in_the_loss(exported_run: Run) -> None:
    weights = od.token_weights(exported_run, rule="all")
    tokens = tokens_of(exported_run, exported_run.checkpoints[-1])
    assert weights.columns == ["rollout", "position", "weight"]
    assert weights.select("rollout", "position").equals(tokens.select("rollout", "position"))
    assert weights["weight"].to_list() == tokens["in_loss"].cast(pl.Float32).to_list()


@pytest.mark.parametrize("keep", ["loss", "tokens"])
def test_release_keeps_what_stands_before_the_release_token(exported_run: Run, keep: str) -> None:
    last = exported_run.checkpoints[-1]
    weights = od.token_weights(exported_run, rule="release", keep=keep)
    points = exported_run.result("release_points").filter(checkpoint=last)
    assert points["accepted"].sum() >= 5
    joined = weights.join(points, on="rollout", maintain_order="left").with_columns(
        in_loss=tokens_of(exported_run, last)["in_loss"]
    )
    for (_, accepted), rows in joined.group_by("rollout", "accepted"):
        inside = rows.filter("in_loss")
        if not accepted:
            assert set(inside["weight"]) == {1.0}
            continue
        before = inside["position"] < inside["release_token"]
        kept = len(inside) / before.sum() if keep == "loss" else 1.0
        expected = np.where(before, np.float32(kept), np.float32(0))
        assert inside["weight"].to_numpy() == pytest.approx(expected, rel=1e-6)
        if keep == "loss":
            assert inside["weight"].sum() == pytest.approx(len(inside), rel=1e-5)
    assert joined.filter(~pl.col("in_loss"))["weight"].sum() == 0


def test_trap_keeps_what_stands_before_the_cut(exported_run: Run) -> None:
    first = exported_run.checkpoints[0]
    weights = od.token_weights(exported_run, rule="trap", checkpoint=first)
    traps = exported_run.result("agreement_traps").filter(checkpoint=first)
    assert traps["triggered"].sum() >= 5
    cut = pl.col("cut_token").fill_null(10**6)
    joined = weights.join(traps, on="rollout", maintain_order="left")
    inside = tokens_of(exported_run, first)["in_loss"]
    expected = joined.select((pl.col("position") < cut) & inside).to_series()
    assert weights["weight"].to_list() == expected.cast(pl.Float32).to_list()


def test_rock_weighs_rocks_and_a_window_of_their_peaks(exported_run: Run) -> None:
    table = exported_run.result("rock_tokens").filter("is_rock").sort("R", descending=True)
    name = table["checkpoint"][0]
    tokens = tokens_of(exported_run, name)
    rock = tokens["token_id"].is_in(table["token_id"].to_list())
    weights = od.token_weights(exported_run, rule="rock", rock_weight=0.25, checkpoint=name)
    expected = np.where(tokens["in_loss"], np.where(rock, 0.25, 1.0), 0.0)
    assert weights["weight"].to_numpy() == pytest.approx(expected)
    # With a window the rule reaches 2 tokens further, inside the rollout only.
    wide = od.token_weights(exported_run, rule="rock", window=2, checkpoint=name)
    peak = tokens.filter("in_loss")["reverse_kl"].quantile(0.95, "linear")
    marked = (rock & tokens["in_loss"]).to_numpy().copy()
    starts = np.flatnonzero(marked & (tokens["reverse_kl"] >= peak).to_numpy())
    rollout = tokens["rollout"].to_numpy()
    for place in starts:
        for near in range(place - 2, place + 3):
            if 0 <= near < len(rollout) and rollout[near] == rollout[place]:
                marked[near] = True
    expected = tokens["in_loss"].to_numpy() & ~marked
    assert wide["weight"].to_numpy() == pytest.approx(expected.astype(float))


def test_one_list_of_rocks_serves_every_checkpoint(exported_run: Run) -> None:
    """It was ranked under the last checkpoint, and holds for the tokens of all."""
    first, last = exported_run.checkpoints[0], exported_run.checkpoints[-1]
    assert exported_run.result("rock_tokens")["checkpoint"].unique().to_list() == [last]
    weights = [od.token_weights(exported_run, rule="rock", checkpoint=c) for c in (first, last)]
    assert weights[0].equals(weights[1])


def test_a_selector_takes_its_budget_of_the_highest_scores(exported_run: Run) -> None:
    weights = od.token_weights(exported_run, rule="selector:tip@10%")
    in_loss = tokens_of(exported_run, exported_run.checkpoints[0])["in_loss"]
    assert weights["weight"].sum() == round(0.1 * in_loss.sum())
    features = od.teachability_features(exported_run, scale="paper").collect()
    joined = weights.join(features, on=["rollout", "position"], how="left")
    chosen = joined.filter(pl.col("weight") == 1)["tip"]
    others = joined.filter((pl.col("weight") == 0) & pl.col("tip").is_not_null())["tip"]
    assert chosen.null_count() == 0
    assert chosen.min() >= others.max()
    soft = od.token_weights(exported_run, rule="selector:tip@10%", soft=True)
    assert soft["weight"].sum() == pytest.approx(in_loss.sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "selector"),
    [
        ("d_learn", "D_learn"), ("d_incompat", "D_incompat"), ("tip", "TIP"),
        ("soft_or", "soft-OR"), ("entropy", "H"), ("divergence", "D"), ("compatibility", "C"),
        ("random", "random"),
    ],
)  # fmt: skip
def test_a_selector_exports_the_tokens_that_the_table_evaluates(
    tied_run: Run, name: str, selector: str
) -> None:
    table = od.teachability(tied_run, budgets=(0.04, 0.2)).teachability_selectors
    first, last = (tokens_of(tied_run, c) for c in tied_run.checkpoints)
    gain = (first["forward_kl"] - last["forward_kl"]).cast(pl.Float64)
    for budget in (0.04, 0.2):
        weights = od.token_weights(tied_run, rule=f"selector:{name}@{budget}")
        chosen = weights["weight"] > 0
        row = table.filter(selector=selector, budget=budget, kl="forward_kl").row(0, named=True)
        assert chosen.sum() == row["n"]
        assert weights.filter(chosen)["position"].mean() == pytest.approx(row["position"])
        assert gain.filter(chosen).mean() == pytest.approx(row["gain"])


def test_a_mask_of_ones_own(exported_run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mask.parquet"
    tokens = tokens_of(exported_run, exported_run.checkpoints[0])
    given = tokens.select("rollout", "position", weight=pl.col("position") / 240).filter(
        pl.col("position") < 100
    )
    given.write_parquet(path)
    weights = od.token_weights(exported_run, rule=f"mask:{path}")
    position = tokens["position"].to_numpy()
    kept = tokens["in_loss"].to_numpy() & (position < 100)
    expected = np.where(kept, position / 240, 0)
    assert weights["weight"].to_numpy() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"rollout": [0], "position": [0]}, "expected rollout and position"),
        ({"rollout": [0, 0], "position": [1, 1], "weight": [1, 1]}, "twice"),
        ({"rollout": [0], "position": [10**6], "weight": [1]}, "not in the run"),
        ({"rollout": [0], "position": [1], "weight": [-1.0]}, "expected 0 or more"),
        ({"rollout": [0.5], "position": [1], "weight": [1.0]}, "expected rollout and position"),
        ({"rollout": [-1], "position": [1], "weight": [1.0]}, "rollout -1; expected a whole"),
        ({"rollout": [0], "position": [2**40], "weight": [1.0]}, "position 1099511627776; expec"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(
    exported_run: Run, tmp_path: Path, table: dict[str, list[float]], message: str
) -> None:
    path = tmp_path / "mask.parquet"
    pl.DataFrame(table).write_parquet(path)
    with pytest.raises(TableError, match=message):
        od.token_weights(exported_run, rule=f"mask:{path}")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(TableError, match="expected a Parquet file"):
        od.token_weights(exported_run, rule=f"mask:{tmp_path / 'text.parquet'}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "cut"}, "expected one of all, release"),
        ({"rule": "release:now"}, "expected one of all, release"),
        ({"rule": "selector:tip"}, "expected one of all, release"),
        ({"rule": "selector:best@10%"}, "expected one of d_learn"),
        ({"rule": "selector:tip@0"}, "expected a share"),
        ({"rule": "selector:tip@many"}, "expected a share"),
        ({"rule": "release", "keep": "all"}, "expected loss or tokens"),
        ({"rule": "release", "soft": True}, "expected rule selector"),
        ({"rule": "trap", "window": 2}, "expected rule rock"),
        ({"rule": "rock", "rock_weight": -1.0}, "expected 0 or more"),
        ({"rule": "rock", "window": -1}, "window: -1; expected 0 or more"),
        ({"rule": "all", "seed": -1}, "seed: -1; expected 0 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    exported_run: Run, options: dict[str, object], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        od.token_weights(exported_run, **options)  # type: ignore[arg-type]


def test_a_result_that_is_missing_is_named_with_its_command(tmp_path: Path) -> None:
    from opd_diag.datasets import null_run, save_run

    run = save_run(null_run(prompts=5, samples=1, tokens=20, types=80), tmp_path / "run")
    with pytest.raises(TableError, match="run `opd-diag analyze release-points"):
        od.token_weights(run, rule="release")
    with pytest.raises(TableError, match="run `opd-diag analyze rock-tokens"):
        od.token_weights(run, rule="rock")


@pytest.mark.parametrize(
    ("rule", "name"), [("release", "release_points"), ("trap", "agreement_traps")]
)
def test_rollouts_that_were_not_looked_at_are_not_taken_for_kept(
    tmp_path: Path, rule: str, name: str
) -> None:
    from opd_diag.datasets import save_run, trap_run

    data = trap_run(prompts=8, samples=2, tokens=120, seed=3)
    groups = pl.Series(np.where(np.arange(16) % 8 < 3, "math", "code"))
    rollouts = data.rollouts.with_columns(group=groups)
    run = save_run(data._replace(rollouts=rollouts), tmp_path / "run")
    result = getattr(od, name)(run, group="math")
    run.save(result._asdict(), arguments={"group": "math"})
    command = name.replace("_", "-")
    with pytest.raises(
        TableError,
        match=f"10 of 16 rollouts have no row in {name}; expected.*{command}.*without.*--group",
    ):
        od.token_weights(run, rule=rule)
    run.save(getattr(od, name)(run)._asdict(), arguments={})
    assert od.token_weights(run, rule=rule).height == 16 * 120
