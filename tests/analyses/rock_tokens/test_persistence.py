"""Single occurrences followed over checkpoints, against loops and planted cases."""

from collections import defaultdict

import numpy as np
import polars as pl
import pytest

from opd_diag.analyses.rock_tokens import rock_tokens
from opd_diag.datasets import null_run, rock_run, save_run
from opd_diag.datasets.nulls import ugly_run


def asked(data, **options):
    return rock_tokens(data.tokens, data.rollouts, **{"top": 10, "detail": 20} | options)


def losses(data, names):
    """Loss of each occurrence under each checkpoint, and its key."""
    sides = [data.tokens.filter(checkpoint=name).sort("rollout", "position") for name in names]
    kl = np.stack([side["reverse_kl"].to_numpy() for side in sides])
    prompt = dict(data.rollouts.select("rollout", "prompt_id").iter_rows())
    prompts = [prompt[rollout] for rollout in sides[0]["rollout"]]
    return kl, prompts, sides[0]["token_id"].to_list()


@pytest.fixture(scope="module")
def data():
    return rock_run(
        prompts=10, samples=2, tokens=80, types=70, checkpoints=("step1", "step20", "x"), seed=2
    )


def test_shares_and_survival_are_those_of_a_loop(data):
    names = ("step1", "step20", "x")
    rows = asked(data).rock_persistence
    kl, prompts, types = losses(data, names)
    hard = np.array([one >= np.quantile(one, 0.8) for one in kl])
    wanted = {"all": set(types)}
    wanted |= {str(row): {row} for row in rows.filter(kind="type")["token_id"].to_list()}
    for place, name in enumerate(names):
        for who, ids in wanted.items():
            row = rows.filter(checkpoint=name)
            single = who != "all"
            row = row.filter(token_id=int(who)) if single else row.filter(name="all")
            if row.is_empty():
                assert single
                assert place < 2
                continue
            (row,) = row.to_dicts()
            own = [i for i, token in enumerate(types) if token in ids]
            first, now = hard[0][own], hard[place][own]
            always = hard[: place + 1, own].all(axis=0)
            assert row["n"] == len(own)
            assert row["n_hard_first"] == first.sum()
            assert row["n_prompts"] == len({prompts[i] for i in own if hard[0][i]})
            assert row["hard"] == pytest.approx(now.mean())
            for column, members in {
                "share_easy": ~first & ~now,
                "share_learned": first & ~now,
                "share_rock": first & now,
                "share_regressed": ~first & now,
            }.items():
                assert row[column] == pytest.approx(members.mean())
            if first.any():
                assert row["stays_hard"] == pytest.approx(now[first].mean())
                assert row["survival"] == pytest.approx(always[first].mean())
            if not first.all():
                assert row["turns_hard"] == pytest.approx(now[~first].mean())


def test_what_is_expected_of_a_type_is_the_mean_of_many_permutations(data):
    (row,) = asked(data).rock_persistence.filter(checkpoint="x", name="all").to_dicts()
    kl, prompts, types = losses(data, ("step1", "x"))
    hard = kl >= np.quantile(kl, 0.8, axis=1, keepdims=True)
    cells = defaultdict(list)
    for i, key in enumerate(zip(prompts, types, strict=True)):
        cells[key].append(i)
    several = [np.array(members) for members in cells.values() if len(members) > 1]
    n = sum(hard[0][members].sum() for members in several)
    observed = sum((hard[0] & hard[1])[members].sum() for members in several)
    # Of each hard one, the share among the other occurrences there: the mean of a permutation
    # that moves it to another place.
    expected = sum(
        np.delete(hard[1][members], at).mean()
        for members in several
        for at in np.flatnonzero(hard[0][members])
    )
    assert row["expected"] == pytest.approx(expected / n)
    assert row["occurrence_adds"] == pytest.approx((observed - expected) / n)
    assert row["type_adds"] == pytest.approx(expected / n - hard[1].mean())


def test_steps_are_read_from_the_names_of_checkpoints(data):
    rows = asked(data).rock_persistence
    steps = dict(rows.select("checkpoint", "step").unique().iter_rows())
    assert steps == {"step1": 1, "step20": 20, "x": None}
    tokens = data.tokens.with_columns(
        pl.col("checkpoint").replace({"step1": "global_step_150", "x": "Checkpoint-300"})
    )
    renamed = rock_tokens(tokens, data.rollouts, top=10).rock_persistence
    assert set(renamed["step"]) == {150, 20, 300}


def planted(seed, *, by_type):
    """Plant hard tokens that stay: all of some types, or single ones of easy types."""
    data = ugly_run(prompts=40, types=300, sigma=1.0, snapshots=1.0, seed=seed)
    ids = data.tokens["token_id"].to_numpy()
    size = ids.size // 3
    rng = np.random.default_rng([seed, 4])
    planted_types = np.arange(4, 16)
    inside = np.isin(ids[:size], planted_types)
    chosen = inside if by_type else inside & (rng.random(size) < 0.3)
    factor = np.tile(np.where(chosen, 40.0, 1.0), 3)
    tokens = data.tokens.with_columns((pl.col("reverse_kl") * factor).cast(pl.Float32))
    return data._replace(tokens=tokens), set(planted_types.tolist())


def test_a_hard_type_and_hard_occurrences_of_easy_types_are_told_apart():
    adds = {}
    for by_type in (True, False):
        data, types = planted(1, by_type=by_type)
        rows = asked(data, top=40).rock_persistence.filter(checkpoint="step300", kind="type")
        own = rows.filter(pl.col("token_id").is_in(types), pl.col("n_hard_first") >= 20)
        assert own.height >= 4
        assert own["stays_hard"].mean() > 0.7
        adds[by_type] = own.select("type_adds", "occurrence_adds").mean().row(0)
    assert adds[True][0] > 0.5  # the type explains it
    assert adds[True][1] < 0.1
    assert adds[False][1] > 0.3  # the occurrence adds to its type
    assert adds[False][0] < adds[True][0] - 0.3


def test_permuted_losses_add_nothing():
    outside = 0
    for seed in range(12):
        data = null_run(prompts=24, samples=2, tokens=100, types=100, checkpoints=("a", "b"),
                        seed=seed)  # fmt: skip
        rows = asked(data).rock_persistence.filter(checkpoint="b", name="all")
        (row,) = rows.to_dicts()
        assert row["stays_hard"] == pytest.approx(0.2, abs=0.05)
        outside += not row["occurrence_adds_low"] <= 0 <= row["occurrence_adds_high"]
    assert outside <= 3


def test_twenty_checkpoints_survive_less_and_less():
    names = [f"step{i}" for i in range(20)]
    data = ugly_run(prompts=12, tokens=60, types=100, checkpoints=names, seed=1)
    rows = asked(data).rock_persistence.filter(name="rock")
    assert rows["checkpoint"].to_list() == names
    survival = rows["survival"].to_numpy()
    assert (np.diff(survival) <= 0).all()
    assert survival[0] == 1
    assert survival[-1] < 0.9
    assert (rows["survival"] <= rows["stays_hard"]).all()
    assert rows["survival_low"][1:].is_not_null().all()


def test_one_checkpoint_has_a_reason():
    data = null_run(prompts=8, tokens=60, types=70)
    rows = asked(data).rock_persistence
    assert rows["kind"].unique().to_list() == ["group"]
    assert rows["reason"].str.contains("one checkpoint").all()
    assert rows["stays_hard_low"].is_null().all()


def test_losses_of_zero_are_not_hard():
    data = null_run(prompts=8, tokens=60, types=70, checkpoints=("a", "b"))
    row = pl.int_range(pl.len())
    kl = pl.when(row % 10 == 0).then("reverse_kl").otherwise(0.0).cast(pl.Float32)
    rows = asked(data._replace(tokens=data.tokens.with_columns(reverse_kl=kl))).rock_persistence
    (first,) = rows.filter(checkpoint="a", name="all").to_dicts()
    assert first["n_hard_first"] == first["n"] // 10


def test_a_second_run_may_have_types_that_the_first_lacks():
    one, other = (
        rock_run(prompts=30, samples=2, tokens=80, types=types, checkpoints=("a", "b"), seed=types)
        for types in (70, 200)
    )
    assert set(other.tokens["token_id"].to_list()) - set(one.tokens["token_id"].to_list())
    rows = asked(one, second=(other.tokens, other.rollouts)).rock_persistence
    tokens = one.tokens.filter(checkpoint="a")
    alone = asked(one._replace(tokens=tokens)).rock_persistence
    keys = ["name", "n", "n_hard_first"]
    groups = rows.filter(checkpoint="a", kind="group").select(keys)
    assert groups["n"][0] == tokens.height
    known = pl.col("name").is_in(["all", "rock", "high_kl"])
    assert groups.filter(known).equals(alone.filter(known, kind="group").select(keys))
    second = other.tokens.filter(checkpoint="b")
    for row in rows.filter(checkpoint="b", kind="type").to_dicts():
        assert row["n"] == second.filter(token_id=row["token_id"]).height


def test_a_second_run_compares_lists_and_types_without_pairing():
    one, other = (
        rock_run(prompts=30, samples=2, tokens=80, types=70, checkpoints=("a", "b"), seed=seed)
        for seed in (3, 9)
    )
    result = asked(one, second=(other.tokens, other.rollouts))
    rows = result.rock_persistence.filter(checkpoint="b")
    assert rows["reason"].str.contains("unpaired").all()
    kl = other.tokens.filter(checkpoint="b")
    tau = np.quantile(kl["reverse_kl"].to_numpy(), 0.8)
    for row in rows.to_dicts():
        own = kl if row["token_id"] is None else kl.filter(token_id=row["token_id"])
        assert row["n"] == own.height
        assert row["hard"] == pytest.approx((own["reverse_kl"] >= tau).mean())
        assert row["stays_hard"] is None
        if row["token_id"] is not None:
            assert row["type_adds"] == pytest.approx(row["hard"] - (kl["reverse_kl"] >= tau).mean())
    cutoff = result.rock_cutoff.filter(selector="R", K=10).row(0, named=True)
    ids = result.rock_tokens.filter(pl.col("rank").is_not_null())["token_id"].to_list()
    lists = []
    for tokens in (one.tokens.filter(checkpoint="a"), kl):
        sums = tokens.group_by("token_id").agg(pl.col("reverse_kl").cast(pl.Float64).sum())
        ranked = sums.sort("reverse_kl", descending=True).filter(pl.col("token_id").is_in(ids))
        lists.append(set(ranked["token_id"].head(10)))
    assert cutoff["J_second"] == pytest.approx(len(lists[0] & lists[1]) / len(lists[0] | lists[1]))
    assert cutoff["J_c_second"] < cutoff["J_second"]


def test_classes_of_tokens_have_rows_and_sum_to_all(tmp_path):
    data = rock_run(prompts=8, samples=2, tokens=80, types=70, checkpoints=("a", "b"), seed=3)
    result = rock_tokens(save_run(data, tmp_path), top=10)
    rows = result.rock_persistence.filter(checkpoint="b")
    classes = rows.filter(kind="class")
    (whole,) = rows.filter(name="all").to_dicts()
    assert classes["name"].to_list() == ["digit"]  # the vocabulary spells numbers
    assert classes["n"].sum() == whole["n"]
    assert classes["stays_hard"][0] == pytest.approx(whole["stays_hard"])
    listed = rows.filter(kind="type")
    assert listed["text"].to_list() == [f" {i}" for i in listed["token_id"]]
    lift = dict(result.rock_tokens.select("token_id", "lift").iter_rows())
    assert listed["lift"].to_list() == [lift[i] for i in listed["token_id"]]
