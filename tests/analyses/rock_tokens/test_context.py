"""The context stage against a plain loop over every pair of occurrences."""

from collections import defaultdict

import numpy as np
import polars as pl
import pytest
import scipy.stats

from opd_diag.analyses.rock_tokens import context, rock_tokens
from opd_diag.analyses.rock_tokens.context import recurring_contexts
from opd_diag.analyses.rock_tokens.occurrences import read_occurrences
from opd_diag.analyses.rock_tokens.options import Options
from opd_diag.datasets import null_run
from opd_diag.tables.source import as_source


def frames(rollouts, losses):
    """Put token lists into tables: `rollouts` is a list of (prompt, tokens)."""
    rows = []
    for name, values in losses.items():
        flat = iter(values)
        for number, (_, tokens) in enumerate(rollouts):
            for place, token in enumerate(tokens):
                rows.append((name, number, place, token, True, next(flat), 1.0))
    schema = {"checkpoint": pl.String, "rollout": pl.UInt32, "position": pl.UInt32,
              "token_id": pl.Int32, "in_loss": pl.Boolean, "reverse_kl": pl.Float32,
              "grad_logits": pl.Float32}  # fmt: skip
    tokens = pl.DataFrame(rows, schema=schema, orient="row")
    prompts = [prompt for prompt, _ in rollouts]
    halves = {prompt: i % 2 for i, prompt in enumerate(sorted(set(prompts)))}
    table = pl.DataFrame(
        {
            "rollout": range(len(prompts)),
            "prompt_id": prompts,
            "half": [halves[prompt] for prompt in prompts],
        },
        schema_overrides={"rollout": pl.UInt32, "half": pl.UInt8},
    )
    return tokens, table


def by_hand(tokens, rollouts, *, eta=0.1, tau="own", wanted=None):
    """Give O_PH and what is kept of it for every type, by loops."""
    names = tokens["checkpoint"].unique(maintain_order=True).to_list()
    sides = [
        tokens.filter(checkpoint=name).sort("rollout", "position").to_dicts() for name in names
    ]
    first, last = sides[0], sides[-1]
    at = {(row["rollout"], row["position"]): row["token_id"] for row in first}
    prompt = dict(rollouts.select("rollout", "prompt_id").iter_rows())
    counted = [
        i for i, (a, b) in enumerate(zip(first, last, strict=True))
        if a["in_loss"] and a["reverse_kl"] is not None and b["reverse_kl"] is not None
    ]  # fmt: skip
    taus = [np.quantile([side[i]["reverse_kl"] for i in counted], 0.8) for side in (first, last)]
    if tau == "first":
        taus[1] = taus[0]
    members = defaultdict(list)
    for i in counted:
        if first[i]["reverse_kl"] >= taus[0] and last[i]["reverse_kl"] >= taus[1]:
            members[first[i]["token_id"]].append((first[i]["rollout"], first[i]["position"]))
    return {
        token: (len(places), kept_by_hand(places, at, prompt, eta))
        for token, places in members.items()
        if wanted is None or token in wanted
    }


def kept_by_hand(places, at, prompt, eta):
    kept = 0
    for rollout, position in places:
        similar = others = 0
        for other, place in places:
            if prompt[other] == prompt[rollout]:
                continue
            others += 1
            matches = sum(
                at.get((rollout, position + step), "none here")
                == at.get((other, place + step), "none there")
                for step in (-4, -3, -2, -1, 1, 2, 3, 4)
            )
            similar += matches >= 2
        kept += similar >= 2 and similar / others >= eta - 1e-12
    return kept


@pytest.fixture(scope="module")
def noisy():
    """Few types, so that contexts recur by chance; tokens outside the loss and null losses."""
    data = null_run(prompts=9, samples=2, tokens=40, types=64, checkpoints=("a", "b"), seed=4)
    row = pl.int_range(pl.len())
    tokens = data.tokens.with_columns(
        token_id=(pl.col("token_id") % 9).cast(pl.Int32),
        in_loss=row % 40 > 2,
        reverse_kl=pl.when(row % 61 != 7).then("reverse_kl"),
    )
    # The two losses go together, so that many tokens are hard under both.
    first = tokens.filter(checkpoint="a")["reverse_kl"]
    both = pl.concat([first, first * 0.5 + 0.5 * tokens.filter(checkpoint="b")["reverse_kl"]])
    return tokens.with_columns(both.cast(pl.Float32)), data.rollouts


@pytest.mark.parametrize("options", [{}, {"eta": 0.4}, {"tau": "first"}, {"checkpoint": "a"}])
def test_members_and_recurring_shares_are_those_of_a_loop_over_pairs(noisy, options):
    tokens, rollouts = noisy
    rows = rock_tokens(tokens, rollouts, top=5, **options).rock_tokens
    if "checkpoint" in options:
        tokens = tokens.filter(checkpoint="a")
    expected = by_hand(tokens, rollouts, eta=options.get("eta", 0.1), tau=options.get("tau", "own"))
    seen = set()
    for row in rows.to_dicts():
        members, kept = expected.get(row["token_id"], (0, 0))
        assert row["n_persistent"] == members
        if members < 5:
            assert row["recurring_share"] is None
            assert row["CCR"] is None
            assert "too few persistent occurrences" in row["reason"]
            continue
        assert row["recurring_share"] == pytest.approx(kept / members)
        assert row["CCR"] == pytest.approx(kept / row["n"])
        assert row["R_ctx"] == pytest.approx(row["R"] * kept / row["n"])
        assert 0 <= row["recurring_share_null"] <= 1
        seen.add(round(row["recurring_share"], 3))
    assert len(seen) >= 3


def planted_members(alike, others):
    """One occurrence of type 1 in each prompt: some in one context, some in none that recurs."""
    texts = [(f"p{i:02d}", [7, 8, 1, 90 + i]) for i in range(alike)]
    texts += [
        (f"p{i:02d}", [100 + 4 * i, 101 + 4 * i, 1, 103 + 4 * i])
        for i in range(alike, alike + others)
    ]
    # Soft tokens, so that the members are the hardest fifth.
    texts += [(f"q{i:02d}", [50 + i % 5] * 8) for i in range(alike + others)]
    hard = {name: [float(t == 1) + (t == 50) * 1e-3 for _, tokens in texts for t in tokens]
            for name in ("a", "b")}  # fmt: skip
    return frames(texts, hard)


@pytest.mark.parametrize(("eta", "kept"), [(0.7, 8), (0.71, 0), (0.0, 8)])
def test_a_share_of_exactly_eta_is_enough(eta, kept):
    # Each of the 8 has 7 similar ones among 10 others; 0.7 * 10 is a little more than 7.
    tokens, rollouts = planted_members(8, 3)
    assert 0.7 * 10 != 7 or 0.1 * 3 != 0.3
    row = rock_tokens(tokens, rollouts, eta=eta).rock_tokens.filter(token_id=1).row(0, named=True)
    assert row["n_persistent"] == 11
    assert row["CCR"] == pytest.approx(kept / 11)


def test_two_similar_ones_are_needed():
    pair, three = (planted_members(alike, 9) for alike in (2, 3))
    for (tokens, rollouts), kept in ((pair, 0), (three, 3)):
        row = rock_tokens(tokens, rollouts, eta=0.0).rock_tokens.filter(token_id=1)
        assert row["n_persistent"].item() * row["recurring_share"].item() == pytest.approx(kept)


def test_the_same_prompt_is_no_evidence():
    tokens, rollouts = planted_members(8, 3)
    one = pl.when(pl.col("prompt_id") < "p08").then(pl.lit("p00")).otherwise("prompt_id")
    rollouts = rollouts.with_columns(prompt_id=one, half=pl.col("rollout").cast(pl.UInt8) % 2)
    rollouts = rollouts.with_columns(half=pl.col("half").first().over("prompt_id"))
    row = rock_tokens(tokens, rollouts).rock_tokens.filter(token_id=1).row(0, named=True)
    assert row["n_persistent"] == 11
    assert row["recurring_share"] == 0


def test_places_outside_the_response_never_match():
    # Alike only in what stands before the response of the next rollout, or in nothing at all.
    texts = [(f"p{i:02d}", [1, 60 + i]) for i in range(12)]
    texts += [(f"q{i:02d}", [50] * 8) for i in range(12)]
    hard = {"a": [float(t == 1) for _, tokens in texts for t in tokens]}
    tokens, rollouts = frames(texts, hard)
    row = rock_tokens(tokens, rollouts).rock_tokens.filter(token_id=1).row(0, named=True)
    assert row["n_persistent"] == 12
    assert row["recurring_share"] == 0


def everything_hard(types=4, seed=0, prompts=10):
    data = null_run(prompts=prompts, samples=2, tokens=30, types=64, seed=seed)
    tokens = data.tokens.with_columns(token_id=(pl.col("token_id") % types).cast(pl.Int32))
    return tokens, data.rollouts


def test_the_null_of_a_type_that_is_hard_everywhere_is_its_own_share():
    tokens, rollouts = everything_hard(types=12)
    always = tokens.with_columns(
        reverse_kl=pl.when(pl.col("token_id") == 3).then(1.0).otherwise(0.1).cast(pl.Float32)
    )
    rows = rock_tokens(always, rollouts, top=2, eta=0.25).rock_tokens
    row = rows.filter(token_id=3).row(0, named=True)
    assert row["n_persistent"] == row["n"]
    assert row["recurring_share_null"] == pytest.approx(row["recurring_share"])
    assert 0 < row["recurring_share"] < 1


def test_the_null_share_is_the_largest_of_twenty_random_sets(noisy):
    tokens, rollouts = noisy
    source = as_source(tokens, rollouts)
    read = read_occurrences(source, ["a", "b"], source.rollouts, "reverse_kl")
    item = np.array([0])
    ours = [recurring_contexts(read, item, Options(eta=0.3, seed=seed))[0] for seed in range(40)]
    at = {(r, p): t for r, p, t in tokens.filter(checkpoint="a")
          .select("rollout", "position", "token_id").iter_rows()}  # fmt: skip
    prompt = dict(rollouts.select("rollout", "prompt_id").iter_rows())
    own = np.flatnonzero(read.kind[read.at] == 0)
    places = [(int(read.rollout[i]), int(read.position[i])) for i in read.at[own]]
    rng = np.random.default_rng(7)
    size = ours[0].members
    assert 5 <= size < len(places) / 2
    theirs = []
    for _ in range(12):
        draws = [
            kept_by_hand([places[i] for i in rng.choice(len(places), size, replace=False)],
                         at, prompt, 0.3) / size
            for _ in range(20)
        ]  # fmt: skip
        theirs.append(max(draws))
    found = np.array([one.null_share for one in ours])
    assert len(set(found)) > 3
    spread = np.sqrt(found.var() / found.size + np.var(theirs) / len(theirs))
    assert abs(found.mean() - np.mean(theirs)) < 4 * spread


def test_random_members_recur_more_than_the_null_in_one_of_twenty_one_types_or_fewer():
    above = total = 0
    for seed in range(20):
        tokens, rollouts = everything_hard(types=6, seed=seed)
        rows = rock_tokens(tokens, rollouts, top=3, eta=0.3).rock_tokens.drop_nulls("CCR")
        above += rows.filter(pl.col("recurring_share") > pl.col("recurring_share_null")).height
        total += rows.height
    assert total > 100
    assert above <= scipy.stats.binom.ppf(0.9999, total, 1 / 21)


def test_many_members_are_sampled_scaled_and_reported(monkeypatch, noisy):
    tokens, rollouts = noisy
    whole = rock_tokens(tokens, rollouts, top=5).rock_tokens
    monkeypatch.setattr(context, "MOST_MEMBERS", 12)
    monkeypatch.setattr("opd_diag.analyses.rock_tokens.types.MOST_MEMBERS", 12)
    parts = [rock_tokens(tokens, rollouts, top=5, seed=seed).rock_tokens for seed in range(3)]
    for part in parts:
        both = part.join(whole, on="token_id", suffix="_whole")
        sampled = both.filter(pl.col("n_persistent") > 12)
        assert sampled.height
        assert sampled["n_persistent"].to_list() == sampled["n_persistent_whole"].to_list()
        assert sampled["reason"].str.contains("context on a sample of 12").all()
        scaled = sampled["recurring_share"] * sampled["n_persistent"] / sampled["n"]
        np.testing.assert_allclose(sampled["CCR"], scaled)
        assert (sampled["recurring_share"] * 12 % 1).round(6).is_in([0.0, 1.0]).all()
        unsampled = both.filter(pl.col("n_persistent").is_between(5, 12))
        assert unsampled["CCR"].to_list() == unsampled["CCR_whole"].to_list()


def test_a_type_has_the_same_figures_whatever_else_is_asked(noisy):
    tokens, rollouts = noisy
    many, few = (
        rock_tokens(tokens, rollouts, top=5, detail=detail).rock_tokens for detail in (9, 4)
    )
    shared = few.filter(pl.col("rank") <= 4).select("recurring_share_null", "recurring_share")
    assert shared.equals(many.head(4).select("recurring_share_null", "recurring_share"))
    rest = few.filter(pl.col("rank") > 4)
    assert rest["n_persistent"].is_null().all()
    assert rest["reason"].str.contains("not among the top 4 by R: no intervals").all()
