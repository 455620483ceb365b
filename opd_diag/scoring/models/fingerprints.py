"""What a model's weights are: a sha256 of each file, or the commit of a hub id."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from opd_diag.errors import (
    ModelError,
    ModelMismatchError,
    OptionError,
    StorageError,
    first_line,
)
from opd_diag.tables.files import atomic_path, open_regular
from opd_diag.tables.manifest import Checkpoint, digest
from opd_diag.text.model_files import (
    base_of_adapter,
    check_model_folder,
    hub_options,
    weights_files,
)

_SETTINGS = ("config.json", "adapter_config.json")


def fingerprint(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> dict[str, str]:
    """Return what identifies the weights of a model.

    Args:
        name: Model folder or hub id.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Whether code that comes with the model may run.

    Returns:
        The sha256 of every weights and config file of a folder, or the commit of a hub id.

    Raises:
        ModelError: If there is no such folder, it holds no weights, or the hub id cannot be found.
    """
    check_model_folder(name)
    folder = Path(name)
    if not folder.is_dir():
        return {"commit": _commit(name, revision, trust_remote_code)}
    weights = weights_files(folder)
    if not weights:
        raise ModelError(f"{name}: no weights in this folder; expected *.safetensors")
    settings = [folder / setting for setting in _SETTINGS if (folder / setting).exists()]
    prints = {path.name: digest_file(path) for path in (*settings, *weights)}
    base = base_of_adapter(name)
    if base is not None:
        below = fingerprint(base, trust_remote_code=trust_remote_code)
        prints |= {f"base:{file}": value for file, value in below.items()}
    return prints


def require_scored(
    path: str,
    known: str | None,
    what: str,
    *,
    recorded: str,
    option: str,
    trust_remote_code: bool = False,
) -> None:
    """Check that a model of a run is still there, with the weights that were scored.

    Args:
        path: Folder or hub id.
        known: Digest of the weights that were scored; None: unknown, and nothing is compared.
        what: The model, as messages call it.
        recorded: Its path in the run's manifest.
        option: What gives another path, such as `--teacher FOLDER`.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        ModelError: If there is no such model; of the path in the manifest it is said whence it is.
        ModelMismatchError: If the weights are others.
    """
    try:
        if known is None:
            check_model_folder(path)
            return
        prints = digest(fingerprint(path, trust_remote_code=trust_remote_code))
    except ModelError as error:
        if path != recorded or Path(path).exists():
            raise
        place = "" if Path(path).is_absolute() else " and relative to the folder it was started in"
        raise ModelError(
            f"{what}: {str(error).rpartition('; expected')[0]} (the path is from the run's "
            f"manifest, as it was given to `score`{place}); expected the model there, or {option}"
        ) from error
    if prints != known:
        raise ModelMismatchError(
            f"{what}: {path} holds other weights than those that were scored; expected the same"
        )


def scored_student(
    checkpoints: Mapping[str, Checkpoint],
    name: str,
    students: Mapping[str, str] | None,
    *,
    trust_remote_code: bool = False,
) -> str:
    """Find the model of a run's checkpoint, whose weights are those that were scored.

    Args:
        checkpoints: Those of the run's manifest.
        name: Name of the checkpoint.
        students: Folders or hub ids by checkpoint, to take instead of those in the manifest.
        trust_remote_code: Whether code that comes with the model may run.

    Returns:
        Its folder or hub id.

    Raises:
        OptionError: If `students` names no checkpoint of the run.
        ModelError: If there is no such model.
        ModelMismatchError: If its weights are others.
    """
    given = students or {}
    if unknown := set(given) - set(checkpoints):
        raise OptionError(
            f"students: no checkpoint {min(unknown)!r}; expected one of {', '.join(checkpoints)}"
        )
    known = checkpoints[name]
    path = given.get(name, known.path)
    require_scored(
        path,
        known.fingerprint,
        f"checkpoint {name}",
        recorded=known.path,
        option=f"--student {name}=FOLDER",
        trust_remote_code=trust_remote_code,
    )
    return path


def digest_file(path: Path) -> str:
    """Return the sha256 of a file, from the user's cache while size, times and inode are the same.

    The time of the last change of the inode is among them: other times can be set to anything,
    and a clock can go back.
    """
    stat = path.stat()
    same = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    cache_path = _cache_path()
    key = str(path.resolve())
    known = _read_cache(cache_path).get(key)
    if isinstance(known, list) and known[:-1] == same:
        return str(known[-1])
    with open_regular(path) as file:
        value = hashlib.file_digest(file, "sha256").hexdigest()
    # Read again: another process may have hashed other files meanwhile.
    cache = _read_cache(cache_path) | {key: [*same, value]}
    with contextlib.suppress(StorageError), atomic_path(cache_path) as temporary:
        temporary.write_text(json.dumps(cache))
    return value


def _commit(name: str, revision: str | None, trust_remote_code: bool) -> str:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            name, revision=revision, trust_remote_code=trust_remote_code, **hub_options(name)
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{name}: no such folder, and not on the hub ({first_line(error)}); "
            "expected a model folder or a hub id"
        ) from error
    return str(config._commit_hash)


def _cache_path() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "opd-diag" / "digests.json"


def _read_cache(path: Path) -> dict[str, list[int | str]]:
    try:
        cache = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return cache if isinstance(cache, dict) else {}
