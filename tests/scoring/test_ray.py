"""Workers of a local Ray: the same tables, and what becomes of it when one is lost."""

import os
import shutil
import sys

import numpy as np
import pytest

from opd_diag.errors import ModelError, OptionError
from opd_diag.scoring.engines.ray import Actors, connect, share_of
from opd_diag.scoring.score import score
from tests.scoring.threads import torch_threads

# Ray's own threads and sockets outlive a test.
pytestmark = pytest.mark.filterwarnings("ignore")

PART_TOKENS = 30


@pytest.mark.parametrize(
    ("amounts", "count", "share"),
    [([8, 8], 16, 1), ([8, 8], 8, 2), ([8, 8], 3, 4), ([3, 1], 2, 1), ([2], 3, 0), ([], 1, 0)],
)
def test_no_worker_spans_two_machines(amounts, count, share):
    assert share_of(amounts, count) == share
    assert not share or sum(amount // share for amount in amounts) >= count


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OptionError, match=r"^engine: ray is not installed; .*'opd-diag\[ray\]'"):
        connect()


@pytest.fixture(scope="module")
def ray():
    """A local Ray of two CPUs."""
    ray = pytest.importorskip("ray")
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def options(rollouts, teacher, student, later) -> dict:
    students = {"a": student, "b": later}
    return {
        "rollouts": rollouts,
        "teacher": teacher,
        "students": students,
        "part_tokens": PART_TOKENS,
    }


def same(run, whole) -> None:
    for name in ("a", "b"):
        assert run.tokens(name).collect().equals(whole.tokens(name).collect())
        for one, other in zip(run.gradients(name), whole.gradients(name), strict=True):
            np.testing.assert_array_equal(one, other)
    assert run.manifest == whole.manifest


def test_two_ray_workers_write_what_one_process_writes(ray, options, tmp_path):
    with torch_threads(1):
        whole = score(out=tmp_path / "whole", **options)
    same(score(out=tmp_path / "run", engine="ray", workers=2, **options), whole)


class Quiet:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __enter__(self) -> "Quiet":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, task: str, tokens: int) -> None:
        pass

    def advance(self, tokens: int) -> None:
        pass

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.mark.parametrize("count", [2, 1])
def test_a_lost_worker_costs_its_part(ray, options, tmp_path, monkeypatch, count):
    """Another does it if there is one, else the same call."""
    # What Ray gives to each worker, where the environment does not say otherwise.
    with torch_threads(int(os.environ.get("OMP_NUM_THREADS", 2 // count))):
        whole = score(out=tmp_path / "whole", **options)
    plain, calls, heard = Actors.call, [], Quiet()

    def call(self, worker, method, *arguments):
        plain(self, worker, method, *arguments)
        if method == "score":
            calls.append(worker)
            if len(calls) == 2:
                ray.kill(self.actors[worker])

    monkeypatch.setattr(Actors, "call", call)
    out = tmp_path / "run"
    if count == 2:
        run = score(out=out, engine="ray", workers=2, progress=heard, **options)
        assert any("its process was lost in part" in line for line in heard.said)
    else:
        with pytest.raises(ModelError, match=r"^ray worker 1: its process was lost in part 1; "):
            score(out=out, engine="ray", workers=1, **options)
        monkeypatch.setattr(Actors, "call", plain)
        run = score(out=out, engine="ray", workers=1, **options)
    same(run, whole)


def test_an_error_of_a_worker_is_its_one_line(ray, options, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(options["students"]["b"], broken)
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    options["students"]["b"] = str(broken)
    with pytest.raises(ModelError, match=rf"^{broken}: cannot be loaded \(") as caught:
        score(out=tmp_path / "run", engine="ray", workers=1, **options)
    assert "\n" not in str(caught.value)


def test_more_workers_than_the_cluster_holds_are_refused(ray, options, tmp_path):
    with pytest.raises(OptionError, match="^workers: 3; expected at most 2, the CPUs"):
        score(out=tmp_path / "run", engine="ray", workers=3, **options)
