"""LLaMA-Factory: a tokenised dataset on disk, given as `tokenized_path`.

It is loaded with `datasets.load_from_disk`, so the `datasets` library writes it. Weights have to
be 0 or 1.
"""

from collections.abc import Iterable
from pathlib import Path

from opd_diag.errors import OptionError
from opd_diag.exports.formats.axolotl import tokenised_rows
from opd_diag.exports.samples import Sample

BINARY = True
LOADED_BY = "tokenized_path: the folder"


def write(samples: Iterable[Sample], folder: Path) -> Path:
    """Write the folder `tokenized`, a dataset with the split `train`.

    Raises:
        OptionError: If the `datasets` library is not installed.
    """
    try:
        from datasets import Dataset, DatasetDict
    except ImportError:
        raise OptionError(
            "to: llama-factory loads datasets that the `datasets` library writes; expected it "
            "(pip install datasets)"
        ) from None
    path = folder / "tokenized"
    rows = Dataset.from_dict(tokenised_rows(samples).to_dict(as_series=False))
    DatasetDict({"train": rows}).save_to_disk(str(path))
    return path
