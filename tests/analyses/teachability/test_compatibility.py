"""Does compatibility matter, given divergence: planted, null, leaked, and against brute force."""

import numpy as np
import polars as pl
import pytest
import scipy.stats

from opd_diag.analyses.teachability import teachability, teachability_features
from opd_diag.analyses.teachability.contexts import read_contexts
from opd_diag.analyses.teachability.contrast import contrast_table
from opd_diag.analyses.teachability.models import models_table
from opd_diag.analyses.teachability.options import Options, choose_pair
from opd_diag.analyses.teachability.sample import sample_tokens
from opd_diag.datasets import null_run, teachable_run
from opd_diag.errors import OptionError
from opd_diag.stats.matching import nearest_others
from opd_diag.tables.source import as_source, choose_rollouts

SHAPES = ("linear", "root", "square")
THREE = ("step0", "step1", "step2")


@pytest.fixture(autouse=True)
def few_permutations(monkeypatch):
    monkeypatch.setattr("opd_diag.analyses.teachability.contrast.NULL_DRAWS", 2)
    monkeypatch.setattr("opd_diag.analyses.teachability.models.DRAWS", 10)


def contexts_of(run, seed=0):
    source = as_source(run.tokens, run.rollouts)
    pair = choose_pair(source, None, None, None)
    return read_contexts(source, pair, choose_rollouts(run.rollouts), Options(seed=seed))


def answers(seed, *, within="run", **options):
    """Rows of model `local`, model `full` and both contrasts, on forward_kl, out of time."""
    options = {"checkpoints": THREE, "snapshots": 0.0} | options
    run = teachable_run(prompts=24, samples=2, tokens=60, seed=seed, **options)
    contexts = contexts_of(run, seed)
    sample = sample_tokens(contexts)
    models = models_table(contexts, sample).filter(kl="forward_kl", trimmed=False)
    contrast = contrast_table(contexts, sample, within=within).filter(kl="forward_kl")
    found = {(row["model"], row["term"]): row for row in models.iter_rows(named=True)}
    found |= {row["contrast"]: row for row in contrast.iter_rows(named=True)}
    return found


def covers(row, name, value):
    return row[f"{name}_low"] <= value <= row[f"{name}_high"]


def at_least(seeds, rate):
    """The fewest hits that a true rate would fall below once in ten thousand times."""
    return scipy.stats.binom.ppf(1e-4, seeds, rate)


def test_without_an_effect_neither_answer_finds_one_while_the_descriptive_ones_do():
    seeds = 21
    hits = dict.fromkeys(("local", "matched", "adjusted", "p", "thirds", "full"), 0)
    for seed in range(seeds):
        found = answers(seed, shape=SHAPES[seed % 3])
        hits["local"] += covers(found["local", "local compatibility"], "coefficient", 0)
        hits["matched"] += covers(found["matched"], "difference", 0)
        hits["adjusted"] += covers(found["matched"], "adjusted", 0)
        hits["p"] += found["matched"]["p"] > 0.05
        hits["thirds"] += covers(found["Q3 thirds"], "difference", 0)
        hits["full"] += covers(found["full", "divergence x compatibility"], "coefficient", 0)
        assert found["matched"]["reason"] in (None, "few prompts")
        assert "not a test of compatibility" in found["Q3 thirds"]["note"]
        assert "not the test" in found["full", "compatibility"]["note"]
    assert hits["local"] >= at_least(seeds, 0.90)
    assert min(hits[name] for name in ("matched", "adjusted", "p")) >= at_least(seeds, 0.95)
    # A gain that depends on divergence alone fools the contrast of Q3 and the linear model.
    assert hits["thirds"] <= seeds / 2
    assert hits["full"] <= seeds / 2


def test_a_planted_effect_is_recovered_with_covering_intervals():
    seeds = 12
    hits = dict.fromkeys(("local", "matched", "adjusted", "full C", "full DC"), 0)
    for seed in range(seeds):
        found = answers(seed, compatibility=0.1)
        local = found["local", "local compatibility"]
        hits["local"] += covers(local, "coefficient", 0.1)
        assert local["coefficient_low"] > 0
        matched = found["matched"]
        for name in ("matched", "adjusted"):
            column = name if name == "adjusted" else "difference"
            hits[name] += covers(matched, column, 0.1 * matched["compatibility_gap"])
        assert matched["adjusted_low"] > 0
        assert matched["p"] <= 0.01
        linear = answers(seed, compatibility=0.05, interaction=0.05) if seed < 8 else found
        truth = (0.05, 0.05) if seed < 8 else (0.1, 0.0)
        hits["full C"] += covers(linear["full", "compatibility"], "coefficient", truth[0])
        product = linear["full", "divergence x compatibility"]
        hits["full DC"] += covers(product, "coefficient", truth[1])
    assert min(hits.values()) >= at_least(seeds, 0.92)


def test_pairs_inside_a_prompt_find_the_effect_too():
    found = answers(0, compatibility=0.1, within="prompt")["matched"]
    assert found["within"] == "prompt"
    assert found["n_pairs"] < answers(0, compatibility=0.1)["matched"]["n_pairs"]
    assert found["p"] <= 0.05


def coordinates(tokens):
    """Normal scores of entropy and divergence, and position in standard deviations."""
    raw = (tokens[name].to_numpy() for name in ("student_entropy", "forward_kl"))
    ranks = (scipy.stats.rankdata(values) for values in raw)
    scores = (scipy.stats.norm.ppf((rank - 0.5) / tokens.height) for rank in ranks)
    position = tokens["position"].to_numpy().astype(float)
    return np.column_stack([*scores, position / position.std()])


def test_the_matched_contrast_equals_brute_force():
    run = teachable_run(prompts=4, samples=15, tokens=15, seed=5, sigma=2.0)
    contexts = contexts_of(run)
    sample = sample_tokens(contexts)
    row = contrast_table(contexts, sample, within="prompt")
    row = row.filter(contrast="matched", kl="forward_kl")
    one, other = run.tokens.partition_by("checkpoint", maintain_order=True)
    x = coordinates(one)
    c = one["teacher_mass"].to_numpy()[:, 3].astype(float)
    gain = (one["forward_kl"] - other["forward_kl"]).to_numpy().astype(float)
    prompt = one["rollout"].to_numpy() // 15
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    others = distance + np.diag(np.full(len(x), np.inf))
    local = c - c[np.argsort(others, axis=1)[:, :50]].mean(axis=1)
    ranked = np.argsort(local)
    low, high = ranked[:300], ranked[-300:]
    candidates = [
        (distance[i, j], i, j)
        for i in high
        for j in low
        if prompt[i] == prompt[j] and (np.abs(x[i] - x[j]) <= 0.2).all()
    ]
    pairs, taken = [], set()
    for _, i, j in sorted(candidates):
        if not {i, j} & taken:
            taken |= {i, j}
            pairs.append((i, j))
    left, right = np.array(pairs).T
    assert row["n_pairs"].to_list() == [len(pairs)]
    assert row["share_matched"][0] == pytest.approx(len(pairs) / 300)
    d = one["forward_kl"].to_numpy().astype(float)
    fold = np.maximum(d[left], d[right]) / np.minimum(d[left], d[right])
    assert row["twofold"][0] == pytest.approx((fold > 2).mean())
    assert row["difference"][0] == pytest.approx((gain[left] - gain[right]).mean())
    assert row["compatibility_gap"][0] == pytest.approx((c[left] - c[right]).mean())
    for j, name in enumerate(("entropy", "divergence", "position")):
        before, after = (
            x[high].mean(axis=0) - x[low].mean(axis=0),
            (x[left] - x[right]).mean(axis=0),
        )
        assert row[f"{name}_before"][0] == pytest.approx(before[j])
        assert row[f"{name}_after"][0] == pytest.approx(after[j])
    assert row["reason"][0].startswith("fewer than 50 pairs or 10 prompts")
    assert row["difference_low"].null_count() == 1


def test_thirds_of_q3_equal_those_of_the_rows():
    run = teachable_run(prompts=10, samples=2, tokens=48, seed=3)
    contexts = contexts_of(run)
    row = contrast_table(contexts, "no sample", within="run")
    row = row.filter(contrast="Q3 thirds", kl="forward_kl")
    one, other = run.tokens.partition_by("checkpoint", maintain_order=True)
    rows = one.with_columns(
        c=pl.col("teacher_mass").arr.get(3), gain=pl.col("forward_kl") - other["forward_kl"]
    )
    h, d = pl.col("student_entropy"), pl.col("forward_kl")
    q3 = rows.filter(h <= h.median(), d > d.median()).sort("c")["gain"].to_numpy().astype(float)
    third = len(q3) // 3
    assert row["n"][0] == len(q3)
    assert row["difference"][0] == pytest.approx(q3[-third:].mean() - q3[:third].mean(), abs=5e-3)
    assert row["gain_top"][0] - row["gain_bottom"][0] == pytest.approx(row["difference"][0])
    assert row["difference_low"][0] < row["difference"][0] < row["difference_high"][0]


def leaky_run(seed):
    """Student logits before training, and the same plus noise: nothing is learned on purpose.

    Returns the tokens as they are, and with compatibility taken from after training.
    """
    rng = np.random.default_rng(seed)
    base = null_run(prompts=12, samples=2, tokens=60, checkpoints=("step0", "step1"), seed=seed)
    n = 12 * 2 * 60
    teacher = 2.0 * rng.standard_normal((n, 60))
    first = teacher + 1.5 * rng.standard_normal((n, 60))
    last = first + 0.8 * rng.standard_normal((n, 60))
    log_q = teacher - np.log(np.exp(teacher).sum(axis=1, keepdims=True))
    columns = []
    for logits in (first, last):
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        top = np.argsort(-log_p, axis=1)
        mass = np.cumsum(np.take_along_axis(np.exp(log_q), top, axis=1), axis=1)
        columns.append(
            {
                "forward_kl": (np.exp(log_q) * (log_q - log_p)).sum(axis=1),
                "student_entropy": -(np.exp(log_p) * log_p).sum(axis=1),
                "teacher_mass": mass[:, [1, 3, 7, 15, 31, 59]],
            }
        )
    frames = base.tokens.partition_by("checkpoint", maintain_order=True)

    def built(masses):
        return base._replace(
            tokens=pl.concat(
                frame.with_columns(
                    pl.Series(name, values.astype(np.float32), frame.schema[name])
                    for name, values in (scores | {"teacher_mass": mass}).items()
                )
                for frame, scores, mass in zip(frames, columns, masses, strict=True)
            )
        )

    before, after = (scores["teacher_mass"] for scores in columns)
    return built((before, after)), built((after, after))


def test_compatibility_after_training_leaks_the_gain():
    gaps = np.empty((6, 2))
    for seed in range(6):
        for j, run in enumerate(leaky_run(seed)):
            table = contrast_table(contexts_of(run), "no sample", within="run")
            gaps[seed, j] = table.filter(kl="forward_kl")["difference"][0]
    honest, leaked = gaps.mean(axis=0)
    assert leaked > 0
    assert leaked > 2 * abs(honest)
    assert (gaps[:, 1] > gaps[:, 0]).all()


def test_the_analysis_refuses_the_features_that_leak():
    run, _ = leaky_run(0)
    why = "'step1', 'step0', 'step1'; expected features from no later student than the gain"
    with pytest.raises(OptionError, match=f"features_from, gain_from, checkpoint: {why}"):
        teachability(run.tokens, run.rollouts, features_from="step1")
    with pytest.raises(OptionError, match="checkpoint: 'step1'; expected one before it"):
        teachability_features(run.tokens, run.rollouts, checkpoint="step1")


def test_too_few_tokens_and_constant_features_give_a_reason():
    small = teachable_run(prompts=5, samples=1, tokens=10, checkpoints=THREE)
    contexts = contexts_of(small)
    sample = sample_tokens(contexts)
    assert sample == "too few tokens"
    table = contrast_table(contexts, sample, within="run").filter(contrast="matched")
    assert table["reason"].to_list() == ["too few tokens"] * 2
    models = models_table(contexts, sample).filter(model="local")
    assert models["reason"].to_list() == ["too few tokens"] * 2
    big = teachable_run(prompts=6, samples=2, tokens=30)
    flat = big._replace(tokens=big.tokens.with_columns(student_entropy=pl.lit(1.0, pl.Float32)))
    assert sample_tokens(contexts_of(flat)) == "constant: entropy"
    base = models_table(contexts_of(flat), "constant: entropy").filter(model="base")
    assert base["reason"].unique().to_list() == [
        "a term or the gain does not vary, or terms are collinear"
    ]


def test_a_sample_holds_whole_prompts_up_to_its_size():
    run = teachable_run(prompts=12, samples=2, tokens=20)
    for seed in range(4):
        contexts = contexts_of(run, seed)
        sample = sample_tokens(contexts, most_tokens=210)
        assert len(sample.rows) == 200
        drawn = np.unique(contexts.prompts.code[sample.rows])
        assert np.isin(contexts.prompts.code, drawn).sum() == 200
        assert sample.prompt.max() == 4
    assert len(sample_tokens(contexts).rows) == 480


def test_permutations_stay_inside_their_cells():
    contexts = contexts_of(teachable_run(prompts=12, samples=2, tokens=20))
    sample = sample_tokens(contexts)
    first, second = sample.permutations(2, 5)
    for order in (first, second):
        assert np.array_equal(np.sort(order), np.arange(480))
        assert np.array_equal(sample.cell[order], sample.cell)
    assert (first != second).any()


def fitted(terms, y):
    """Coefficients and the share of the variance that they fit."""
    X = np.column_stack([np.ones(len(y)), *terms])
    beta = np.linalg.lstsq(X, y, rcond=None)[0]
    return beta, 1 - np.square(y - X @ beta).sum() / np.square(y - y.mean()).sum()


def test_the_models_equal_least_squares_on_the_rows():
    run = teachable_run(prompts=6, samples=2, tokens=30, compatibility=0.1, seed=4)
    contexts = contexts_of(run)
    table = models_table(contexts, sample_tokens(contexts))
    table = table.filter(kl="forward_kl", trimmed=False)
    one, other = run.tokens.partition_by("checkpoint", maintain_order=True)
    h, d, position, teacher = (
        one[name].to_numpy().astype(float)
        for name in ("student_entropy", "forward_kl", "position", "teacher_entropy")
    )
    c = one["teacher_mass"].to_numpy()[:, 3].astype(float)
    gain = (one["forward_kl"] - other["forward_kl"]).to_numpy().astype(float)
    x = coordinates(one)
    distance = np.linalg.norm(x[:, None] - x[None], axis=2) + np.diag(np.full(len(x), np.inf))
    nearest = np.argsort(distance, axis=1)[:, :50]
    base = [h, d, h * d, position, teacher]
    score_h, score_d = x[:, 0], x[:, 1]
    offset_h, offset_d, offset_p, own = (value - value[nearest].mean(axis=1) for value in (*x.T, c))
    slopes = (
        score_h * offset_h, score_h * offset_d, score_d * offset_h, score_d * offset_d,
        score_d**2 * offset_d,
    )  # fmt: skip
    offsets = [offset_h, offset_d, offset_p, *slopes]
    gains = {"local": gain - gain[nearest].mean(axis=1)}
    for model, terms, without in (
        ("base", base, None),
        ("full", [*base, c, d * c], base),
        ("local", [*offsets, own], offsets),
    ):
        rows = table.filter(model=model)
        y = gains.get(model, gain)
        beta, r2 = fitted(terms, y)
        np.testing.assert_allclose(rows["coefficient"], beta, rtol=1e-4, atol=1e-6)
        spread = np.array([term.std() for term in terms]) / y.std()
        np.testing.assert_allclose(rows["standard"][1:], beta[1:] * spread, rtol=1e-4, atol=1e-6)
        assert rows["r2"][0] == pytest.approx(r2, rel=1e-6)
        if without is not None:
            added = r2 - fitted(without, y)[1]
            assert rows["delta_r2"][0] == pytest.approx(added, rel=1e-4)
            assert rows["sample_delta_r2"][0] == pytest.approx(added, rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_how_a_token_lies_among_its_neighbours_is_no_compatibility(seed):
    """At large divergence the neighbours lie at smaller ones, which bends local compatibility."""
    found = answers(seed, shape="square", sigma=2.0)["local", "local compatibility"]
    assert covers(found, "coefficient", 0)
    rng = np.random.default_rng(seed)
    d = rng.gamma(1.2, 0.8, 3000)
    h, position = rng.gamma(1.0, 0.6, 3000), rng.integers(100, size=3000) * 1.0
    c = 1 / (1 + np.exp(0.8 * d + 0.5 * h - 3 + rng.standard_normal(3000)))
    x = np.column_stack([h / h.std(), d / d.std(), position / position.std()])
    nearest = nearest_others(x, 50)
    gain = d**2 / 4
    gain, own = (value - value[nearest].mean(axis=1) for value in (gain, c))
    # Without the offsets the bend is taken for compatibility.
    assert fitted([own], gain)[0][-1] < -0.01
