"""Inject faults into runs of the sample data, and write what was lost to results/faults.md.

`python -m benchmarks.faults` takes about ten minutes on two cores; `--times 0.1` a tenth of it,
`--only foreign_files,manifest_bits` those faults alone. A run that was hit is gone on with, and
compared byte for byte with one that nothing happened to.
"""

import argparse
import errno
import os
import platform
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
import torch

from opd_diag.analyses.release_points import release_points
from opd_diag.datasets import null_run, save_run
from opd_diag.errors import ManifestError, OpdDiagError, StorageError, TableError
from opd_diag.rollouts import read_rollouts
from opd_diag.scoring.parts import score_part as part_module
from opd_diag.scoring.score import score
from opd_diag.tables.manifest import MANIFEST_NAME
from opd_diag.tables.run import Run, open_run
from tests.faults.conftest import assert_same_run
from tests.faults.edits import EDITS, MANIFEST_EDITS, RESULT_EDITS
from tests.faults.failing import Failing
from tests.faults.kills import Server, kill_and_go_on, server

RESULT = Path(__file__).parent / "results" / "faults.md"
SAMPLE = Path(__file__).parent.parent / "sample_data"
HEAD = """# Faults

Written by `python -m benchmarks.faults`: the sample models score {rollouts} rollouts of the sample
data in {parts} parts under {checkpoints} checkpoints. After a fault the same command runs again; a
run is whole if its tables, gradient sums and manifest then have the bytes of an undisturbed run.
"one line" counts errors of the library, each a single line: then the fault was noticed. {when},
{versions}, 2 CPU cores.

| fault | injected | one line | runs whole at the end | lost |
|---|---|---|---|---|
"""


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        fault: What was injected.
        injected: How often.
        told: How often an error of ours told of it in one line; None where none is expected.
        whole: Runs, or files, that were whole at the end, of those that were looked at.
        lost: What was lost.
    """

    fault: str
    injected: int
    told: int | None
    whole: tuple[int, int]
    lost: str = "nothing"


class Study(NamedTuple):
    """What faults are injected into.

    Attributes:
        call: Options of `score`, without the folder.
        clean: The undisturbed run.
        folder: Where runs are made.
        times: Factor on how often.
    """

    call: dict[str, Any]
    clean: Run
    folder: Path
    times: float

    def n(self, often: int) -> int:
        """Return how often, at least twice."""
        return max(2, round(often * self.times))

    def score(self, out: Path) -> Run:
        """Score into a folder."""
        return score(**self.call, out=out, progress=Silent())

    def is_whole(self, folder: Path) -> bool:
        """Tell whether a run has the bytes of the undisturbed one."""
        try:
            assert_same_run(open_run(folder), self.clean)
        except (AssertionError, OpdDiagError):
            return False
        return True


class Silent:
    """Says nothing."""

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, task: str, tokens: int) -> None:
        """Nothing."""

    def advance(self, tokens: int) -> None:
        """Nothing."""

    def say(self, message: str) -> None:
        """Nothing."""


def row(fault: str, injected: int, told: int | None, whole: list[bool]) -> Row:
    lost = len(whole) - sum(whole)
    return Row(fault, injected, told, (sum(whole), len(whole)), f"{lost}" if lost else "nothing")


def kills_of_score(study: Study, running: Server) -> Iterator[Row]:
    whole: list[bool] = []
    rollouts = study.call["rollouts"]
    options = {key: value for key, value in study.call.items() if key != "rollouts"}
    done = kill_and_go_on(
        running,
        lambda folder: ("score", rollouts, {**options, "out": str(folder)}),
        lambda number: study.folder / f"killed{number}",
        lambda folder: whole.append(study.is_whole(folder)),
        kills=study.n(60),
        seed=1,
    )
    sent = ", ".join(f"{n} {name}" for name, n in done.sent.items())
    yield row(
        f"`score` killed at a random moment ({sent})", sum(done.sent.values()), None, whole[1:]
    )


def kills_of_analyze(study: Study, running: Server) -> Iterator[Row]:
    dataset = null_run(prompts=16, samples=2, tokens=200)
    clean, run = (save_run(dataset, study.folder / name) for name in ("analysed", "hit"))
    clean.save(release_points(clean)._asdict(), arguments={})
    whole: list[bool] = []

    def compare(folder: Path) -> None:
        whole.extend(
            (folder / "results" / path.name).read_bytes() == path.read_bytes()
            for path in clean.results_folder.iterdir()
        )

    done = kill_and_go_on(
        running,
        lambda folder: ("analyze", str(folder)),
        lambda number: run.path,
        compare,
        kills=study.n(20),
        seed=2,
    )
    injected = sum(done.sent.values())
    yield row("`analyze` killed at a random moment (tables)", injected, None, whole[6:])


def locked(study: Study, running: Server) -> Iterator[Row]:
    rollouts = study.call["rollouts"]
    options = {key: value for key, value in study.call.items() if key != "rollouts"}
    told, whole = 0, []
    for number in range(study.n(10)):
        folder = study.folder / f"locked{number}"
        first = running.start("score", rollouts, {**options, "out": str(folder)})
        while not (folder / MANIFEST_NAME).exists():
            pass
        os.kill(first, signal.SIGSTOP)
        told += one_line(lambda folder=folder: study.score(folder), StorageError)
        os.kill(first, signal.SIGKILL)
        running.wait()
        study.score(folder)
        whole.append(study.is_whole(folder))
    yield row("second `score` on a run whose first is then killed", len(whole), told, whole)


def one_line(call: Callable[[], Any], kind: type[Exception] = OpdDiagError) -> bool:
    """Tell whether a call raises an error of a kind, in one line."""
    try:
        call()
    except kind as error:
        return "\n" not in str(error)
    return False


def failing_writes(study: Study, _: Server) -> Iterator[Row]:
    with pytest.MonkeyPatch.context() as patch:
        counted = Failing(patch, None, 0)
        study.score(study.folder / "counted")
    for code in (errno.ENOSPC, errno.EIO):
        told, whole = 0, []
        stride = max(1, round(counted.steps / study.n(40)))
        for at in range(1, counted.steps + 1, stride):
            folder = study.folder / f"write{code}-{at}"
            with pytest.MonkeyPatch.context() as patch:
                Failing(patch, at, code)
                told += one_line(lambda folder=folder: study.score(folder), StorageError)
            study.score(folder)
            whole.append(study.is_whole(folder))
        name = errno.errorcode[code]
        what = f"{name} at the n-th sync or rename of {counted.steps}, n = 1, {1 + stride} ..."
        yield row(what, len(whole), told, whole)


def no_memory(study: Study, _: Server) -> Iterator[Row]:
    plain = part_module.response_states
    calls: list[int] = []
    at, error = 0, MemoryError()

    def states(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == at:
            raise error
        return plain(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part_module, "response_states", states)
        study.score(study.folder / "batches")
        batches, whole = len(calls), []
        for number in range(study.n(20)):
            at = 1 + number * (batches - 1) // study.n(20)
            error = MemoryError() if number % 2 else torch.OutOfMemoryError("CUDA out of memory.")
            calls.clear()
            run = study.score(study.folder / f"memory{number}")
            keys = ["checkpoint", "rollout", "position", "token_id"]
            ours, theirs = (one.tokens().collect() for one in (run, study.clean))
            same = ours.select(keys).equals(theirs.select(keys))
            worst = (ours["reverse_kl"] - theirs["reverse_kl"]).abs().max()
            whole.append(same and isinstance(worst, float) and worst < 1e-3)
    what = "out of memory (CUDA, host) at the n-th batch; equal but for rounding"
    yield row(what, len(whole), None, whole)


def damaged_files(study: Study, _: Server) -> Iterator[Row]:
    folder = study.folder / "damaged"
    shutil.copytree(study.clean.path, folder)
    rng = random.Random(3)
    files = [p for kind in ("tokens", "gradients") for p in sorted((folder / kind).rglob("*.*"))]
    files += [folder / "rollouts.parquet", folder / "vocab.parquet"]

    def flipped(raw: bytes) -> bytes:
        changed = bytearray(raw)
        changed[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        return bytes(changed)

    def read() -> None:
        run = open_run(folder)
        run.tokens().collect()
        _ = run.rollouts, run.vocab, *(run.gradients(name) for name in run.checkpoints)

    for what, damage in (
        ("one bit of a file of the run flipped", flipped),
        ("a file of the run truncated", lambda raw: raw[: rng.randrange(len(raw))]),
    ):
        told, whole = 0, []
        for _ in range(study.n(300)):
            path = rng.choice(files)
            raw = path.read_bytes()
            path.write_bytes(damage(raw))
            seen = one_line(read, TableError)
            told += seen
            # Not seen: then the tables must be what they were.
            whole.append(seen or study.is_whole(folder))
            path.write_bytes(raw)
        yield row(what, len(whole), told, whole)
    manifest = folder / MANIFEST_NAME
    raw, told, whole = manifest.read_bytes(), 0, []
    for _ in range(study.n(100)):
        manifest.write_bytes(raw[: rng.randrange(len(raw) - 2)])
        told += one_line(lambda: open_run(folder))
        manifest.write_bytes(raw)
        whole.append(study.is_whole(folder))
    yield row("the manifest half written", len(whole), told, whole)


def foreign_files(study: Study, _: Server) -> Iterator[Row]:
    """Files that are whole but not the run's own, and edits by hand."""
    a_and_b = dict(zip("ab", study.call["students"].values(), strict=True))
    swapped = dict(zip("ab", reversed(study.call["students"].values()), strict=True))
    rollouts = study.call["rollouts"]
    table = rollouts.table.with_columns(correct=pl.lit(True))
    clean = score(
        **study.call | {"students": a_and_b}, out=study.folder / "clean-ab", progress=Silent()
    )
    other = score(
        **study.call | {"students": swapped, "rollouts": type(rollouts)(table, rollouts.report)},
        out=study.folder / "other-ab",
        progress=Silent(),
    )
    own = study._replace(call=study.call | {"students": a_and_b}, clean=clean)
    folder = study.folder / "foreign"
    for what, edit in EDITS.items():
        shutil.copytree(clean.path, folder)
        edit(folder, other.path)
        told = one_line(lambda: read_all(folder), TableError)
        own.score(folder)
        yield row(f"{what}; `score` then makes it again", 1, int(told), [own.is_whole(folder)])
        shutil.rmtree(folder)
    shutil.copytree(clean.path, folder)
    mine, theirs = ((run.path / MANIFEST_NAME).read_text() for run in (clean, other))
    for what, change in MANIFEST_EDITS.items():
        (folder / MANIFEST_NAME).write_text(change(mine, theirs))
        told = one_line(lambda: read_all(folder))
        (folder / MANIFEST_NAME).write_text(mine)
        yield row(f"manifest: {what}", 1, int(told), [own.is_whole(folder)])
    shutil.rmtree(folder)
    for run in (clean, other):
        run.save(release_points(run))
    for what, change_result in RESULT_EDITS.items():
        told = 0
        for name in clean.results():
            shutil.copytree(clean.path, folder)
            change_result(folder / "results" / f"{name}.parquet", other.results_folder)
            told += one_line(lambda name=name: open_run(folder).result(name), TableError)
            shutil.rmtree(folder)
        yield row(f"results: {what}", len(clean.results()), told, [])
    yield from result_bits(study, clean)


def result_bits(study: Study, run: Run) -> Iterator[Row]:
    """Flip single bits of result tables; Parquet has bytes that say nothing of the table."""
    rng = random.Random(4)
    tables = {name: run.result(name) for name in run.results()}
    told, whole = 0, []
    for _ in range(study.n(2000)):
        name = rng.choice(list(tables))
        path = run.results_folder / f"{name}.parquet"
        raw = path.read_bytes()
        changed = bytearray(raw)
        changed[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            whole.append(run.result(name).equals(tables[name]))
        except TableError as error:
            told += "\n" not in str(error)
            whole.append(True)
        path.write_bytes(raw)
    yield row("results: one bit flipped; not noticed: equal table", len(whole), told, whole)


def read_all(folder: Path) -> None:
    """Read every table of a run."""
    run = open_run(folder)
    run.tokens().collect()
    _ = run.rollouts, run.vocab, *(run.gradients(name) for name in run.checkpoints)


def manifest_bits(study: Study, _: Server) -> Iterator[Row]:
    """Flip each bit of a manifest once."""
    folder = study.folder / "bits"
    shutil.copytree(study.clean.path, folder)
    path = folder / MANIFEST_NAME
    raw, told, whole = path.read_bytes(), 0, []
    step = max(1, round(1 / study.times))
    for bit in range(0, 8 * len(raw), step):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            whole.append(open_run(folder).manifest == study.clean.manifest)
        except ManifestError as error:
            told += "\n" not in str(error)
            whole.append(True)
    path.write_bytes(raw)
    each = "each bit" if step == 1 else f"every {step}th bit"
    yield row(f"{each} of the manifest flipped once; not noticed: equal content", len(whole), told,
              whole)  # fmt: skip


def not_numbers(study: Study, _: Server) -> Iterator[Row]:
    plain = part_module.response_states
    whole = []
    lost = 0
    values = [float("nan"), float("inf"), float("-inf")]
    for number, value in enumerate(values):

        def states(*arguments: Any, value: float = value) -> torch.Tensor:
            found = plain(*arguments)
            found[::7] = value
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(part_module, "response_states", states)
            run = study.score(study.folder / f"numbers{number}")
        for name in run.checkpoints:
            ours, theirs = run.tokens(name).collect(), study.clean.tokens(name).collect()
            null = ours["reverse_kl"].is_null()
            counted = run.manifest.checkpoints[name].statistics["rows_not_finite"]
            lost += counted
            same = ours.filter(~null).equals(theirs.filter(~null))
            whole.append(bool(same and counted == null.sum() > 0))
    what = f"NaN, inf or -inf in hidden states ({lost} rows, null and counted; the others equal)"
    yield row(what, len(whole), None, whole)


FAULTS: dict[str, Callable[[Study, Server], Iterator[Row]]] = {
    "kills_of_score": kills_of_score,
    "kills_of_analyze": kills_of_analyze,
    "locked": locked,
    "failing_writes": failing_writes,
    "no_memory": no_memory,
    "damaged_files": damaged_files,
    "foreign_files": foreign_files,
    "manifest_bits": manifest_bits,
    "not_numbers": not_numbers,
}


def write(study: Study, rows: list[Row]) -> str:
    named = ("opd-diag", "torch", "polars")
    lines = [
        HEAD.format(
            rollouts=study.clean.rollouts.height,
            parts=len(study.clean.manifest.parts),
            checkpoints=len(study.clean.checkpoints),
            when=date.today(),
            versions=", ".join(
                [f"Python {platform.python_version()}", *(f"{n} {version(n)}" for n in named)]
            ),
        )
    ]
    for one in rows:
        told = "" if one.told is None else str(one.told)
        kept = f"{one.whole[0]} of {one.whole[1]}" if one.whole[1] else ""
        lines.append(f"| {one.fault} | {one.injected} | {told} | {kept} | {one.lost} |\n")
    return "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Inject faults and count what is lost.")
    parser.add_argument("--times", type=float, default=1.0, help="factor on how often")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--only", default=",".join(FAULTS), help="which, separated by commas")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as running:
        folder = Path(name)
        students = {step: str(SAMPLE / "students" / step) for step in ("step0", "step300")}
        call = {
            "rollouts": read_rollouts(SAMPLE / "rollouts_step0.jsonl", limit=6),
            "teacher": str(SAMPLE / "teacher"),
            "students": students,
            "part_tokens": 250,
            "batch_tokens": 1024,
        }
        clean = score(**call, out=folder / "clean", progress=Silent())  # type: ignore[arg-type]
        study = Study(call, clean, folder, given.times)
        rows: list[Row] = []
        for kind in given.only.split(","):
            for one in FAULTS[kind](study, running):
                rows.append(one)
                print(one, flush=True)
        text = write(study, rows)
    print(text)
    given.out.write_text(text)
    if any(one.whole[0] < one.whole[1] for one in rows):
        raise SystemExit("something was lost")


if __name__ == "__main__":
    main()
