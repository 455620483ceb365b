import json
from pathlib import Path

import pytest

from opd_diag.errors import ManifestError
from opd_diag.tables.checksums import Checksum
from opd_diag.tables.manifest import (
    FORMAT,
    REQUIRED,
    SCHEMA_VERSION,
    Checkpoint,
    Manifest,
    Model,
    NoiseFloor,
    Part,
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
    manifest = Manifest(
        fingerprint={"k_grid": [2, 4]},
        parts=(Part(0, 4, 9), Part(4, 5, 2)),
        teacher=Model("t", dtype="float32", logits=7),
        checkpoints={
            "begun": Checkpoint("s", fingerprint="f", files={"config.json": "0"}),
            "finished": Checkpoint(
                "s", noise_floor=NoiseFloor(1, 9, {"js": 0.5}), statistics={"rows": 11}
            ),
        },
        batch_tokens=[(0, 512)],
        warnings=["w"],
        files={"vocab.parquet": Checksum("ab" * 32, 7)},
        edits=[{"file": "vocab.parquet", "before": "0", "after": "1"}],
    )
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert [one.is_finished for one in manifest.checkpoints.values()] == [False, True]


def test_any_bit_of_the_file_that_changes_what_it_says_is_noticed(tmp_path: Path) -> None:
    manifest = Manifest.from_json(WHOLE | {"warnings": ["naïve: 0.1e-7"]})
    write_manifest(tmp_path, manifest)
    path = tmp_path / "manifest.json"
    whole = path.read_bytes()
    accepted, said = 0, []
    for place in range(0, 8 * len(whole), 3):  # `make faults` flips every one
        raw = bytearray(whole)
        raw[place // 8] ^= 1 << place % 8
        path.write_bytes(raw)
        try:
            assert read_manifest(tmp_path) == manifest
            accepted += 1
        except ManifestError as error:
            said.append(str(error))
    assert not any("\n" in line for line in said)
    assert accepted < 8  # the hex digits of an escaped letter may be capitals


def test_what_is_not_known_is_not_in_the_file(tmp_path: Path) -> None:
    text = json.dumps(WHOLE | {"checksum": digest(WHOLE)})
    (tmp_path / "manifest.json").write_text(text)
    written = read_manifest(tmp_path).to_json()
    assert written["parts"] == WHOLE["parts"]
    assert written["teacher"] == {"path": "t", "trust_remote_code": False}
    assert "noise_floor" not in written["checkpoints"]["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "another kind of file"),
        ('{"format": "x"}', "another kind of file"),
        (json.dumps(WHOLE | {"schema_version": 99}), f"version 99; expected 1 to {SCHEMA_VERSION}"),
        (json.dumps({k: v for k, v in WHOLE.items() if k != "parts"}), "no parts; expected"),
        (json.dumps(WHOLE), "its checksum does not fit"),
        (json.dumps(WHOLE | {"checksum": digest(WHOLE), "warnings": ["w"]}), "does not fit"),
        ('{"format": 1e999}', "not JSON .1e999 is too large"),
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
