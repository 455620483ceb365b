import numpy as np
import polars as pl
import pytest
import scipy.stats

from opd_diag.analyses.teachability import teachability_features
from opd_diag.datasets import null_run, save_run
from opd_diag.errors import OptionError, TableError
from opd_diag.tables.columns.tokens import K_GRID

SCORES = ["d_learn", "d_incompat", "tip", "soft_or"]


@pytest.fixture(scope="module")
def data():
    return null_run(prompts=6, samples=2, tokens=30, checkpoints=("a", "b"))


def before(data):
    return data.tokens.filter(pl.col("checkpoint") == "a")


def by_hand(h, d, c):
    learn = d * c
    return np.column_stack([learn, d * (1 - c), h + d - h * d, h + learn - h * learn])


@pytest.mark.parametrize("divergence", ["full", "union"])
def test_features_are_percentile_ranks_and_their_products(data, divergence):
    found = teachability_features(
        data.tokens, data.rollouts, divergence=divergence, k=8, scale="rank"
    ).collect()
    rows = before(data)
    raw = [
        rows["student_entropy"].to_numpy(),
        rows["forward_kl" if divergence == "full" else "union_kl"].to_numpy(),
        rows["teacher_mass"].to_numpy()[:, K_GRID.index(8)],
    ]
    h, d, c = ((scipy.stats.rankdata(x) - 0.5) / len(x) for x in raw)
    np.testing.assert_allclose(found.select(SCORES).to_numpy(), by_hand(h, d, c), rtol=1e-12)
    np.testing.assert_array_equal(found["entropy"], raw[0])
    high_h, high_d = raw[0] > np.median(raw[0]), raw[1] > np.median(raw[1])
    expected = np.select([high_h & high_d, high_h, high_d], [1, 2, 3], 4)
    np.testing.assert_array_equal(found["quadrant"], expected)


def test_the_published_scale_is_clipped_between_two_quantiles(data):
    found = teachability_features(data.tokens, data.rollouts).collect()
    rows = before(data)
    raw = [rows[name].to_numpy().astype(float) for name in ("student_entropy", "forward_kl")] + [
        rows["teacher_mass"].to_numpy()[:, K_GRID.index(16)].astype(float)
    ]
    scaled = []
    for x in raw:
        low, high = np.quantile(x, [0.05, 0.95])
        scaled.append(np.clip((x - low) / (high - low), 0, 1))
    np.testing.assert_allclose(found.select(SCORES).to_numpy(), by_hand(*scaled), atol=1e-6)
    assert (found["divergence_scaled"] == 1).sum() == 0.05 * rows.height  # the tie at the top


def test_what_the_clip_ties_no_rounding_parts(data):
    """Divergence orders tokens of equal scores, so that equal ones have to be equal in bits."""
    found = teachability_features(data.tokens, data.rollouts).collect()
    h, d, c = (found[f"{name}_scaled"] for name in ("entropy", "divergence", "compatibility"))
    for score, full in (("tip", (h == 1) | (d == 1)), ("soft_or", (h == 1) | (d * c == 1))):
        assert full.sum() > 10
        assert found.filter(full)[score].unique().to_list() == [1.0]


def test_features_are_lazy_and_of_the_student_before_training(data, tmp_path):
    lazy = teachability_features(data.tokens, data.rollouts)
    assert isinstance(lazy, pl.LazyFrame)
    found = lazy.collect()
    assert found["checkpoint"].unique().to_list() == ["a"]
    on_disk = teachability_features(save_run(data, tmp_path / "run").path).collect()
    assert on_disk.equals(found)


def test_only_tokens_in_the_loss_of_chosen_rollouts_count(data):
    half = (pl.col("position") + pl.col("rollout")) % 2 == 0
    tokens = data.tokens.with_columns(in_loss=half)
    rollouts = data.rollouts.with_columns(
        policy=pl.when(pl.col("rollout") < 4).then(pl.lit("x")).otherwise(pl.lit("y"))
    )
    found = teachability_features(tokens, rollouts, policy="x").collect()
    kept = tokens.filter((pl.col("rollout") < 4) & pl.col("in_loss"))
    assert found.equals(teachability_features(kept, rollouts).collect())
    assert found.height == 60


def test_a_constant_feature_scales_to_null(data):
    tokens = data.tokens.with_columns(student_entropy=pl.lit(0.5, pl.Float32))
    for scale in ("rank", "paper"):
        found = teachability_features(tokens, data.rollouts, scale=scale).collect()
        assert found["entropy_scaled"].null_count() == found.height
        assert found["tip"].null_count() == found.height
        assert found["d_learn"].null_count() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "js"}, "divergence: 'js'; expected one of full, union"),
        ({"scale": "z"}, "scale: 'z'; expected one of paper, rank"),
        ({"k": 7}, "k: 7; expected one of 2, 4, 8, 16, 32, 64"),
    ],
)
def test_unknown_choices_are_refused(data, options, message):
    with pytest.raises(OptionError, match=message):
        teachability_features(data.tokens, data.rollouts, **options)


def test_a_missing_column_and_an_unknown_policy_are_named(data):
    with pytest.raises(TableError, match="tokens: no column 'teacher_mass'; expected it"):
        teachability_features(data.tokens.drop("teacher_mass"), data.rollouts)
    with pytest.raises(TableError, match="policy: no rollouts of 'z'; expected one of a"):
        teachability_features(data.tokens, data.rollouts, policy="z")


def test_features_of_the_student_after_training_are_refused(data):
    with pytest.raises(OptionError, match="checkpoint: 'b'; expected one before it.*seen every"):
        teachability_features(data.tokens, data.rollouts, checkpoint="b")
    with pytest.raises(TableError, match="checkpoint: no 'z'; expected one of a, b"):
        teachability_features(data.tokens, data.rollouts, checkpoint="z")
    alone = data.tokens.filter(pl.col("checkpoint") == "b")
    found = teachability_features(alone, data.rollouts, checkpoint="b").collect()
    assert found["checkpoint"].unique().to_list() == ["b"]


def test_a_student_between_may_give_the_features_of_a_later_gain(data):
    tokens = pl.concat([data.tokens, before(data).with_columns(pl.lit("c").alias("checkpoint"))])
    found = teachability_features(tokens, data.rollouts, checkpoint="b").collect()
    assert found["checkpoint"].unique().to_list() == ["b"]
