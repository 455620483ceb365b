"""Random tables and manifests: one error of ours, or tables that pass their schemas."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opd_diag.analyses.agreement_traps import agreement_traps
from opd_diag.analyses.release_points import release_points
from opd_diag.analyses.rock_tokens import rock_tokens
from opd_diag.analyses.score_summary import score_summary
from opd_diag.analyses.teachability import teachability
from opd_diag.datasets import null_run, save_run
from opd_diag.errors import ManifestError, OpdDiagError
from opd_diag.tables.columns import RESULTS
from opd_diag.tables.info import info
from opd_diag.tables.manifest import MANIFEST_NAME, digest
from opd_diag.tables.run import open_run
from opd_diag.tables.schema import check_table
from tests.faults.tables_at_random import ODD, WRONG, K, Tables, tables

# `make fuzz` takes so many times as many examples, and other ones every time.
TIMES = int(os.environ.get("OPD_DIAG_FUZZ", "1"))
EXAMPLES = 8 * TIMES
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=60_000,
    derandomize=TIMES == 1,
    suppress_health_check=list(HealthCheck),
)
ANALYSES: dict[str, Callable[[Tables], Any]] = {
    "release_points": lambda given: release_points(*given, k_grid=K),
    "agreement_traps": lambda given: agreement_traps(*given, k_grid=K, window=8),
    "rock_tokens": lambda given: rock_tokens(*given),
    "teachability": lambda given: teachability(*given, k_grid=K),
}


def assert_answers(analysis: str, given: Tables) -> None:
    """Assert that an analysis raises an error of ours, or answers in its schema."""
    found = None
    with contextlib.suppress(OpdDiagError):
        found = ANALYSES[analysis](given)
    for name, table in found._asdict().items() if found else ():
        check_table(table, RESULTS[name], name)


@pytest.mark.parametrize("analysis", ANALYSES)
def test_odd_tables_have_an_answer(analysis):
    @FUZZ
    @given(tables(ODD))
    def check(made):
        assert_answers(analysis, made)

    check()


@pytest.mark.parametrize("analysis", ANALYSES)
def test_wrong_tables_have_an_answer_or_one_error(analysis):
    @FUZZ
    @given(tables((*ODD, *WRONG)))
    def check(made):
        assert_answers(analysis, made)

    check()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-2, 2) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A generated run with results."""
    dataset = null_run(prompts=4, samples=2, tokens=40, checkpoints=("a", "b"))
    run = save_run(dataset, tmp_path_factory.mktemp("made") / "run")
    run.save(release_points(run)._asdict(), arguments={})
    return run.path


def use(folder: Path) -> None:
    """Open a run and read all that is in it."""
    run = open_run(folder)
    with contextlib.suppress(OpdDiagError):
        json.dumps(info(run), allow_nan=False)
    score_summary(run)
    for name in run.checkpoints:
        run.gradients(name)
    for name in run.results():
        with contextlib.suppress(OpdDiagError):
            run.result(name)


def paths_in(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the places in a JSON value."""
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
    found = [before] if before else []
    for key, part in inside:
        found += paths_in(part, (*before, key))
    return found


def test_changed_manifests_open_or_are_one_error(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    whole = (made / MANIFEST_NAME).read_text()

    @settings(FUZZ, max_examples=10 * EXAMPLES)
    @given(st.data())
    def check(data):
        manifest = json.loads(whole)
        for _ in range(data.draw(st.integers(1, 2))):
            *above, last = data.draw(st.sampled_from(paths_in(manifest)))
            parent = manifest
            for key in above:
                parent = parent[key]
            if data.draw(st.booleans()):
                parent[last] = data.draw(json_values)
            else:
                del parent[last]
        if data.draw(st.integers(0, 9)):  # else its checksum is wrong, and nothing more is seen
            manifest.pop("checksum", None)
            manifest["checksum"] = digest(manifest)
        (tmp_path / "run" / MANIFEST_NAME).write_text(json.dumps(manifest))
        with contextlib.suppress(OpdDiagError):
            use(tmp_path / "run")

    check()


@FUZZ
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_bytes_that_are_no_manifest_are_one_error(tmp_path_factory, raw):
    folder = tmp_path_factory.mktemp("bytes")
    (folder / MANIFEST_NAME).write_bytes(raw)
    with pytest.raises(ManifestError) as caught:
        open_run(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"a":' * 100_000, b"NaN", b"1e999", b"9" * 9999])
def test_json_that_is_too_much_is_one_error(tmp_path, raw):
    (tmp_path / MANIFEST_NAME).write_bytes(raw)
    with pytest.raises(ManifestError):
        open_run(tmp_path)


def test_a_run_of_random_files_is_one_error(made, tmp_path):
    """Any file of a run cut, changed, emptied or swapped for another."""
    shutil.copytree(made, tmp_path / "run")
    files = sorted(path.relative_to(made) for path in made.rglob("*.*") if path.is_file())

    @settings(FUZZ, max_examples=4 * EXAMPLES)
    @given(st.data())
    def check(data):
        name = data.draw(st.sampled_from(files))
        raw = (made / name).read_bytes()
        at = data.draw(st.integers(0, len(raw) - 1))
        what = data.draw(st.sampled_from(["cut", "flip", "empty", "swap", "gone"]))
        other = (made / data.draw(st.sampled_from(files))).read_bytes()
        changed = {
            "cut": raw[:at],
            "flip": raw[:at] + bytes([raw[at] ^ 32]) + raw[at + 1 :],
            "empty": b"",
            "swap": other,
        }
        path = tmp_path / "run" / name
        path.unlink()
        if what in changed:
            path.write_bytes(changed[what])
        try:
            with contextlib.suppress(OpdDiagError):
                use(tmp_path / "run")
        finally:
            path.write_bytes(raw)

    check()
