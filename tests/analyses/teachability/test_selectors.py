import itertools

import numpy as np
import polars as pl
import pytest
import scipy.stats

from opd_diag.analyses.teachability import teachability, teachability_features
from opd_diag.datasets import save_run, teachable_run
from opd_diag.errors import OptionError
from opd_diag.tables.columns import RESULTS
from opd_diag.tables.manifest import write_manifest
from opd_diag.tables.run import open_run
from opd_diag.tables.schema import polars_schema

BUDGETS = (0.01, 0.1, 0.5)
N = 16 * 2 * 40


@pytest.fixture(scope="module")
def data():
    return teachable_run(prompts=16, samples=2, tokens=40, compatibility=0.1, seed=2)


@pytest.fixture(scope="module")
def found(data):
    return teachability(data.tokens, data.rollouts, budgets=BUDGETS)


def by_hand(data):
    features = teachability_features(data.tokens, data.rollouts).collect()
    last = data.tokens.filter(pl.col("checkpoint") == "step1")
    first = data.tokens.filter(pl.col("checkpoint") == "step0")
    return features.with_columns(
        gain=(first["forward_kl"] - last["forward_kl"]).cast(pl.Float64),
        kl=first["forward_kl"].cast(pl.Float64),
        gradient=first["grad_logits"].cast(pl.Float64),
    )


COLUMNS = {
    "D_learn": "d_learn", "D": "divergence", "D_incompat": "d_incompat", "TIP": "tip",
    "soft-OR": "soft_or", "H": "entropy", "C": "compatibility",
}  # fmt: skip


def top(rows, name, budget):
    """The rows of the largest scores; what the scale ties, by divergence."""
    scores, d = rows[COLUMNS[name]].to_numpy(), rows["divergence"].to_numpy()
    order = np.lexsort((-d, -scores))
    size = int(np.floor(budget * len(scores) + 0.5))
    last, left_out = order[size - 1], order[size]
    assert (scores[last], d[last]) > (scores[left_out], d[left_out])
    return np.sort(order[:size])


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_selector_takes_the_largest_scores(data, found, name, budget):
    rows = by_hand(data)
    chosen = rows[top(rows, name, budget)]
    row = found.teachability_selectors.filter(selector=name, budget=budget, kl="forward_kl")
    row = row.row(0, named=True)
    assert row["n"] == chosen.height
    assert row["actual_budget"] == pytest.approx(chosen.height / N)
    assert row["position"] == pytest.approx(chosen["position"].mean())
    assert row["gain"] == pytest.approx(chosen["gain"].mean())
    assert row["captured"] == pytest.approx(chosen["gain"].sum() / rows["gain"].sum())
    if row["gain_low"] is None:  # a hundredth of the tokens may come from a prompt or two
        assert budget == 0.01
        assert row["reason"] == "too few prompts"
    else:
        assert row["gain_low"] < row["gain"] < row["gain_high"]


def test_random_tokens_gain_what_all_tokens_gain(found):
    whole = found.teachability.filter(group="all", feature="all", kl="forward_kl")["gain"].item()
    rows = found.teachability_selectors.filter(selector="random", kl="forward_kl")
    half = rows.filter(budget=0.5).row(0, named=True)
    assert half["gain_low"] < whole < half["gain_high"]
    assert half["captured"] == pytest.approx(0.5, abs=0.05)
    assert half["over_mean_low"] < 0 < half["over_mean_high"]


def test_a_planted_effect_puts_d_above_the_mean_of_all_tokens(found):
    whole = found.teachability.filter(group="all", feature="all", kl="forward_kl")["gain"].item()
    rows = found.teachability_selectors.filter(budget=0.1, kl="forward_kl")
    for name in ("D", "D_learn"):
        row = rows.filter(selector=name).row(0, named=True)
        assert row["over_mean"] == pytest.approx(row["gain"] - whole)
        assert row["over_mean_low"] > 0


def test_selectors_are_held_against_divergence(data, found):
    """With two checkpoints the difference stands there, and no test: D is the gain's own start."""
    rows = found.teachability_selectors.filter(budget=0.1, kl="forward_kl")
    captured = dict(zip(rows["selector"], rows["captured"], strict=True))
    for row in rows.filter(pl.col("over_divergence").is_not_null()).iter_rows(named=True):
        expected = captured[row["selector"]] - captured["D"]
        assert row["over_divergence"] == pytest.approx(expected, abs=1e-12)
        assert row["reason"] in ("few prompts", "regression to the mean not excluded")
    assert set(rows.filter(n=0)["selector"]) == {"rock-free", "before-release", "outside-trap"}
    assert rows["p"].null_count() == rows.height
    later = teachable_run(
        prompts=16, samples=2, tokens=40, seed=2, checkpoints=("step0", "step1", "step2")
    )
    tested = teachability(later.tokens, later.rollouts, budgets=BUDGETS).teachability_selectors
    tested = tested.filter(budget=0.1, kl="forward_kl")
    asked = tested.filter(pl.col("p").is_not_null())
    assert asked["selector"].to_list() == ["D_learn", "D_incompat", "TIP", "soft-OR", "H", "C"]
    rising = asked.sort("p")
    holm = (rising["p"] * pl.Series(range(6, 0, -1))).clip(upper_bound=1).cum_max()
    np.testing.assert_allclose(rising["p_adjusted"], holm)


def test_without_a_gain_there_is_no_share(data):
    order = ["step1", "step0"]
    turned = data.tokens.sort(
        pl.col("checkpoint").replace_strict(order, [0, 1]), maintain_order=True
    )
    rows = teachability(turned, data.rollouts, budgets=(0.1,)).teachability_selectors
    assert rows["captured"].null_count() == rows.height
    assert rows["over_divergence"].null_count() == rows.height
    reasons = rows.filter(pl.col("n") > 0)["reason"].to_list()
    assert set(reasons) <= {"few prompts", "all gain is not above 0: no share of it"}


def test_overlap_equals_that_of_the_chosen_rows(data, found):
    rows = by_hand(data)
    table = found.teachability_overlap.filter(budget=0.1)
    for one, other in itertools.combinations(COLUMNS, 2):
        a, b = (set(top(rows, name, 0.1)) for name in (one, other))
        row = table.filter(selector=one, other=other).row(0, named=True)
        assert (row["n_both"], row["n"]) == (len(a & b), len(a | b))
        assert row["jaccard"] == pytest.approx(len(a & b) / len(a | b))
        both = rows[sorted(a & b)]
        assert row["kl_share"] == pytest.approx(both["kl"].sum() / rows["kl"].sum())
        share = both["gradient"].sum() / rows["gradient"].sum()
        assert row["gradient_share"] == pytest.approx(share)
        chance = len(a) * len(b) / N
        assert row["jaccard_chance"] == pytest.approx(chance / (len(a) + len(b) - chance))
    itself = table.filter(pl.col("selector") == pl.col("other"))
    assert itself["jaccard"].to_list() == [1.0] * itself.height
    assert itself["reason"].unique().to_list() == ["itself"]
    chosen = rows[top(rows, "D", 0.1)]
    share = itself.filter(selector="D")["kl_share"].item()
    assert share == pytest.approx(chosen["kl"].sum() / rows["kl"].sum())


def test_blocks_of_prompts_do_not_matter(data, found, monkeypatch):
    monkeypatch.setattr("opd_diag.analyses.teachability.overlap._CELLS", 100)
    again = teachability(data.tokens, data.rollouts, budgets=BUDGETS).teachability_overlap
    assert again.equals(found.teachability_overlap)


def test_ties_are_broken_by_the_hash_and_counted(data):
    tokens = data.tokens.with_columns(
        student_entropy=(pl.col("position") < 10).cast(pl.Float32)  # a quarter of the tokens is 1
    )
    rows = teachability(tokens, data.rollouts, budgets=BUDGETS).teachability_selectors
    rows = rows.filter(selector="H", kl="forward_kl")
    assert rows["n"].to_list() == [13, 128, 640]
    assert rows["tied_share"].to_list() == [1.0, 1.0, 0.5]
    shuffled = data.rollouts.sample(fraction=1, shuffle=True, seed=1)
    reversed_rows = pl.concat(
        part.reverse() for part in tokens.partition_by("checkpoint", maintain_order=True)
    )
    same = teachability(reversed_rows.lazy(), shuffled, budgets=BUDGETS).teachability_selectors
    assert same.filter(selector="H", kl="forward_kl").equals(rows)


def test_a_budget_per_rollout_is_met_in_every_rollout(data):
    found = teachability(data.tokens, data.rollouts, budgets=BUDGETS, budget_per="rollout")
    rows = found.teachability_selectors.filter(selector="D", kl="forward_kl")
    assert rows["n"].to_list() == [0, 4 * 32, 20 * 32]  # 1 % of 40 tokens rounds to none
    assert rows["reason"][0] == "no token may be chosen"
    assert rows["n_prompts"].to_list() == [0, 16, 16]
    chosen = by_hand(data).sort("rollout", "divergence", descending=[False, True])
    chosen = chosen.filter(pl.int_range(pl.len()).over("rollout") < 4)
    assert rows["gain"][1] == pytest.approx(chosen["gain"].mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budgets": (0.1, 0.1)}, "expected rising shares above 0, at most 1"),
        ({"budgets": (0.0, 0.5)}, "expected rising shares"),
        ({"budgets": (0.5, 1.5)}, "expected rising shares"),
        ({"budgets": ()}, "expected rising shares"),
        ({"budgets": (float("nan"),)}, "expected rising shares"),
        ({"budget_per": "prompt"}, "budget_per: 'prompt'; expected one of run, rollout"),
    ],
)
def test_bad_budgets_are_refused(data, options, message):
    with pytest.raises(OptionError, match=message):
        teachability(data.tokens, data.rollouts, **options)


def result_of(table, rows):
    """A result table that holds the given columns, the rest filled with something valid."""
    filler = {pl.String: "", pl.Boolean: False}
    n = len(rows["checkpoint"])
    full = {
        column.name: rows.get(column.name, [filler.get(column.dtype, 0)] * n)
        for column in RESULTS[table]
    }
    return pl.DataFrame(full, polars_schema(RESULTS[table]), strict=False)


def test_selectors_read_the_results_of_other_analyses(data, tmp_path):
    run = save_run(data, tmp_path / "run")
    before = teachability(run, budgets=(0.5, 1.0)).teachability_selectors
    reasons = before.filter(selector="rock-free")["reason"].unique().to_list()
    assert reasons == ["no result 'rock_tokens': run `opd-diag analyze rock-tokens`"]
    rocks = [0, 1, 2]
    later = {"checkpoint": ["step1"], "token_id": [0], "is_rock": [True]}
    run.save({"rock_tokens": result_of("rock_tokens", later)}, arguments={})
    other = teachability(run, budgets=(0.5,)).teachability_selectors.filter(selector="rock-free")
    assert "holds no row of 'step0', whose features" in other["reason"][0]
    run.save(
        {"rock_tokens": result_of("rock_tokens", {
            "checkpoint": ["step0"] * 4, "token_id": [*rocks, 3], "is_rock": [True] * 3 + [False],
        })},
        arguments={},
    )  # fmt: skip
    names = {"rollout": range(31), "checkpoint": ["step0"] * 31}  # the last rollout has no row
    cut = [7 if r % 2 else None for r in range(31)]
    run.save(
        {"release_points": result_of("release_points", names | {
            "release_token": cut, "accepted": [c is not None for c in cut],
        })},
        arguments={},
    )  # fmt: skip
    run.save(
        {"agreement_traps": result_of("agreement_traps", {
            "rollout": range(32), "checkpoint": ["step0"] * 32,
            "cut_token": [30] * 32, "triggered": [True] * 16 + [None] * 16,
        })},
        arguments={},
    )  # fmt: skip
    rows = teachability(run, budgets=(0.5, 1.0)).teachability_selectors
    rows = rows.filter(kl="forward_kl", budget=1.0)
    n = dict(zip(rows["selector"], rows["n"], strict=True))
    tokens = data.tokens.filter(pl.col("checkpoint") == "step0")
    assert n["rock-free"] == (~tokens["token_id"].is_in(rocks)).sum()
    assert n["before-release"] == 15 * 7 + 16 * 40
    assert n["outside-trap"] == 16 * 30 + 16 * 40
    gain = by_hand(data).filter(~pl.col("token_id").is_in(rocks))["gain"].mean()
    assert rows.filter(selector="rock-free")["gain"].item() == pytest.approx(gain)


def test_stale_results_and_those_of_another_checkpoint_give_no_selector(data, tmp_path):
    run = save_run(data, tmp_path / "run")
    rocks = {"checkpoint": ["step0"], "token_id": [0], "is_rock": [True]}
    run.save({"rock_tokens": result_of("rock_tokens", rocks)}, arguments={})
    later = {"checkpoint": ["step1"], "rollout": [0], "release_token": [1], "accepted": [True]}
    run.save({"release_points": result_of("release_points", later)}, arguments={})

    def left():
        table = teachability(open_run(run.path), budgets=(0.5,)).teachability_selectors
        rows = table.filter(n=0, kl="forward_kl")
        return dict(zip(rows["selector"], rows["reason"], strict=True))

    assert set(left()) == {"before-release", "outside-trap"}
    run.manifest.checkpoints["step0"].fingerprint = "scored anew"
    write_manifest(run.path, run.manifest)
    assert open_run(run.path).is_stale("rock_tokens")
    found = left()
    assert set(found) == {"rock-free", "before-release", "outside-trap"}
    assert found["rock-free"].startswith("no result 'rock_tokens': run")


def test_support_compares_definitions_at_every_k(data, found):
    table = found.teachability_support.filter(kl="forward_kl")
    assert table.height == 18
    first = data.tokens.filter(pl.col("checkpoint") == "step0")
    for j, k in enumerate((2, 4, 8, 16, 32, 64)):
        values = {
            "teacher_mass": first["teacher_mass"].to_numpy()[:, j],
            "overlap": first["overlap"].to_numpy()[:, j],
            "teacher_top": (first["teacher_top_rank"].to_numpy() <= k).astype(float),
        }
        for definition, c in values.items():
            row = table.filter(definition=definition, k=k).row(0, named=True)
            assert row["mean"] == pytest.approx(c.mean(), rel=1e-6)
            assert row["saturated"] == pytest.approx((c > 0.999).mean())
            if np.ptp(c):
                expected = scipy.stats.pearsonr(c, first["forward_kl"].to_numpy()).statistic
                assert row["correlation_divergence"] == pytest.approx(expected, abs=1e-5)
            else:
                assert row["correlation_divergence"] is None
                assert row["reason"] == "constant"
    planted = table.filter(definition="teacher_mass", k=16).row(0, named=True)
    assert planted["coefficient_low"] < 0.1 < planted["coefficient_high"]
    assert planted["delta_r2"] > planted["null_delta_r2"]
    local = found.teachability_models.filter(
        model="local", term="local compatibility", trimmed=False, kl="forward_kl"
    )
    assert planted["coefficient"] == pytest.approx(local["coefficient"].item())
