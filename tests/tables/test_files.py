import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from opd_diag.errors import StorageError
from opd_diag.tables.files import atomic_path, run_lock


def test_a_file_is_there_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", [".", "..", "folder"])
def test_a_folder_in_the_place_of_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError) as raised, atomic_path(Path(name)):
        pass
    assert str(raised.value) == f"{name}: a folder; expected a file, or a name for one"
    assert os.listdir() == ["folder"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(StorageError, match="cannot be written") as raised, atomic_path(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "No space left on device" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_second_writer_is_refused_by_name_of_the_first(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        program = (
            "import sys; from pathlib import Path; from opd_diag.tables.files import run_lock\n"
            "with run_lock(Path(sys.argv[1])): pass"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert f"process {os.getpid()} is writing to this run" in done.stderr
    with run_lock(tmp_path):
        pass


def test_a_lock_dies_with_its_owner(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from opd_diag.tables.files import run_lock\n"
        "lock = run_lock(Path(sys.argv[1])); lock.__enter__(); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == 9
    with run_lock(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_file_where_the_run_should_be(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(StorageError, match="expected a folder that can be written"), run_lock(path):
        pass
