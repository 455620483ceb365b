"""Paths, hub ids, adapters and shards are told apart before anything is loaded."""

import json
import socket

import pytest

from opd_diag.errors import ModelError
from opd_diag.text import model_files
from opd_diag.text.model_files import (
    base_of_adapter,
    check_model_folder,
    hub_options,
    looks_local,
)
from opd_diag.text.tokenizers import load_tokenizer


@pytest.mark.parametrize("name", ["/x", "./x", "../x", "~/x", "a/b/c", "a b", "x/", "C:\\x"])
def test_what_no_hub_id_can_be_is_a_path(name) -> None:
    assert looks_local(name)
    with pytest.raises(ModelError, match="no such folder; expected a model folder or a hub id"):
        check_model_folder(name)


def test_an_id_is_a_path_where_its_first_part_is_a_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not looks_local("checkpoints/40")
    assert not looks_local("gpt2")
    (tmp_path / "checkpoints").mkdir()
    assert looks_local("checkpoints/40")
    check_model_folder("somebody/model")


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("model_world_size_8_rank_0.pt", "python -m verl.model_merger merge --backend fsdp"),
        ("__0_0.distcp", "accelerate merge-weights"),
        ("pytorch_model_fsdp_0/__0_0.distcp", "accelerate merge-weights"),
        ("global_step40/mp_rank_00_model_states.pt", "python zero_to_fp32.py"),
    ],
)
def test_shards_are_to_be_merged_first(tmp_path, file, command) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"shards of .* \(merge them first: ") as caught:
        check_model_folder(str(tmp_path))
    assert command in str(caught.value)
    assert "\n" not in str(caught.value)
    (tmp_path / "scheduler.bin").touch()
    with pytest.raises(ModelError, match=r"shards of .* \(merge them first: "):
        check_model_folder(str(tmp_path))
    (tmp_path / "model.safetensors").touch()
    check_model_folder(str(tmp_path))


def adapter(folder, base: object) -> str:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return str(folder)


def test_the_base_of_an_adapter_counts_from_its_folder(tmp_path, monkeypatch) -> None:
    (tmp_path / "base").mkdir()
    name = adapter(tmp_path / "adapter", "../base")
    monkeypatch.chdir("/")
    assert base_of_adapter(name) == f"{name}/../base"
    monkeypatch.chdir(tmp_path)
    assert base_of_adapter(adapter(tmp_path / "second", "base")) == "base"
    assert base_of_adapter(adapter(tmp_path / "third", "somebody/base")) == "somebody/base"
    assert base_of_adapter(str(tmp_path)) is None


@pytest.mark.parametrize("base", [None, "", 3])
def test_an_adapter_without_a_base_is_refused(tmp_path, base) -> None:
    with pytest.raises(ModelError, match="adapter_config.json: no base_model_name_or_path"):
        base_of_adapter(adapter(tmp_path / "adapter", base))


def test_an_adapter_to_a_folder_of_another_machine_is_named(tmp_path) -> None:
    name = adapter(tmp_path / "adapter", "/data/models/base")
    with pytest.raises(
        ModelError, match="an adapter to /data/models/base, which is no folder"
    ) as e:
        base_of_adapter(name)
    assert str(e.value).startswith(f"{name}: ")


def test_an_adapter_has_the_tokenizer_of_its_base(tmp_path, tiny_tokenizer) -> None:
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    loaded = load_tokenizer(adapter(tmp_path / "adapter", "../base"))
    assert loaded.get_vocab() == tiny_tokenizer.get_vocab()


def test_a_folder_without_a_tokenizer_takes_the_one_named(tmp_path, tiny_tokenizer) -> None:
    tiny_tokenizer.save_pretrained(tmp_path / "other")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ModelError, match=r"tokenizer \(--tokenizer\)"):
        load_tokenizer(str(tmp_path / "bare"))
    loaded = load_tokenizer(str(tmp_path / "bare"), fallback=str(tmp_path / "other"))
    assert loaded.get_vocab() == tiny_tokenizer.get_vocab()


def test_the_hub_is_tried_once_and_never_for_a_folder(tmp_path, monkeypatch) -> None:
    asked = []

    def refuse(address, **_):
        asked.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example:8443")
    model_files._hub_answers.cache_clear()
    assert hub_options(str(tmp_path)) == {}
    assert hub_options("somebody/model") == {"local_files_only": True}
    assert hub_options("somebody/other") == {"local_files_only": True}
    assert asked == [("hub.example", 8443)]
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: socket.socket())
    model_files._hub_answers.cache_clear()
    assert hub_options("somebody/model") == {}
    model_files._hub_answers.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub_options("somebody/model") == {"local_files_only": True}
    model_files._hub_answers.cache_clear()
