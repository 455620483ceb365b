"""Code of others runs only when asked for, files stay in their folder, nobody asks the network."""

import json
import pickle
import shutil
import socket
from pathlib import Path

import polars as pl
import pytest
import torch

from opd_diag.analyses.release_points import release_points
from opd_diag.errors import ManifestError, ModelError, OptionError, RolloutError
from opd_diag.plots.figures import plot
from opd_diag.rollouts import read_rollouts
from opd_diag.scoring.score import score
from opd_diag.tables.info import info
from opd_diag.tables.manifest import MANIFEST_NAME, digest
from opd_diag.tables.rollouts import Rollouts
from opd_diag.tables.run import open_run

CODE = """
from pathlib import Path
from transformers import Qwen3Config, Qwen3ForCausalLM
Path({sentinel!r}).write_text("ran")
class OwnConfig(Qwen3Config):
    model_type = "own"
class OwnModel(Qwen3ForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own_code(student, tmp_path, monkeypatch) -> tuple[str, Path]:
    """A student whose folder brings its own code, and the file that the code writes."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    folder, sentinel = tmp_path / "own", tmp_path / "sentinel"
    shutil.copytree(student, folder)
    (folder / "own.py").write_text(CODE.format(sentinel=str(sentinel)))
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "architectures": ["OwnModel"]}
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder), sentinel


def test_code_of_a_model_runs_only_when_trusted_and_the_manifest_tells(
    rollouts, teacher, student, own_code, tmp_path
):
    folder, sentinel = own_code
    options = {"teacher": teacher, "students": {"own": folder}, "out": tmp_path / "run"}
    with pytest.raises(ModelError, match="trust_remote_code") as caught:
        score(rollouts, **options)
    assert "\n" not in str(caught.value)
    assert not sentinel.exists()
    run = score(rollouts, **options, trust_remote_code=True)
    assert sentinel.exists()
    assert info(run)["trusted"] == ["teacher", "own"]
    plain = score(rollouts, teacher=teacher, students={"a": student}, out=tmp_path / "plain")
    assert info(plain)["trusted"] == []
    added = score(
        rollouts, teacher=teacher, students={"b": student}, out=plain.path, trust_remote_code=True
    )
    assert info(added)["trusted"] == ["teacher", "b"]


class Payload:
    """What a pickle runs when it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self):
        return Path.touch, (self._path,)


def test_a_pickle_runs_only_when_trusted_and_the_report_tells(tmp_path):
    sentinel, dump = tmp_path / "sentinel", tmp_path / "rollout_1.pt"
    samples = [{"prompt": "a", "tokens": [1, 2, 3], "response_length": 2, "extra": None}]
    samples[0]["extra"] = Payload(sentinel)
    torch.save({"rollout_id": 1, "samples": samples}, dump, pickle_module=pickle)
    with pytest.raises(RolloutError, match="--trust-pickle") as caught:
        read_rollouts(dump)
    assert "\n" not in str(caught.value)
    assert not sentinel.exists()
    assert read_rollouts(dump, trust_pickle=True).report["trust_pickle"] is True
    assert sentinel.exists()


UP = "../../../up"


def test_names_of_a_dump_never_lead_out_of_the_folder(rollouts, teacher, student, tmp_path):
    names = {
        "rollout_id": [f"{UP}{i}" for i in range(rollouts.table.height)],
        "prompt_id": [f"/{UP}{i // 2}/\0" for i in range(rollouts.table.height)],
        "policy": [UP] * rollouts.table.height,
        "source": ["/etc/passwd"] * rollouts.table.height,
    }
    columns = [pl.Series(name, values) for name, values in names.items()]
    table = rollouts.table.with_columns(columns)
    box = tmp_path / "box"
    (box / "deep" / "deeper").mkdir(parents=True)
    folder = box / "deep" / "deeper" / "run"
    run = score(Rollouts(table), teacher=teacher, students={"..": student}, out=folder)
    run.save(release_points(run)._asdict(), arguments={})
    drawn = plot(run, ["rollout"], id=f"{UP}0")
    assert all(path.parent == folder / "plots" for path in drawn.paths)
    outside = [
        path for path in tmp_path.rglob("*") if path.is_file() and folder not in path.parents
    ]
    assert outside == []


@pytest.mark.parametrize("name", ["../x", "a/../../x", "", "a\\b", "a\nb", "/x"])
def test_a_checkpoint_may_not_bear_a_path(rollouts, teacher, student, tmp_path, name):
    with pytest.raises(OptionError, match="printable characters") as caught:
        score(rollouts, teacher=teacher, students={name: student}, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_manifest_of_others_may_not_name_a_path(clean, tmp_path):
    manifest = json.loads((clean.path / MANIFEST_NAME).read_text())
    manifest["checkpoints"]["../../x"] = manifest["checkpoints"]["a"]
    del manifest["checksum"]
    manifest["checksum"] = digest(manifest)
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(ManifestError, match=r"checkpoint '\.\./\.\./x'"):
        open_run(tmp_path)


@pytest.fixture
def asked(monkeypatch) -> list[object]:
    """What anybody wanted to connect to; nobody gets there."""
    tried: list[object] = []

    def connect(_, address, *__):
        tried.append(address)
        raise OSError("no network in this test")

    def look_up(host, *_, **__):
        tried.append(host)
        raise socket.gaierror("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return tried


def test_folders_never_need_the_network(rollouts, options, same_as_clean, tmp_path, asked):
    run = score(rollouts, **options, out=tmp_path / "run")
    release_points(run)
    same_as_clean(run.path)
    assert asked == []


@pytest.mark.parametrize("offline", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_hub_id_that_cannot_be_had_is_one_line(
    rollouts, teacher, tmp_path, asked, monkeypatch, offline
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    with pytest.raises(ModelError, match="nobody/nothing") as caught:
        score(rollouts, teacher=teacher, students={"s": "nobody/nothing"}, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert bool(asked) is not offline
    assert not (tmp_path / "run").exists()
