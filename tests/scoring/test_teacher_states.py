"""A teacher that ran elsewhere: its hidden states here, of its weights only norm and head."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from opd_diag.errors import ModelError, ModelMismatchError, OptionError
from opd_diag.scoring.models.loading import Loading
from opd_diag.scoring.models.norm_and_head import load_norm_and_head
from opd_diag.scoring.preflight.check import check
from opd_diag.scoring.score import score
from opd_diag.tables.info import info
from opd_diag.tables.results import read_result_metadata


def write_states(folder, teacher, rollouts, *, before_norm=False, whole=True):
    """What a server writes: token ids and hidden states of the last layer, rollout by rollout."""
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    caught = []
    model.model.norm.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    folder.mkdir()
    for row in rollouts.table.iter_rows(named=True):
        ids = (row["teacher_prompt_token_ids"] or row["prompt_token_ids"]) + row[
            "response_token_ids"
        ]
        ids = torch.tensor(ids if whole else ids[:-1])
        if not len(ids):
            continue
        with torch.no_grad():
            states = model.model(ids[None]).last_hidden_state[0]
        if before_norm:
            states = torch.stack([states * 0, caught[-1][0]], 1)  # two layers, the last one counts
        save_file(
            {"token_ids": ids, "hidden_states": states.contiguous()},
            folder / f"request-{row['rollout']}.safetensors",
        )
    return str(folder)


def keep_norm_and_head(teacher, folder):
    """A folder in which nothing else of the teacher is left."""
    shutil.copytree(teacher, folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    kept = {k: v for k, v in weights.items() if k in ("model.norm.weight", "lm_head.weight")}
    assert len(kept) == 2 < len(weights)
    save_file(kept, path, {"format": "pt"})
    return str(folder)


@pytest.fixture(scope="module")
def by_weights(rollouts, teacher, student, tmp_path_factory):
    out = tmp_path_factory.mktemp("weights") / "run"
    return score(rollouts, teacher=teacher, students={"s": student}, out=out, part_tokens=60)


@pytest.mark.parametrize(("before_norm", "whole"), [(False, True), (True, False)])
def test_all_columns_are_those_of_the_weights(
    rollouts, teacher, student, by_weights, tmp_path, before_norm, whole
):
    states = write_states(
        tmp_path / "states", teacher, rollouts, before_norm=before_norm, whole=whole
    )
    head = keep_norm_and_head(teacher, tmp_path / "head")
    run = score(
        rollouts, teacher=head, students={"s": student}, out=tmp_path / "run", part_tokens=60,
        teacher_states=states, teacher_norm=before_norm,
    )  # fmt: skip
    want, got = by_weights.tokens("s").collect(), run.tokens("s").collect()
    for name, dtype in want.schema.items():
        if dtype == pl.Float32:
            np.testing.assert_allclose(
                got[name].to_numpy(), want[name].to_numpy(), rtol=1e-5, atol=1e-6, err_msg=name
            )
        elif not isinstance(dtype, pl.Array):
            assert got[name].equals(want[name]), name
    assert run.manifest.teacher.source == "hidden states" == info(run)["teacher"]["source"]
    (path,) = run.save({"mine": pl.DataFrame({"x": [1]})})
    assert read_result_metadata(path)["teacher_source"] == "hidden states"
    assert by_weights.teacher_source == "weights"
    assert not (tmp_path / "run" / "teacher").exists()
    found = check(
        rollouts, teacher=head, students={"s": student}, teacher_states=states,
        teacher_norm=before_norm,
    )  # fmt: skip
    (line,) = [finding.detail for finding in found if finding.what == "teacher"]
    assert "its layers are not loaded" in line


def test_the_other_states_or_norm_are_another_run(rollouts, teacher, student, tmp_path):
    states = write_states(tmp_path / "states", teacher, rollouts)
    options = {"teacher": teacher, "students": {"s": student}, "out": tmp_path / "run"}
    score(rollouts, **options, teacher_states=states, noise_floor="off")
    with pytest.raises(ModelMismatchError, match="teacher_states norm was False, is True"):
        score(rollouts, **options, teacher_states=states, teacher_norm=True)
    with pytest.raises(ModelMismatchError, match="teacher_states"):
        score(rollouts, **options)


def test_the_dumps_log_probs_tell_whether_the_norm_is_missing(
    rollouts, teacher, student, by_weights, tmp_path
):
    logps = by_weights.tokens("s").collect().group_by("rollout", maintain_order=True)
    known = dict(logps.agg("teacher_logp").iter_rows())
    lists = [known.get(row) for row in rollouts.table["rollout"]]
    stored = pl.Series(lists, dtype=pl.List(pl.Float32))
    dump = type(rollouts)(rollouts.table.with_columns(trainer_teacher_logp=stored))
    options = {"teacher": teacher, "students": {"s": student}, "noise_floor": "off"}
    states = write_states(tmp_path / "states", teacher, rollouts, before_norm=True)
    options |= {"out": tmp_path / "run", "teacher_states": states}
    with pytest.raises(ModelError, match="before its final norm only .*expected teacher_norm True"):
        score(dump, **options)
    run = score(dump, **options, teacher_norm=True)
    assert run.manifest.checkpoints["s"].trainer_teacher["diagnosis"] == "aligned"


def test_what_is_wrong_with_the_states_is_said(rollouts, teacher, student, tmp_path):
    folder = tmp_path / "states"
    states = write_states(folder, teacher, rollouts)
    options = {"teacher": teacher, "students": {"s": student}, "out": tmp_path / "run"}

    def refused(message, error=ModelError, **others):
        with pytest.raises(error, match=message):
            score(rollouts, **options, **{"teacher_states": states} | others)

    first = sorted(folder.iterdir())[0]
    kept = first.read_bytes()
    first.unlink()
    refused("no hidden states for 1 of 9 rollouts, first r0")
    save_file({"token_ids": torch.arange(4)}, first)
    refused("no hidden_states; expected it")
    save_file({"token_ids": torch.arange(4), "hidden_states": torch.zeros(9, 48)}, first)
    refused("beside 4 token_ids")
    save_file({"token_ids": torch.arange(4), "hidden_states": torch.zeros(4, 47)}, first)
    refused("states of width 48; expected 47|states of width 47; expected 48")
    first.write_bytes(kept[:-5])
    refused("damaged")
    first.write_bytes(kept)
    refused("is no folder", OptionError, teacher_states="nowhere")
    refused("teacher_norm: without teacher_states", OptionError, teacher_states=None,
            teacher_norm=True)  # fmt: skip
    empty = tmp_path / "empty"
    empty.mkdir()
    refused("no \\*.safetensors", teacher_states=str(empty))
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    for path in folder.iterdir():
        tensors = load_file(path)
        tensors["hidden_states"] = tensors["hidden_states"][:, :40].contiguous()
        save_file(tensors, narrow / path.name)
    refused("hidden states of width 40; expected 48", teacher_states=str(narrow))


def test_a_tied_head_is_the_embedding_matrix_and_shards_are_found(
    tiny_tokenizer, rollouts, tmp_path
):
    """Only the shard that holds a tensor has to be there."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=352, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    model.save_pretrained(tmp_path, max_shard_size="20kB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_bytes())["weight_map"]
    assert "lm_head.weight" not in index
    needed = {index["model.embed_tokens.weight"], index["model.norm.weight"]}
    for path in tmp_path.glob("*.safetensors"):
        if path.name not in needed:
            path.unlink()
    loaded = load_norm_and_head(str(tmp_path), Loading(), norm=True)
    hidden = torch.randn(3, 32)
    with torch.no_grad():
        want = model.lm_head(model.model.norm(hidden))
        got = loaded.head.logits(loaded.body(hidden))
    torch.testing.assert_close(got, want)


def test_what_has_no_head_to_read_is_refused(teacher, tmp_path):
    folder = tmp_path / "no_head"
    shutil.copytree(teacher, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="no lm_head.weight"):
        load_norm_and_head(str(folder), Loading(), norm=False)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no model.safetensors"):
        load_norm_and_head(str(folder), Loading(), norm=False)
    assert Path(teacher).exists()
    with safe_open(Path(teacher) / "model.safetensors", "pt") as reader:
        assert "lm_head.weight" in set(reader.keys())
