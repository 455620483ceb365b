"""What a model folder says of itself, checked before a library reads it."""

import json
import stat
import sys
from pathlib import Path
from typing import Any

from opd_diag.errors import ModelError
from opd_diag.tables.files import check_path, open_regular

# Files that libraries read as a JSON object.
_OBJECTS = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
)
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")


def check_settings(name: str) -> None:
    """Refuse a model of which a library could only make a traceback, or never an end.

    Args:
        name: Model folder, or a hub id, of which the name alone is looked at.

    Raises:
        ModelError: If Python dropped the docstrings that libraries need, a file is no regular file
            or no JSON object where it has to be, or a size is not positive.
        StorageError: If the name cannot be a path.
    """
    if sys.flags.optimize > 1:
        raise ModelError(
            f"{name}: python -OO drops docstrings, without which transformers loads no model; "
            "expected python or python -O"
        )
    check_path(name)
    folder = Path(name)
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        mode = path.stat().st_mode if path.exists() else 0
        if path.is_symlink() and not path.exists():
            continue
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ModelError(f"{path}: not a regular file; expected files and folders of a model")
    for file in _OBJECTS:
        settings = read_settings(folder / file)
        for key in _SIZES if file == "config.json" else ():
            size = settings.get(key, 1)
            if isinstance(size, int) and size < 1:
                raise ModelError(f"{folder / file}: {key} {size}; expected at least 1")


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON object, or nothing where there is no such file.

    Raises:
        ModelError: If it is something else.
    """
    try:
        with open_regular(path) as file:
            settings = json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; expected a readable file") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not JSON ({error}); expected a JSON object") from None
    if not isinstance(settings, dict):
        raise ModelError(f"{path}: {type(settings).__name__}; expected a JSON object")
    return settings
