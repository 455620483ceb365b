"""What `export` writes, for every trainer, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import opd_diag as od
from opd_diag.errors import OptionError, RolloutError, StorageError
from opd_diag.exports.formats import FORMATS, format_module
from opd_diag.exports.formats.tinker import datum
from opd_diag.exports.samples import Sample
from opd_diag.tables.run import Run

BINARY = ("slime", "miles", "trl", "axolotl", "skyrl")


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_back(to: str, folder: Path) -> list[tuple[list[int], list[float]]]:
    """Ids of the whole sequence, and the weight of each as a target, as the trainer sees them."""
    if to == "parquet":
        table = pl.read_parquet(folder / "rollouts.parquet")
        return [
            (prompt + response, [0.0] * len(prompt) + weights)
            for prompt, response, weights in table.select(
                "prompt_token_ids", "response_token_ids", "weights"
            ).iter_rows()
        ]
    if to in ("slime", "miles"):
        found = []
        for path in sorted(folder.glob("*.pt")):
            for sample in torch.load(path, weights_only=True)["samples"]:
                assert all(type(m) is int for m in sample["loss_mask"])
                assert len(sample["loss_mask"]) == sample["response_length"]
                before = len(sample["tokens"]) - sample["response_length"]
                found.append((sample["tokens"], [0.0] * before + sample["loss_mask"]))
        return found
    if to in ("trl", "axolotl"):
        table = pl.read_parquet(folder / "train.parquet")
        for ids, labels in table.select("input_ids", "labels").iter_rows():
            assert all(label in (-100, i) for i, label in zip(ids, labels, strict=True))
        if to == "axolotl":
            assert table["attention_mask"].list.min().min() == 1
        return [
            (ids, [float(label != -100) for label in labels])
            for ids, labels in table.select("input_ids", "labels").iter_rows()
        ]
    if to == "skyrl":
        table = pl.read_parquet(folder / "train.parquet")
        return list(table.select("input_ids", "loss_mask").iter_rows())
    if to == "ms-swift":
        lines = json_lines(folder / "train.jsonl")
        assert all(line["add_eos"] is False for line in lines)
        contents = [line["messages"][1]["content"] for line in lines]
        return [(content["token_ids"], content["loss_scale"]) for content in contents]
    if to == "tinker":
        found = []
        for one in json_lines(folder / "data.jsonl"):
            chunk = one["model_input"]["chunks"][0]["tokens"]
            targets, weights = (one["loss_fn_inputs"][n] for n in ("target_tokens", "weights"))
            assert targets["dtype"] == "int64"
            assert weights["shape"] == [len(chunk)]
            assert targets["data"][:-1] == chunk[1:]
            found.append((chunk + targets["data"][-1:], [0.0, *weights["data"]]))
        return found
    raise AssertionError(to)


def expected_of(run: Run, rule: str, **options: Any) -> list[tuple[list[int], list[float]]]:
    weights = od.token_weights(run, rule=rule, **options)
    lists = weights.group_by("rollout", maintain_order=True).agg("weight")["weight"].to_list()
    rows = run.rollouts.select("prompt_token_ids", "response_token_ids").iter_rows()
    return [
        (prompt + response, [0.0] * len(prompt) + own)
        for (prompt, response), own in zip(rows, lists, strict=True)
    ]


@pytest.mark.parametrize("to", ["parquet", "ms-swift", "tinker", *BINARY])
def test_each_target_has_its_own_weight(exported_run: Run, out: Path, to: str) -> None:
    od.export(exported_run, rule="release", to=to, out=out, keep="tokens")
    found = read_back(to, out / "rule")
    expected = expected_of(exported_run, "release", keep="tokens")
    assert len(found) == len(expected)
    for (ids, weights), (whole, own) in zip(found, expected, strict=True):
        assert ids == whole
        assert list(weights) == own


@pytest.mark.parametrize("to", ["parquet", "ms-swift", "tinker"])
def test_weights_that_are_no_mask_pass(exported_run: Run, out: Path, to: str) -> None:
    od.export(exported_run, rule="selector:tip@10%", soft=True, to=to, out=out)
    found = read_back(to, out / "rule")
    expected = expected_of(exported_run, "selector:tip@10%", soft=True)
    for (ids, weights), (whole, own) in zip(found, expected, strict=True):
        assert ids == whole
        assert weights == pytest.approx(own)


@pytest.mark.parametrize(
    "to", ["slime", "miles", "verl", "trl", "llama-factory", "axolotl", "skyrl"]
)
def test_loaders_that_know_no_weights_refuse_them(exported_run: Run, out: Path, to: str) -> None:
    with pytest.raises(OptionError, match="no weights but 0 and 1.*--keep tokens"):
        od.export(exported_run, rule="release", to=to, out=out)
    assert not out.exists()


def test_annotations_name_their_trace(exported_run: Run, out: Path) -> None:
    od.export(exported_run, rule="release", to="prime-rl", out=out)
    lines = json_lines(out / "rule" / "annotations.jsonl")
    assert [line["trace_id"] for line in lines] == exported_run.rollouts["rollout_id"].to_list()
    weights = od.token_weights(exported_run, rule="release")["weight"]
    assert sum(sum(line["token_weights"]) for line in lines) == pytest.approx(weights.sum())


def test_an_exported_run_is_read_again(exported_run: Run, out: Path) -> None:
    od.export(exported_run, rule="trap", to="slime", out=out)
    rollouts = od.read_rollouts(str(out / "rule"), format="slime")
    assert rollouts.table["response_token_ids"].to_list() == (
        exported_run.rollouts["response_token_ids"].to_list()
    )
    weights = od.token_weights(exported_run, rule="trap")
    own = weights.group_by("rollout", maintain_order=True).agg(pl.col("weight") > 0)["weight"]
    mask = rollouts.table["loss_mask"].to_list()
    for i, one in enumerate(own.to_list()):
        assert mask[i] == one or (mask[i] is None and all(one))


def test_the_manifest_says_what_each_arm_keeps(exported_run: Run, out: Path) -> None:
    exported = od.export(exported_run, rule="trap", to="parquet", out=out, control=2, seed=3)
    manifest = json.loads(exported.manifest.read_text())
    assert [arm["arm"] for arm in manifest["arms"]] == ["rule", "control-1", "control-2"]
    assert manifest["options"]["seed"] == 3
    tokens = exported_run.tokens(exported_run.checkpoints[-1]).collect()
    inside = tokens.filter("in_loss")
    for arm in manifest["arms"]:
        table = pl.read_parquet(arm["path"])
        kept = np.concatenate([np.array(one) for one in table["kept"].to_list()])
        assert arm["tokens_kept"] == kept.sum() == manifest["arms"][0]["tokens_kept"]
        assert arm["tokens_in_loss"] == inside.height
        share = tokens["reverse_kl"].cast(pl.Float64).to_numpy()[kept].sum()
        total = inside["reverse_kl"].cast(pl.Float64).sum()
        assert arm["reverse_kl_share"] == pytest.approx(share / total)
    assert exported.arms["arm"].to_list() == ["rule", "control-1", "control-2"]
    # An earlier export is replaced whole; anything else is left alone.
    od.export(exported_run, rule="all", to="parquet", out=out)
    assert not (out / "control-1").exists()
    (out / "export.json").unlink()
    with pytest.raises(StorageError, match="no earlier export"):
        od.export(exported_run, rule="all", to="parquet", out=out)


def test_an_export_that_fails_leaves_the_earlier_one(
    exported_run: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    od.export(exported_run, rule="trap", to="parquet", out=out, control=1)
    before = {path.relative_to(out): path.read_bytes() for path in out.rglob("*.*")}
    slime = format_module("slime")

    def fails(samples: Any, folder: Path) -> Path:
        folder.mkdir(parents=True)
        (folder / "half").write_text("")
        raise OptionError("to: no such library")

    monkeypatch.setattr(slime, "write", fails)
    with pytest.raises(OptionError, match="no such library"):
        od.export(exported_run, rule="trap", to="slime", out=out)
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*.*")} == before
    with pytest.raises(OptionError, match="no such library"):
        od.export(exported_run, rule="trap", to="slime", out=out / "new" / "one")
    assert not (out / "new" / "one").exists()
    monkeypatch.undo()
    (out / "new").rmdir()
    (out / ".unfinished").mkdir()  # of a process that was killed
    od.export(exported_run, rule="trap", to="slime", out=out)
    assert sorted(path.name for path in out.iterdir()) == [
        "apply_rule.py", "export.json", "rule", "rule.json"
    ]  # fmt: skip


def test_a_rule_that_drops_nothing_is_no_export(exported_run: Run, out: Path) -> None:
    tokens = exported_run.tokens(exported_run.checkpoints[-1]).select("rollout", "position")
    mask = out.parent / "ones.parquet"
    tokens.collect().with_columns(weight=1.0).write_parquet(mask)
    with pytest.raises(OptionError, match="every token in the loss of .* the weight 1; expected"):
        od.export(exported_run, rule=f"mask:{mask}", to="parquet", out=out)
    assert not out.exists()


def test_rollouts_made_again_from_text_are_refused(tmp_path: Path) -> None:
    from opd_diag.datasets import null_run, save_run

    data = null_run(prompts=4, samples=1, tokens=20, types=80)
    rollouts = data.rollouts.with_columns(token_exact=pl.col("rollout") > 1)
    run = save_run(data._replace(rollouts=rollouts), tmp_path / "run")
    with pytest.raises(RolloutError, match="2 of 4 rollouts were tokenised again.*--force"):
        od.export(run, rule="all", to="parquet", out=tmp_path / "out")
    exported = od.export(run, rule="all", to="parquet", out=tmp_path / "out", force=True)
    assert json.loads(exported.manifest.read_text())["tokenised_again"] == 2
    with pytest.raises(OptionError, match="drops nothing"):
        od.export(run, rule="all", to="parquet", out=tmp_path / "out", control=1, force=True)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_datum_is_shifted_by_one(data: st.DataObject) -> None:
    ids = st.integers(0, 200_000)
    prompt = data.draw(st.lists(ids, min_size=1, max_size=20))
    response = data.draw(st.lists(ids, min_size=1, max_size=20))
    weights = data.draw(
        st.lists(st.floats(0, 8, width=32), min_size=len(response), max_size=len(response))
    )
    one = datum(Sample({}, prompt, response, weights))
    inputs = one["model_input"]["chunks"][0]["tokens"]
    targets = one["loss_fn_inputs"]["target_tokens"]["data"]
    own = one["loss_fn_inputs"]["weights"]["data"]
    assert [inputs[0], *targets] == prompt + response
    # The weight of a target stands where the model sees the token before it.
    by_target = dict(enumerate(own, start=1))
    for place, weight in enumerate(weights):
        assert by_target[len(prompt) + place] == weight
    assert not any(by_target[i] for i in range(1, len(prompt)))


def test_every_format_has_its_module() -> None:
    for name in FORMATS:
        module = format_module(name)
        assert isinstance(module.BINARY, bool)
        assert callable(module.write)
        assert module.LOADED_BY
