"""The responses of one arm, written part by part, so that a study that was killed goes on."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from opd_diag.errors import ModelMismatchError, TableError
from opd_diag.interventions.generation import Engine, Request, Response
from opd_diag.tables.files import atomic_path, open_regular, remove_leftovers
from opd_diag.tables.manifest import digest
from opd_diag.tables.parquet import read_metadata, read_parquet, write_table
from opd_diag.tables.schema import DType

PART = 256  # responses
SETTINGS = "settings.json"
_KEY = "opd_diag_arm"

RESPONSES: Mapping[str, DType] = {
    "problem": pl.String,
    "sample": pl.UInt32,
    "response_token_ids": pl.List(pl.Int32),
    "best_token_ids": pl.List(pl.Int32),
    "finish": pl.String,
    "generated": pl.UInt32,
}


def keep_settings(folder: Path, settings: dict[str, Any]) -> str:
    """Bind a folder to the settings of a study; what is there already must be of the same.

    The caller holds the folder's lock: what a killed study left half written is removed.

    Returns:
        What identifies the study.

    Raises:
        ModelMismatchError: If the folder holds a study of other settings; they are named.
        TableError: If the settings that it holds are damaged.
        StorageError: If they cannot be written.
    """
    remove_leftovers(folder, ["."])
    path = folder / SETTINGS
    if path.exists():
        try:
            with open_regular(path) as file:
                held = json.loads(file.read())
        except (OSError, ValueError):
            held = None
        if not isinstance(held, dict):
            raise TableError(f"{path}: damaged; expected the settings of a study, or another --out")
        differing = [
            f"{name} {held.get(name)!r}, asked {settings.get(name)!r}"
            for name in dict.fromkeys([*settings, *held])
            if held.get(name) != settings.get(name)
        ]
        if differing:
            raise ModelMismatchError(
                f"{folder}: holds another study ({'; '.join(differing)}); expected the same "
                "settings, or another --out"
            )
    else:
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(settings, indent=1) + "\n")
    return digest(settings)


def arm_responses(
    folder: Path,
    study: str,
    engine: Engine,
    requests: Sequence[Request],
    banned: Sequence[int],
    *,
    known: Sequence[Response | None] | None = None,
    advance: Callable[[int], None],
) -> pl.DataFrame:
    """Generate the responses of one arm, or read the parts that are there.

    Args:
        folder: Folder of the arm.
        study: What identifies the study, from `keep_settings`.
        engine: What generates.
        requests: What is wanted, in order.
        banned: Ids that are not chosen.
        known: Responses that need no generating, None where one is needed; None: all are.
        advance: Told of tokens that are done.

    Returns:
        One row per request, in order, with the columns of `RESPONSES`; `generated` counts the
        tokens that were generated.
    """
    frames = []
    for start in range(0, len(requests), PART):
        some = list(requests[start : start + PART])
        there = list(known[start : start + PART]) if known is not None else [None] * len(some)
        identity = digest([study, list(banned), [[*one] for one in some]])
        path = folder / f"part-{start // PART:05d}.parquet"
        part = _known_part(path, identity)
        if part is None:
            wanted = [one for one, response in zip(some, there, strict=True) if response is None]
            made = iter(engine.generate(wanted, banned, advance=advance))
            responses = [next(made) if one is None else one for one in there]
            generated = [
                0 if one is not None else len(response.token_ids) - len(request.begun)
                for request, one, response in zip(some, there, responses, strict=True)
            ]
            part = _frame(some, responses, generated)
            write_table(part, path, {_KEY: identity})
        else:
            advance(int(part["generated"].sum()))
        frames.append(part)
    return pl.concat(frames) if frames else pl.DataFrame(schema=RESPONSES)


def _known_part(path: Path, identity: str) -> pl.DataFrame | None:
    """Read a part if it is one of the same requests; a damaged one is made again."""
    try:
        if read_metadata(path).get(_KEY) != identity:
            return None
        return read_parquet(path)
    except TableError:
        return None


def _frame(
    requests: Sequence[Request], responses: Sequence[Response], generated: Sequence[int]
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "problem": [one.problem for one in requests],
            "sample": [one.sample for one in requests],
            "response_token_ids": [one.token_ids for one in responses],
            "best_token_ids": [one.best_ids for one in responses],
            "finish": [one.finish for one in responses],
            "generated": generated,
        },
        schema=RESPONSES,
    )
