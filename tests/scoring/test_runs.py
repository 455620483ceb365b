"""Runs on disk: resumed, extended, refused, interrupted, out of memory."""

import pickle
import resource
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save
from transformers import AutoModelForCausalLM

from opd_diag.errors import (
    ManifestError,
    ModelError,
    ModelMismatchError,
    OptionError,
    RolloutError,
    StorageError,
    TableError,
)
from opd_diag.scoring.engines import worker
from opd_diag.scoring.parts import noise as noise_module
from opd_diag.scoring.parts import score_part as part_module
from opd_diag.scoring.parts.noise import noise_floor, sample_rollouts
from opd_diag.scoring.score import score
from opd_diag.tables.files import run_lock
from opd_diag.tables.gradients import gradients_path
from opd_diag.tables.manifest import NoiseFloor, write_manifest
from opd_diag.tables.rollouts import Rollouts
from opd_diag.tables.run import Run, open_run
from opd_diag.tables.tokens import part_path
from tests.conftest import build
from tests.scoring.heard import Heard

PART_TOKENS = 30

# Scores in a process of its own that kills itself, as kill -9 would, when it begins its third part.
KILLED = """
import os, pickle, signal, sys
import torch
from opd_diag.scoring.parts import score_part as part_module
from opd_diag.scoring.parts.noise import noise_floor
from opd_diag.scoring.score import score

torch.set_num_threads(1)
plain, calls = part_module.score_part, []

def score_part(*args, **options):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(*args, **options)

part_module.score_part = score_part
rollouts, options = pickle.load(open(sys.argv[1], "rb"))
score(rollouts, **options)
"""


@pytest.fixture(scope="module")
def whole_run(rollouts, teacher, student, later, tmp_path_factory) -> Run:
    """An uninterrupted run."""
    return score(
        rollouts,
        teacher=teacher,
        students={"a": student, "b": later},
        out=tmp_path_factory.mktemp("whole") / "run",
        part_tokens=PART_TOKENS,
    )


@pytest.fixture(scope="module")
def whole(whole_run) -> dict[str, pl.DataFrame]:
    """Its tables."""
    return {name: whole_run.tokens(name).collect() for name in whole_run.checkpoints}


def test_a_killed_run_goes_on_and_equals_an_uninterrupted_one(
    rollouts, teacher, student, later, folder, tmp_path, whole, whole_run
):
    options = {
        "teacher": teacher,
        "students": {"a": student, "b": later},
        "out": str(folder),
        "part_tokens": PART_TOKENS,
    }
    call = tmp_path / "call"
    call.write_bytes(pickle.dumps((rollouts, options)))
    done = subprocess.run([sys.executable, "-c", KILLED, call], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    with pytest.raises(TableError, match="parts are missing"):
        open_run(folder).tokens("a")
    kept = part_path(folder, "a", 1)
    before = kept.stat().st_mtime_ns
    run = score(rollouts, **options)
    assert kept.stat().st_mtime_ns == before
    for name, table in whole.items():
        assert run.tokens(name).collect().equals(table)
        for ours, theirs in zip(run.gradients(name), whole_run.gradients(name), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert not list(folder.rglob("*.tmp"))


def test_ctrl_c_says_how_to_go_on(rollouts, teacher, student, folder, monkeypatch, whole):
    plain, heard = part_module.score_part, Heard()

    def interrupted(job, part, *args, **options):
        if part.start > 0:
            raise KeyboardInterrupt
        return plain(job, part, *args, **options)

    options = {"teacher": teacher, "students": {"a": student}, "out": folder}
    options |= {"part_tokens": PART_TOKENS}
    monkeypatch.setattr(part_module, "score_part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score(rollouts, **options, progress=heard)
    assert any("a has 1 of" in line and "the same command" in line for line in heard.said)
    monkeypatch.setattr(part_module, "score_part", plain)
    assert score(rollouts, **options).tokens("a").collect().equals(whole["a"])


def test_a_checkpoint_added_later_gets_what_it_would_have_got_at_once(
    rollouts, teacher, student, later, folder, whole
):
    options = {"teacher": teacher, "out": folder, "part_tokens": PART_TOKENS}
    score(rollouts, students={"a": student}, **options)
    run = score(rollouts, students={"b": later}, **options)
    assert run.checkpoints == ("a", "b")
    for name, table in whole.items():
        assert run.tokens(name).collect().equals(table)


def test_a_call_that_names_all_checkpoints_sets_their_order(
    rollouts, teacher, student, later, folder, whole
):
    """One that names some of them puts new ones last; both say the order, once."""
    options = {"teacher": teacher, "out": folder, "part_tokens": PART_TOKENS}
    said = []

    def order(**students: str) -> tuple[str, ...]:
        heard = Heard()
        run = score(rollouts, students=students, **options, progress=heard)
        said.append([line for line in heard.said if "order" in line])
        return run.checkpoints

    assert order(c=student) == ("c",)
    assert order(a=student, c=student) == ("a", "c")
    assert order(b=later) == ("a", "c", "b")
    assert order(c=student) == ("a", "c", "b")
    assert order(a=student, b=later, c=student) == ("a", "b", "c")
    assert order(a=student, b=later, c=student) == ("a", "b", "c")
    assert [len(lines) for lines in said] == [0, 1, 1, 0, 1, 0]
    assert said[2][0].startswith("order of the checkpoints: a, c, b (")
    assert open_run(folder).tokens("b").collect().equals(whole["b"])


@pytest.fixture
def bodies(monkeypatch) -> list[tuple[str, int]]:
    """What ran through which body in the parts: (model, response tokens), noise floor left out."""
    plain, ran = part_module.response_states, []

    def states(model, prompts, responses, numbers):
        ran.append((model.name, sum(len(responses[i]) for i in numbers)))
        return plain(model, prompts, responses, numbers)

    monkeypatch.setattr(part_module, "response_states", states)
    monkeypatch.setattr(
        worker, "noise_floors", lambda job, *_, **__: dict.fromkeys(job.students, NoiseFloor())
    )
    return ran


def tokens_through(bodies: list[tuple[str, int]], name: str) -> int:
    return sum(tokens for model, tokens in bodies if model == name)


@pytest.mark.parametrize("together", [True, False])
def test_the_teacher_runs_once_however_many_students(
    rollouts, teacher, student, later, folder, monkeypatch, whole, bodies, together
):
    monkeypatch.setattr("opd_diag.scoring.parts.jobs._room_for_another", lambda *_: together)
    heard = Heard()
    run = score(
        rollouts,
        teacher=teacher,
        students={"a": student, "b": later},
        out=folder,
        part_tokens=PART_TOKENS,
        progress=heard,
    )
    assert tokens_through(bodies, teacher) == whole["a"].height
    told = [line for line in heard.said if "hidden states take" in line]
    assert len(told) == (0 if together else 1)
    # 139 rows of 48 floats.
    assert together or f"take {139 * 48 * 4 / 1e9:.3g} GB in {folder}/teacher until" in told[0]
    assert not (folder / "teacher").exists()
    for name, table in whole.items():
        assert run.tokens(name).collect().equals(table)


def test_kept_teacher_states_serve_a_checkpoint_added_later(
    rollouts, teacher, student, later, folder, whole, bodies
):
    options = {"teacher": teacher, "out": folder, "part_tokens": PART_TOKENS}
    score(rollouts, students={"a": student}, keep_teacher_states=True, **options)
    assert len(list((folder / "teacher").iterdir())) == len(open_run(folder).manifest.parts)
    bodies.clear()
    run = score(rollouts, students={"b": later}, **options)
    assert tokens_through(bodies, teacher) == 0
    assert tokens_through(bodies, later) == whole["b"].height
    for name, table in whole.items():
        assert run.tokens(name).collect().equals(table)
    assert not (folder / "teacher").exists()


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-9], lambda raw: save({"states": torch.zeros(2, 3)})]
)
def test_damaged_teacher_states_are_made_again(
    rollouts, teacher, student, later, folder, whole, damage
):
    options = {"teacher": teacher, "out": folder, "part_tokens": PART_TOKENS}
    score(rollouts, students={"a": student}, keep_teacher_states=True, **options)
    path = folder / "teacher" / "part-00001.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    heard = Heard()
    run = score(rollouts, students={"b": later}, **options, progress=heard)
    assert [line for line in heard.said if "not as it was written; it is made again" in line] == [
        f"{path}: not as it was written; it is made again"
    ]
    assert run.tokens("b").collect().equals(whole["b"])


def test_without_room_the_teacher_runs_again(
    rollouts, teacher, student, later, folder, monkeypatch, whole, bodies
):
    monkeypatch.setattr("opd_diag.scoring.parts.jobs._room_for_another", lambda *_: False)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    heard = Heard()
    options = {"teacher": teacher, "out": folder, "part_tokens": PART_TOKENS, "progress": heard}
    run = score(rollouts, students={"a": student, "b": later}, **options)
    assert any("too much to keep" in line for line in heard.said)
    assert tokens_through(bodies, teacher) == 2 * whole["a"].height
    assert run.tokens("b").collect().equals(whole["b"])


def test_a_finished_run_loads_no_model_again(rollouts, teacher, student, folder, monkeypatch):
    options = {"teacher": teacher, "students": {"a": student}, "out": folder}
    score(rollouts, **options)
    monkeypatch.setattr("opd_diag.scoring.parts.jobs.load_model", None)
    assert score(rollouts, **options).checkpoints == ("a",)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"temperature": 0.9}, "temperature was 1.0, is 0.9"),
        ({"k_grid": (2, 4)}, "k_grid was"),
        ({"segmenter": "newline"}, "segmenter name was punkt, is newline"),
        ({"limit": 5}, r"it has \d+ rollouts, you gave 5 \(not the same\)"),
        ({"max_response_tokens": 9}, "max_response_tokens was missing, is 9"),
        ({"part_tokens": 50}, "part_tokens was 262144, is 50"),
        ({"dtype": "bfloat16"}, "dtype was float32, is bfloat16"),
    ],
)
def test_another_run_in_the_folder_is_named_and_refused(
    rollouts, teacher, student, folder, change, named
):
    options = {"teacher": teacher, "students": {"a": student}, "out": folder}
    score(rollouts, **options)
    with pytest.raises(ModelMismatchError, match=f"holds another run: .*{named}"):
        score(rollouts, **options | change)


def test_other_weights_under_a_known_name_are_refused(rollouts, teacher, student, later, folder):
    score(rollouts, teacher=teacher, students={"a": student}, out=folder)
    with pytest.raises(ModelMismatchError, match=r"'a' has other weights: model\.safetensors was"):
        score(rollouts, teacher=teacher, students={"a": later}, out=folder)
    with pytest.raises(ModelMismatchError, match=r"teacher model\.safetensors was"):
        score(rollouts, teacher=later, students={"a": student}, out=folder)


def test_a_folder_of_other_files_is_left_alone(rollouts, teacher, student, folder):
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(StorageError, match=r"holds 1 other files, such as thesis\.txt"):
        score(rollouts, teacher=teacher, students=student, out=folder)


def test_one_writer_at_a_time(rollouts, teacher, student, folder):
    with run_lock(folder), pytest.raises(StorageError, match="is writing to this run"):
        score(rollouts, teacher=teacher, students=student, out=folder)


def test_exactly_the_parts_that_changed_are_made_again(
    rollouts, teacher, student, later, folder, whole, whole_run
):
    """Tokens of one checkpoint and gradients of the other, one cut, one of the other's."""
    students = {"a": student, "b": later}
    options = {"teacher": teacher, "students": students, "out": folder, "part_tokens": PART_TOKENS}
    score(rollouts, **options)
    cut, foreign = part_path(folder, "a", 0), gradients_path(folder, "b", 2)
    cut.write_bytes(cut.read_bytes()[:-100])
    foreign.write_bytes(gradients_path(folder, "a", 2).read_bytes())
    again = {cut, gradients_path(folder, "a", 0), part_path(folder, "b", 2), foreign}
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("part-*")}
    with pytest.raises(TableError, match=r"part-00000\.parquet: damaged, edited or of another run"):
        open_run(folder).tokens("a")
    with pytest.raises(TableError, match=r"part-00002\.safetensors: damaged, edited or of another"):
        open_run(folder).gradients("b")
    run = score(rollouts, **options)
    assert {path for path, time in before.items() if path.stat().st_mtime_ns != time} == again
    assert run.manifest == whole_run.manifest
    assert all(run.tokens(name).collect().equals(table) for name, table in whole.items())


@pytest.mark.parametrize("name", ["rollouts.parquet", "vocab.parquet"])
def test_rollouts_and_vocabulary_that_changed_are_written_again(
    rollouts, teacher, student, folder, name
):
    options = {"teacher": teacher, "students": {"a": student}, "out": folder}
    score(rollouts, **options)
    whole = (folder / name).read_bytes()
    pl.read_parquet(folder / name).reverse().write_parquet(folder / name)
    score(rollouts, **options)
    assert (folder / name).read_bytes() == whole


def test_a_run_with_its_last_parts_gone_goes_on(
    rollouts, teacher, student, folder, whole, whole_run
):
    options = {"teacher": teacher, "students": {"a": student}, "out": folder}
    options |= {"part_tokens": PART_TOKENS}
    last = len(score(rollouts, **options).manifest.parts) - 1
    for number in (1, last):
        part_path(folder, "a", number).unlink()
    gradients_path(folder, "a", last).unlink()
    assert score(rollouts, **options).tokens("a").collect().equals(whole["a"])


def test_a_manifest_with_fewer_parts_than_its_rollouts_make_is_refused(
    rollouts, teacher, student, folder
):
    options = {"teacher": teacher, "students": {"a": student}, "out": folder}
    run = score(rollouts, **options, part_tokens=PART_TOKENS)
    run.manifest.parts = run.manifest.parts[:-1]
    write_manifest(folder, run.manifest)
    with pytest.raises(ManifestError, match=r"manifest\.json: 4 parts; expected the 5 that"):
        score(rollouts, **options, part_tokens=PART_TOKENS)


def test_a_claim_without_a_finished_part_binds_nothing(
    rollouts, teacher, student, later, folder, tmp_path
):
    """Weights that could not be loaded, then mended; and rollouts that were read otherwise."""
    broken = tmp_path / "broken"
    shutil.copytree(student, broken)
    weights = broken / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    options = {"teacher": teacher, "out": folder}
    with pytest.raises(ModelError, match="cannot be loaded"):
        score(rollouts, students={"a": str(broken)}, **options)
    heard = Heard()
    weights.write_bytes(whole)
    score(rollouts, students={"a": str(broken)}, **options, limit=5, progress=heard)
    assert [line for line in heard.said if "taken over" in line] == [
        f"{folder}: taken over from another run, of which no part was finished"
    ]
    weights.write_bytes(whole[:-1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        score(rollouts, students={"b": str(broken)}, **options, limit=5)
    heard = Heard()
    run = score(rollouts, students={"b": later}, **options, limit=5, progress=heard)
    assert "checkpoint b: no part of it was finished; its claim is dropped" in heard.said
    weights.write_bytes(whole[:-999])
    with pytest.raises(ModelError, match="cannot be loaded"):
        score(rollouts, students={"c": str(broken)}, **options, limit=5)
    run = score(rollouts, students={"d": student}, **options, limit=5)
    assert run.checkpoints == ("a", "b", "d")
    with pytest.raises(
        ModelMismatchError, match="holds another run: it has 5 rollouts, you gave 9"
    ):
        score(rollouts, students={"a": student}, **options)


@pytest.mark.parametrize("refused", ["tokens", "gradients"])
def test_a_write_error_loses_nothing_that_was_complete(
    rollouts, teacher, student, folder, whole_run, whole, refused
):
    """The system itself refuses to write beyond a size, from the third part on."""
    sizes = {
        kind: [path.stat().st_size for path in (whole_run.path / kind).rglob("part-*")]
        for kind in ("tokens", "gradients")
    }
    room = max(sizes["gradients"]) if refused == "tokens" else 100
    assert room < min(sizes["tokens"])
    options = {"teacher": teacher, "students": {"a": student}, "out": folder}
    options |= {"part_tokens": PART_TOKENS, "noise_floor": "off"}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Full(Heard):
        def advance(self, tokens: int) -> None:
            super().advance(tokens)
            if self.tokens == self.expected - open_run(folder).manifest.parts[-1].rows:
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))

    try:
        with pytest.raises(StorageError, match="cannot be written") as caught:
            score(rollouts, **options, progress=Full())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    last = len(whole_run.manifest.parts) - 2
    assert f"{refused}/checkpoint=a/part-{last:05d}" in str(caught.value)
    assert "\n" not in str(caught.value)
    kept = sorted(path.name for path in (folder / "tokens" / "checkpoint=a").iterdir())
    assert kept == [f"part-{number:05d}.parquet" for number in range(last)]
    run = score(rollouts, **options)
    assert run.tokens("a").collect().equals(whole["a"])
    assert not list(folder.rglob("*.tmp"))


def test_out_of_memory_halves_the_batch_and_goes_on(
    rollouts, teacher, student, folder, monkeypatch, whole
):
    plain, sizes, heard = part_module.response_states, [], Heard()

    def states(model, prompts, responses, numbers):
        longest = max(len(prompts[i]) + len(responses[i]) - 1 for i in numbers)
        sizes.append(len(numbers) * longest)
        if sizes[-1] > 100:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(model, prompts, responses, numbers)

    monkeypatch.setattr(part_module, "response_states", states)
    run = score(
        rollouts,
        teacher=teacher,
        students={"a": student},
        out=folder,
        batch_tokens=300,
        progress=heard,
    )
    assert run.manifest.batch_tokens == [(0, 75)]
    assert [line for line in heard.said if "out of memory" in line][-1].endswith("of 75 tokens")
    assert heard.tokens == heard.expected
    assert max(sizes[-10:]) <= 100
    close(run.tokens("a").collect(), whole["a"])


def test_a_rollout_that_never_fits_is_one_line(rollouts, teacher, student, folder, monkeypatch):
    def states(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(part_module, "response_states", states)
    with pytest.raises(ModelError, match="one of 46 tokens does not fit into memory alone"):
        score(rollouts, teacher=teacher, students=student, out=folder)


def test_the_size_of_batches_does_not_matter(rollouts, teacher, student, tmp_path, whole):
    for size in (1, 60):
        run = score(
            rollouts,
            teacher=teacher,
            students={"a": student},
            out=tmp_path / str(size),
            batch_tokens=size,
        )
        close(run.tokens("a").collect(), whole["a"])
        assert run.manifest.checkpoints["a"].noise_floor.p95["reverse_kl"] < 1e-4


def close(one: pl.DataFrame, other: pl.DataFrame) -> None:
    """Assert that two token tables differ by rounding only."""
    exact = ["rollout", "position", "token_id", "segment", "in_loss", "repeat", "student_rank"]
    assert one.select(exact).equals(other.select(exact))
    for name in ("student_logp", "reverse_kl", "forward_kl", "js", "grad_hidden", "union_kl"):
        assert (one[name] - other[name]).abs().max() < 1e-4, name


def test_manifest_counts_what_has_no_value(rollouts, teacher, student, folder, save_model, ids):
    model = AutoModelForCausalLM.from_pretrained(student)
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = torch.nan
    broken = save_model(model, "broken")
    heard = Heard()
    spoiled = rollouts.table.with_columns(
        prompt_token_ids=pl.when(pl.col("rollout") == 5)
        .then(pl.lit([7], pl.List(pl.Int32)))
        .otherwise("prompt_token_ids")
    )
    students = {"x": broken}
    run = score(Rollouts(spoiled), teacher=teacher, students=students, out=folder, progress=heard)
    tokens = run.tokens().collect()
    rows = tokens.filter(pl.col("rollout") == 5)
    assert rows.select("reverse_kl", "student_rank", "margin").null_count().row(0) == (3, 3, 3)
    assert run.manifest.checkpoints["x"].statistics["rows_not_finite"] >= 3
    assert any("are not finite; their scores are null" in line for line in heard.said)


def test_the_generators_log_probs_are_judged_and_told_loudly(
    rollouts, teacher, student, later, tmp_path, whole
):
    """The student's own log-probs, of another checkpoint, and of the token before."""
    own = whole["a"].group_by("rollout", maintain_order=True).agg("student_logp")
    logps = dict(own.iter_rows())
    n = rollouts.table.height
    made = pl.Series([logps.get(i, []) for i in range(n)], dtype=pl.List(pl.Float32))
    late = pl.Series([[-9.0, *logps.get(i, [])][:-1] for i in range(n)], dtype=pl.List(pl.Float32))
    cases = [
        ("own", made, {"a": student}, "aligned", None),
        ("other", made, {"b": later}, "other checkpoint", "fit no checkpoint; nearest is b"),
        ("both", made, {"a": student, "b": later}, "aligned", None),
        ("late", late, {"a": student}, "shifted by one", "nearest is a: shifted by one"),
    ]
    for out, sampled, students, diagnosis, warning in cases:
        heard = Heard()
        table = rollouts.table.with_columns(sampled_logp=sampled)
        run = score(
            Rollouts(table),
            teacher=teacher,
            students=students,
            out=tmp_path / out,
            part_tokens=PART_TOKENS,
            progress=heard,
        )
        first = run.manifest.checkpoints[next(iter(students))].alignment
        assert first["diagnosis"] == diagnosis
        told = [line for line in heard.said if "log-probs" in line]
        kept = [line for line in run.manifest.warnings if "log-probs" in line]
        assert told == [f"warning: {line}" for line in kept]
        assert bool(told) == (warning is not None)
        assert warning is None or warning in told[0]
        if out == "other":
            # Tokens outside the loss, such as those of a tool, were generated by nobody.
            own = [whole[name].filter("in_loss")["student_logp"].to_numpy() for name in ("a", "b")]
            difference = np.abs(own[0] - own[1])
            assert 0 < len(difference) < whole["a"].height
            assert first["n"] == len(difference)
            assert first["median"] == pytest.approx(np.median(difference), rel=0.12)
            assert first["p95"] == pytest.approx(
                np.quantile(difference, 0.95, method="inverted_cdf"), rel=0.12
            )


def test_the_noise_floor_is_what_moves_with_the_batch(rollouts, teacher, student, folder, whole):
    """The floors of a real run are rounding; a known difference is found as it is."""
    run = score(rollouts, teacher=teacher, students={"a": student}, out=folder)
    floor = run.manifest.checkpoints["a"].noise_floor
    tokens = run.tokens("a").collect()
    again = tokens.filter(pl.col("rollout").is_in(sample_rollouts(lengths_of(tokens), 0)))
    assert (floor.rollouts, floor.tokens) == (4, again.height)
    floats = [
        name
        for name, dtype in tokens.schema.items()
        if pl.Float32 in (dtype, getattr(dtype, "inner", None))
        and tokens[name].null_count() < tokens.height
    ]
    assert list(floor.p95) == floats
    assert max(floor.p95.values()) < 1e-3
    moved = {"js": tokens["js"].to_numpy() + np.linspace(0, 1, tokens.height, dtype=np.float32)}
    assert noise_floor(tokens, moved) == {"js": pytest.approx(0.95, abs=1e-3)}


def lengths_of(tokens: pl.DataFrame) -> np.ndarray:
    return np.bincount(tokens["rollout"])


def test_the_noise_floor_takes_few_rollouts_of_all_lengths():
    """A twentieth of the tokens, 4 to 32 rollouts, and none that is empty."""
    equal = np.full(1_000, 50)
    assert len(sample_rollouts(equal, 0)) == 32
    assert len(sample_rollouts(equal[:200], 0)) == 10
    assert len(sample_rollouts(equal[:48], 0)) == 4
    assert len(sample_rollouts(equal[:3], 0)) == 3
    assert len(sample_rollouts(np.zeros(3, np.int64), 0)) == 0
    lengths = np.random.default_rng(1).lognormal(6, 1, 400).astype(np.int64)
    lengths[::3] = 0
    taken = lengths[sample_rollouts(lengths, 0)]
    assert (taken > 0).all()
    assert (np.diff(taken) >= 0).all()
    assert 0.03 * lengths.sum() < taken.sum() <= 0.05 * lengths.sum()
    assert taken[0] < np.median(lengths[lengths > 0]) < taken[-1]


def test_the_noise_floor_can_be_left_out(rollouts, teacher, student, folder, whole, monkeypatch):
    monkeypatch.setattr(noise_module, "rescore", lambda *_: pytest.fail("scored again"))
    heard = Heard()
    options = {"teacher": teacher, "students": {"a": student}, "part_tokens": PART_TOKENS}
    options |= {"progress": heard}
    run = score(rollouts, out=folder, noise_floor="off", **options)
    assert heard.tokens == heard.expected == whole["a"].height
    assert run.tokens("a").collect().equals(whole["a"])
    assert run.noise_floor("a") == {}
    score(rollouts, out=folder, **options)  # it is finished: nothing runs again
    assert heard.tokens == whole["a"].height
    with pytest.raises(OptionError, match="noise_floor: 'of'; expected on or off"):
        score(rollouts, out=folder, noise_floor="of", **options)


def test_students_of_other_widths_are_scored_as_if_alone(
    rollouts, teacher, student, save_model, tmp_path
):
    """A head narrower than the vocabulary cuts the ids of its own checkpoint only."""
    narrow = save_model(build(300, 5, 32), "narrow")
    small = rollouts.table.with_columns(
        pl.col("prompt_token_ids", "response_token_ids").list.eval(pl.element() % 290 + 3)
    )
    small = small.with_columns(teacher_prompt_token_ids=pl.lit(None, pl.List(pl.Int32)))
    options = {"teacher": teacher, "part_tokens": PART_TOKENS}
    both = score(
        Rollouts(small), students={"n": narrow, "a": student}, out=tmp_path / "both", **options
    )
    for name, path in (("n", narrow), ("a", student)):
        alone = score(Rollouts(small), students={name: path}, out=tmp_path / name, **options)
        assert both.tokens(name).collect().equals(alone.tokens(name).collect())
    assert both.manifest.checkpoints["n"].decodable == 300
    assert both.manifest.checkpoints["a"].decodable > 300


def test_ids_outside_the_vocabulary_name_their_line(make_rollouts, teacher, student, folder, ids):
    bad = make_rollouts([[5], [5]], [[6], [ids]])
    with pytest.raises(RolloutError, match=rf"made\.jsonl:2: response_token_ids holds {ids}"):
        score(bad, teacher=teacher, students=student, out=folder)


def test_ids_that_a_model_has_no_row_for_name_their_line(
    make_rollouts, teacher, save_model, folder
):
    narrow = save_model(build(300, 5, 32), "narrow")
    bad = make_rollouts([[5], [5]], [[6], [310]])
    with pytest.raises(RolloutError, match=r"made\.jsonl:2: response_token_ids holds 310; .*299"):
        score(bad, teacher=teacher, students={"n": narrow}, out=folder)


@pytest.mark.parametrize(
    ("prompts", "responses", "message"),
    [
        ([[], [4]], [[5], [6]], r"made\.jsonl:1: prompt_token_ids is empty"),
        ([[4], [4]], [[], []], "2 rows without a response token"),
    ],
)
def test_rollouts_without_anything_to_score(
    make_rollouts, teacher, student, folder, prompts, responses, message
):
    with pytest.raises(RolloutError, match=message):
        score(make_rollouts(prompts, responses), teacher=teacher, students=student, out=folder)


def test_tokenizers_that_differ_are_refused(
    rollouts, teacher, student, folder, train_bpe, tmp_path
):

    other = tmp_path / "other"
    shutil.copytree(student, other)
    train_bpe(["zzz yyy xxx"], 280).save_pretrained(other)
    with pytest.raises(
        ModelMismatchError,
        match=r"teacher and student o: their tokenizers differ in \d+ ids, first 2\d\d \(",
    ):
        score(rollouts, teacher=teacher, students={"o": str(other)}, out=folder)
    assert not folder.exists()


def test_a_student_without_weights_is_refused(rollouts, teacher, tiny_tokenizer, folder, tmp_path):
    empty = tmp_path / "empty"
    tiny_tokenizer.save_pretrained(empty)
    with pytest.raises(ModelError, match="no weights in this folder"):
        score(rollouts, teacher=teacher, students=str(empty), out=folder)
