"""Several processes on one run: the same tables, and what becomes of it when some die."""

import contextlib
import json
import pickle
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from opd_diag.cli import app
from opd_diag.errors import ModelError, OptionError, TableError
from opd_diag.scoring.engines import processes
from opd_diag.scoring.engines.pool import Event
from opd_diag.scoring.engines.worker import WorkerSpec, start_worker
from opd_diag.scoring.parts import score_part as part_module
from opd_diag.scoring.score import score
from opd_diag.tables.run import open_run
from tests.scoring.heard import Heard

pytestmark = pytest.mark.usefixtures("one_thread")

PART_TOKENS = 30
TWO = ("cpu", "cpu")


@pytest.fixture(scope="module")
def options(teacher, student, later) -> dict:
    students = {"a": student, "b": later}
    return {"teacher": teacher, "students": students, "part_tokens": PART_TOKENS}


@pytest.fixture(scope="module")
def whole(rollouts, options, tmp_path_factory):
    """The run of one process."""
    return score(rollouts, out=tmp_path_factory.mktemp("whole") / "run", **options)


@pytest.fixture
def started(monkeypatch) -> list:
    """The processes that are started."""
    plain, found = processes._start, []

    def start(line):
        found.append(plain(line))
        return found[-1]

    monkeypatch.setattr(processes, "_start", start)
    return found


def same(run, whole) -> None:
    """Assert that two runs hold the same bytes, and say the same of them."""
    assert run.checkpoints == whole.checkpoints
    for name in whole.checkpoints:
        ours, theirs = run.tokens(name).collect(), whole.tokens(name).collect()
        assert ours.equals(theirs)
        for one, other in zip(run.gradients(name), whole.gradients(name), strict=True):
            np.testing.assert_array_equal(one, other)
    assert run.manifest == whole.manifest
    assert not (run.path / "teacher").exists()


def test_two_processes_write_what_one_writes(rollouts, options, whole, folder, started):
    heard = Heard()
    run = score(rollouts, out=folder, devices=TWO, progress=heard, **options)
    same(run, whole)
    assert len(started) == 2
    again = sum(one.noise_floor.tokens for one in run.manifest.checkpoints.values())
    assert again > 0
    assert heard.tokens == heard.expected == 2 * 139 + again
    assert all(process.poll() is not None for process in started)


class Kills(Heard):
    """Kills the processes once the first tokens are scored."""

    def __init__(self, started: list) -> None:
        super().__init__()
        self.started = started

    def advance(self, tokens: int) -> None:
        super().advance(tokens)
        for process in self.started:
            process.send_signal(signal.SIGKILL)


def test_a_run_whose_process_is_killed_goes_on_later(rollouts, options, whole, folder, started):
    with pytest.raises(ModelError, match=r"^cpu: its process was killed \(SIGKILL\)") as caught:
        score(rollouts, out=folder, devices=("cpu",), progress=Kills(started), **options)
    assert "\n" not in str(caught.value)
    assert "of 5 parts" in str(caught.value)
    assert "the same command goes on from there" in str(caught.value)
    with pytest.raises(TableError, match="parts are missing"):
        open_run(folder).tokens("a")
    same(score(rollouts, out=folder, **options), whole)
    assert not list(folder.rglob("*.tmp"))


def test_an_error_of_a_process_is_its_one_line(rollouts, options, folder, tmp_path, started):
    broken = tmp_path / "broken"
    shutil.copytree(options["students"]["b"], broken)
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    students = {"a": options["students"]["a"], "b": str(broken)}
    with pytest.raises(ModelError, match=rf"^{broken}: cannot be loaded \(") as caught:
        score(rollouts, out=folder, devices=("cpu",), **options | {"students": students})
    assert "\n" not in str(caught.value)
    assert [process.poll() for process in started] != [None]


def test_processes_end_with_the_one_that_started_them(folder):
    """Nothing holds standard input open once its owner is gone."""
    ours, theirs = processes.Pipe()
    process = processes._start(theirs)
    theirs.close()
    process.stdin.close()
    assert process.wait(timeout=60) == 1
    ours.close()


class Here:
    """Workers in this process, one call after the other; `dies` says which calls kill them."""

    def __init__(self, spec: WorkerSpec, dies: Callable[[str, tuple], bool]) -> None:
        self.names = ("one", "two", "three")
        self.dies, self.events, self.workers = dies, deque(), []
        for n in range(3):
            own = pickle.loads(pickle.dumps(spec))
            self.workers.append(
                start_worker(own, lambda *told, n=n: self.events.append((n, *told)))
            )

    def call(self, worker: int, method: str, *arguments: Any) -> None:
        if self.dies(method, arguments):
            self.events.append((worker, "lost", "died"))
        else:
            found = getattr(self.workers[worker], method)(*arguments)
            self.events.append((worker, "done", found))

    def wait(self, handle: Callable[[Event], None]) -> None:
        handle(Event(*self.events.popleft()))


@pytest.fixture
def here(monkeypatch) -> Callable[..., None]:
    """Let `devices` mean three workers in this process."""

    def use(dies: Callable[[str, tuple], bool] = lambda *_: False) -> None:
        def pool(_: object, spec: WorkerSpec, count: int) -> contextlib.nullcontext[Here]:
            return contextlib.nullcontext(Here(spec, dies))

        monkeypatch.setattr("opd_diag.scoring.engines.choice.processes", pool)

    return use


@pytest.mark.parametrize("together", [True, False])
def test_the_teacher_runs_once_however_many_workers(
    rollouts, options, whole, folder, monkeypatch, here, together
):
    monkeypatch.setattr("opd_diag.scoring.parts.jobs._room_for_another", lambda *_: together)
    plain, ran, heard = part_module.response_states, [], Heard()

    def states(model, prompts, responses, numbers):
        if sys._getframe(2).f_code.co_name == "score_part" and model.name == options["teacher"]:
            ran.append(sum(len(responses[i]) for i in numbers))
        return plain(model, prompts, responses, numbers)

    monkeypatch.setattr(part_module, "response_states", states)
    here()
    same(score(rollouts, out=folder, devices=TWO, progress=heard, **options), whole)
    assert sum(ran) == 139
    assert len([line for line in heard.said if "hidden states take" in line]) == (not together)


def test_out_of_memory_in_a_worker_holds_for_all(
    rollouts, options, whole, folder, monkeypatch, here
):
    plain, heard = part_module.response_states, Heard()

    def states(model, prompts, responses, numbers):
        longest = max(len(prompts[i]) + len(responses[i]) - 1 for i in numbers)
        if len(numbers) * longest > 60:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(model, prompts, responses, numbers)

    monkeypatch.setattr(part_module, "response_states", states)
    here()
    run = score(rollouts, out=folder, devices=TWO, batch_tokens=300, progress=heard, **options)
    assert run.manifest.batch_tokens == [(0, 300), (1, 75), (2, 37)]
    assert any(": out of memory: going on with batches" in line for line in heard.said)
    assert heard.tokens == heard.expected
    for name in whole.checkpoints:
        ours, theirs = run.tokens(name).collect(), whole.tokens(name).collect()
        assert (ours["reverse_kl"] - theirs["reverse_kl"]).abs().max() < 1e-4


def test_a_part_that_kills_two_workers_is_left_and_the_others_are_scored(
    rollouts, options, whole, folder, here
):
    here(lambda method, arguments: method == "score" and arguments[0] == 1)
    with pytest.raises(
        ModelError, match=r"its process died in part 1; .* \(a has 4 of 5 parts, b has 4 of 5"
    ):
        score(rollouts, out=folder, devices=TWO, **options)
    here()
    same(score(rollouts, out=folder, devices=TWO, **options), whole)


@pytest.mark.parametrize(
    ("method", "doing"),
    [
        ("score", "in part 0"),
        ("measure", "while measuring the noise floor"),
        ("load", "while loading models"),
    ],
)
def test_the_first_worker_may_die_at_anything(
    rollouts, options, whole, folder, here, method, doing
):
    heard, calls = Heard(), []

    def dies(called: str, _: tuple) -> bool:
        calls.append(called)
        return called == method and calls.count(called) == 1

    here(dies)
    same(score(rollouts, out=folder, devices=TWO, progress=heard, **options), whole)
    assert f"one: its process died {doing}; the others go on without it" in heard.said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"devices": TWO, "device": "cpu"}, "device: 'cpu'; expected none beside devices"),
        ({"devices": TWO, "teacher_device": "cpu"}, "teacher_device: 'cpu'; expected none"),
        ({"devices": TWO, "device_map": "auto"}, "device_map: 'auto'; expected none"),
        ({"devices": ("cpu", "nowhere")}, "device: 'nowhere'; expected one that torch finds"),
        ({"devices": ()}, r"devices: \(\); expected a list of one or more"),
        ({"devices": "cpu"}, "devices: 'cpu'; expected a list"),
        ({"devices": TWO, "engine": "ray"}, "expected none with engine ray: use workers"),
        ({"engine": "mpi"}, "engine: 'mpi'; expected local or ray"),
        ({"workers": 2}, "workers: 2; expected none, or engine ray"),
        ({"workers": 0, "engine": "ray"}, "workers: 0; expected 1 or more"),
    ],
)
def test_options_that_contradict_each_other_are_refused(rollouts, options, folder, change, message):
    with pytest.raises(OptionError, match=message):
        score(rollouts, out=folder, **options, **change)
    assert not folder.exists()


def test_the_command_reads_devices_with_commas(teacher, student, tmp_path):
    dump = tmp_path / "dump.jsonl"
    dump.write_text(json.dumps({"prompt_token_ids": [5], "response_token_ids": [6, 7]}) + "\n")
    call = ["score", dump, "--teacher", teacher, "--student", student, "--out", tmp_path / "run"]
    done = CliRunner().invoke(app, [*map(str, call), "--devices", "cpu, nowhere"])
    assert done.exit_code == 2
    assert "device: 'nowhere'; expected one that torch finds here" in done.output
