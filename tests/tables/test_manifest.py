import json
from pathlib import Path

import pytest

from opd_diag.errors import ManifestError
from opd_diag.tables.manifest import (
    FORMAT,
    REQUIRED,
    SCHEMA_VERSION,
    digest,
    read_manifest,
    write_manifest,
)

WHOLE = {
    "format": FORMAT,
    "schema_version": SCHEMA_VERSION,
    **{key: {} for key in REQUIRED},
    "fingerprint": {"k_grid": [2, 4]},
    "parts": [{"first": 0, "last": 3, "rows": 9}],
    "teacher": {"path": "t"},
    "checkpoints": {"a": {"path": "s", "fingerprint": "f"}},
}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_manifest(tmp_path, WHOLE)
    assert read_manifest(tmp_path) == WHOLE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "another kind of file"),
        ('{"format": "x"}', "another kind of file"),
        (json.dumps(WHOLE | {"schema_version": 99}), f"version 99; expected {SCHEMA_VERSION}"),
        (json.dumps({k: v for k, v in WHOLE.items() if k != "parts"}), "no parts; expected"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path)


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="expected a run made by `opd-diag score`"):
        read_manifest(tmp_path / "nowhere")


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
