"""Models, names and processes with which no library can work: one line, and an end."""

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from opd_diag.errors import OpdDiagError, StorageError
from opd_diag.rollouts import read_rollouts
from opd_diag.scoring.preflight.check import check
from opd_diag.scoring.score import score
from opd_diag.tables.info import info
from opd_diag.tables.run import open_run


def settings(file: str, **values: object) -> Callable[[Path], None]:
    """Change settings of a model folder."""

    def change(folder: Path) -> None:
        path = folder / file
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(before | values))

    return change


def text(file: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_text(content) and None


class Payload:
    """Leaves a file behind if it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"w": Payload(folder / "executed")}, folder / "pytorch_model.bin")


def raw_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(folder / "executed")))


def pipe(file: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        os.mkfifo(folder / file)

    return change


MODELS = {
    "an adapter of itself": lambda folder: settings(
        "adapter_config.json", base_model_name_or_path=str(folder)
    )(folder),
    "adapter settings that are a list": text("adapter_config.json", "[1]"),
    "adapter settings that are no JSON": text("adapter_config.json", "nope"),
    "an adapter whose base is a number": settings("adapter_config.json", base_model_name_or_path=7),
    "generation settings that are a list": text("generation_config.json", "[1]"),
    "settings that are a list": text("config.json", "[]"),
    "settings that nest for ever": text("config.json", "[" * 100_000),
    "a vocabulary of 0": settings("config.json", vocab_size=0),
    "a vocabulary of -1": settings("config.json", vocab_size=-1),
    "no layers": settings("config.json", num_hidden_layers=0),
    "a width that is a word": settings("config.json", hidden_size="x"),
    "a tokenizer that is a list": text("tokenizer.json", "[]"),
    "weights that are a pickle of torch": pickled,
    "weights that are a plain pickle": raw_pickle,
    "a pipe for settings": pipe("config.json"),
    "a pipe for weights": pipe("model.safetensors"),
    "a pipe for a tokenizer": pipe("tokenizer.json"),
}


@pytest.mark.parametrize("fault", MODELS)
@pytest.mark.filterwarnings("ignore:torch.utils._pytree")
def test_a_model_that_cannot_be_used_is_one_line(rollouts, teacher, student, tmp_path, fault):
    broken = tmp_path / "broken"
    shutil.copytree(student, broken)
    MODELS[fault](broken)
    with pytest.raises(OpdDiagError) as caught:
        score(rollouts, teacher=teacher, students={"a": str(broken)}, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert str(broken) in str(caught.value)
    found = check(rollouts, teacher=str(broken), students=student, out=tmp_path)
    assert found[-1].level == "red"
    assert not (broken / "executed").exists()


def test_adapters_that_lead_to_each_other_are_one_line(rollouts, teacher, student, tmp_path):
    folders = [tmp_path / name for name in "xy"]
    for folder, other in zip(folders, reversed(folders), strict=True):
        shutil.copytree(student, folder)
        settings("adapter_config.json", base_model_name_or_path=str(other))(folder)
    with pytest.raises(OpdDiagError, match="itself or goes back to it"):
        score(rollouts, teacher=teacher, students={"a": str(folders[0])}, out=tmp_path / "run")


def test_a_tokenizer_class_without_its_vocabulary_is_refused(rollouts, teacher, student, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(student, broken)
    (broken / "tokenizer.json").unlink()
    settings("tokenizer_config.json", tokenizer_class="GPT2Tokenizer")(broken)
    with pytest.raises(OpdDiagError):
        score(rollouts, teacher=teacher, students={"a": str(broken)}, out=tmp_path / "run")


LONG, NOT_TEXT = "x" * 5000, os.fsdecode(b"name\xff")


@pytest.mark.parametrize("name", [LONG, NOT_TEXT, "a\0b", "/tmp/" + LONG])
def test_a_name_that_is_no_path_is_one_line(rollouts, teacher, student, tmp_path, name):
    students = {"a": student}
    calls = [
        lambda: score(rollouts, teacher=teacher, students=students, out=name),
        lambda: score(rollouts, teacher=name, students=students, out=tmp_path / "run"),
        lambda: score(rollouts, teacher=teacher, students={"a": name}, out=tmp_path / "run"),
        lambda: check(rollouts, teacher=teacher, students=student, out=name),
        lambda: open_run(name),
        lambda: info(name),
        lambda: info(name, verify=True),
        lambda: read_rollouts(name),
    ]
    for call in calls:
        with pytest.raises(OpdDiagError) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300
    assert not list(tmp_path.iterdir())


def test_the_name_of_a_checkpoint_fits_into_a_path(rollouts, teacher, student, tmp_path):
    with pytest.raises(OpdDiagError, match="expected up to 200 printable characters"):
        score(rollouts, teacher=teacher, students={"n" * 201: student}, out=tmp_path / "run")
    name = "n" * 200
    assert score(rollouts, teacher=teacher, students={name: student}, out=tmp_path / "run")


@pytest.fixture(scope="module")
def dump(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("dump") / "dump.jsonl"
    path.write_text(json.dumps({"prompt_token_ids": [5], "response_token_ids": [6, 7]}) + "\n")
    return path


def command(*arguments: object, before: Callable[[], None] | None = None, python: str = "-B"):
    call = [sys.executable, python, "-m", "opd_diag", *map(str, arguments)]
    # A relative entry stops the interpreter itself once the working directory is gone.
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    return subprocess.run(
        call, capture_output=True, text=True, check=False, preexec_fn=before, timeout=120,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["optimised", "folder gone", "little memory", "very little"])
def test_a_process_that_cannot_work_says_why_in_one_line(dump, teacher, student, tmp_path, kind):
    gone = tmp_path / "gone"
    gone.mkdir()

    def leave() -> None:
        os.chdir(gone)
        gone.rmdir()

    def limit(size: int) -> Callable[[], None]:
        return lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))

    before, expected = {
        "optimised": (None, "python -OO drops docstrings"),
        "folder gone": (leave, "working directory: deleted"),
        "little memory": (limit(1 << 30), "memory: this process may address 1,024 MiB"),
        "very little": (limit(300 << 20), "memory: this process may address 300 MiB"),
    }[kind]
    done = command(
        "score", dump, "--teacher", teacher, "--student", student, "--out", tmp_path / "run",
        before=before, python="-OO" if kind == "optimised" else "-B",
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert expected in line


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
    ],
)
def test_a_library_that_finds_too_little_memory_is_one_line(tmp_path, monkeypatch, error):
    from typer.testing import CliRunner

    import opd_diag
    from opd_diag.cli import app

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setitem(opd_diag.__dict__, "info", fail)
    done = CliRunner().invoke(app, ["info", str(tmp_path)])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: memory: too little for a library")
    assert len(done.stderr.splitlines()) == 1


def test_text_of_others_is_escaped_on_the_terminal(rollouts, teacher, student, tmp_path):
    """A path with codes of a terminal, in a result and in an error."""
    odd = tmp_path / "run\x1b[31m\nerror: nothing\u202e"
    score(rollouts, teacher=teacher, students={"a": student}, out=odd)
    for arguments in (("info", odd), ("info", str(odd) + "x"), ("analyze", "release-points", odd)):
        done = command(*arguments)
        shown = done.stdout + done.stderr
        assert r"run\x1b[31m\nerror: nothing\u202e" in shown
        assert "\x1b[31m" not in shown
        assert "\u202e" not in shown
    assert isinstance(StorageError("x"), OpdDiagError)
