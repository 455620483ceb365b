"""Classes of tokens by group and phase, against group-bys."""

import numpy as np
import polars as pl
import pytest

from opd_diag.analyses.rock_tokens import rock_tokens
from opd_diag.datasets import rock_run, save_run
from opd_diag.tables.columns.agreement_traps import TABLES as TRAPS
from opd_diag.tables.columns.release_points import TABLES as RELEASES
from opd_diag.tables.run import Run
from opd_diag.tables.schema import polars_schema

SPELLED = {0: b" the", 1: b"7", 2: b".", 3: b"\n", 4: b" wait", 5: b"$"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = rock_run(prompts=10, samples=2, tokens=80, types=70, checkpoints=("a", "b"), seed=3)
    run = save_run(data, tmp_path_factory.mktemp("run"))
    results = {
        "release_points": ({"release_token": [30, None]}, RELEASES["release_points"]),
        "agreement_traps": ({"cut_token": [20, 50], "stretch_end_token": [44, 59]},
                            TRAPS["agreement_traps"]),
    }  # fmt: skip
    tables = {}
    for name, (own, columns) in results.items():
        schema = polars_schema(columns)
        required = {c.name: _value(c) for c in columns if not c.nullable}
        rows = pl.DataFrame(required | {"checkpoint": "b", "rollout": [0, 1]} | own, strict=False)
        absent = [pl.lit(None, schema[c]).alias(c) for c in schema if c not in rows.columns]
        tables[name] = rows.with_columns(absent).select(schema.names()).cast(dict(schema))
    run.save(tables, arguments={})
    return data, run


@pytest.fixture(autouse=True)
def _spelled(run, monkeypatch):
    """Types spell words, digits and signs, not the numbers of the generated vocabulary."""
    _, saved = run
    spelled = [SPELLED[i % 6] for i in saved.vocab["token_id"]]
    vocabulary = saved.vocab.with_columns(bytes=pl.Series(spelled))
    monkeypatch.setattr(
        "opd_diag.analyses.rock_tokens.vocabulary",
        lambda source: vocabulary if isinstance(source, Run) else None,
    )


def _value(column):
    return "x" if column.dtype == pl.String else False if column.dtype == pl.Boolean else 0


def test_shares_lift_and_change_are_those_of_a_group_by(run):
    data, saved = run
    table = rock_tokens(saved, top=10).rock_composition
    first, last = (data.tokens.filter(checkpoint=name) for name in ("a", "b"))
    names = {b" the": "word start", b"7": "digit", b".": "punctuation", b"\n": "whitespace",
             b" wait": "discourse", b"$": "markup"}  # fmt: skip
    rows = last.select("rollout", "position", "token_id", "reverse_kl", "grad_logits").with_columns(
        before=first["reverse_kl"],
        token_class=pl.Series([names[SPELLED[i % 6]] for i in last["token_id"]]),
        tenth=pl.col("position") // 8,
    )
    mean = rows.group_by("tenth").agg(expected=pl.col("reverse_kl").cast(pl.Float64).mean())
    rows = rows.join(mean, on="tenth")
    cut = pl.col("position")
    released, kept = pl.col("rollout") == 0, cut < 30
    starts = pl.col("rollout").replace_strict({0: 20, 1: 50}, default=10**6)
    lengths = pl.col("rollout").replace_strict({0: 25, 1: 10}, default=0)
    trapped = pl.col("rollout") < 2
    phases = {
        "all": pl.lit(True),
        "before release": released & kept,
        "after release": released & ~kept,
        "before stretch": trapped & (cut < starts),
        "in stretch": trapped & (cut >= starts) & (cut < starts + lengths),
        "after stretch": trapped & (cut >= starts + lengths),
    }
    seen = set()
    for row in table.filter(group="all").to_dicts():
        inside = rows.filter(phases[row["phase"]])
        own = inside.filter(token_class=row["token_class"])
        kl = own["reverse_kl"].cast(pl.Float64).sum()
        assert row["n"] == own.height
        assert row["position_share"] == pytest.approx(own.height / inside.height)
        assert row["loss_share"] == pytest.approx(kl / inside["reverse_kl"].sum(), rel=1e-5)
        assert row["lift"] == pytest.approx(kl / own["expected"].sum(), rel=1e-5)
        grad = own["grad_logits"].mean() / inside["grad_logits"].mean()
        assert row["grad_lift"] == pytest.approx(grad, rel=1e-5)
        assert row["relative_change"] == pytest.approx(kl / own["before"].sum() - 1, rel=1e-4)
        seen.add(row["phase"])
    assert seen == set(phases)
    for phase in phases:
        parts = table.filter(phase=phase)
        n = {group: parts.filter(group=group)["n"].sum() for group in ("all", "rock", "rest")}
        assert n["all"] == n["rock"] + n["rest"]


def test_classes_that_are_hard_are_shown_with_intervals(run):
    _, saved = run
    table = rock_tokens(saved, top=10).rock_composition.filter(group="all", phase="all")
    assert table["lift_low"].is_not_null().all()
    assert ((table["lift_low"] < table["lift"]) & (table["lift"] < table["lift_high"])).all()
    assert table["position_share"].sum() == pytest.approx(1)
    # The mean of all tokens is 1, each class in proportion to its tokens.
    assert np.average(table["grad_lift"], weights=table["n"]) == pytest.approx(1)


def test_without_a_vocabulary_there_is_a_reason():
    data = rock_run(prompts=8, samples=2, tokens=60, types=70, checkpoints=("a", "b"))
    table = rock_tokens(data.tokens, data.rollouts, top=10).rock_composition
    assert table.height == 1
    assert "no vocabulary" in table["reason"][0]


def test_a_loss_of_either_sign_has_no_shares_of_loss(run):
    _, saved = run
    table = rock_tokens(saved, top=10, loss="sampled_log_ratio").rock_composition
    for name in ("loss_share", "lift", "relative_change"):
        assert table[name].is_null().all()
    assert table["grad_lift"].is_not_null().all()
