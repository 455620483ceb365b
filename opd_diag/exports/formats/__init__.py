"""One module for each trainer that loads what `opd-diag export` writes.

Each has `write(samples, folder)`, which returns the file or folder to give to the trainer, and
`BINARY`: whether its loader drops or refuses weights that are neither 0 nor 1. `LOADED_BY` says how
the trainer is told of it.
"""

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

FORMATS: Mapping[str, str] = {
    "parquet": "parquet",
    "slime": "slime",
    "miles": "slime",
    "verl": "verl",
    "trl": "trl",
    "llama-factory": "llama_factory",
    "axolotl": "axolotl",
    "skyrl": "skyrl",
    "ms-swift": "ms_swift",
    "tinker": "tinker",
    "prime-rl": "prime_rl",
}


def format_module(name: str) -> ModuleType:
    """Return the module that writes a format."""
    return import_module(f"opd_diag.exports.formats.{FORMATS[name]}")
