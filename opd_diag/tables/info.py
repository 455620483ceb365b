"""What a run holds: models, rows, columns, results and warnings."""

from pathlib import Path
from typing import Any

from opd_diag.errors import TableError, faults
from opd_diag.tables.columns.tokens import token_columns
from opd_diag.tables.gradients import gradients_path
from opd_diag.tables.results import read_result_metadata, result_path
from opd_diag.tables.rollouts import ROLLOUTS_NAME, n_tokens
from opd_diag.tables.run import Run, open_run
from opd_diag.tables.tokens import part_path
from opd_diag.tables.verify import accept_edits as accept
from opd_diag.tables.verify import verify_run


def info(
    run: Run | str | Path, *, verify: bool = False, accept_edits: bool = False
) -> dict[str, Any]:
    """Tell what a run holds.

    Args:
        run: A run, or its folder.
        verify: Read every file again, and tell which are not as they were written.
        accept_edits: Take files that were changed by hand as they are, and record them; a run of
            schema version 1 is taken over into version 2, whose manifest lists the files.

    Returns:
        JSON values: `path`, `versions`, `teacher`, `rollouts` (rows, prompts, tokens, what was
        seen while they were read), `checkpoints` (parts there and expected, rows, statistics),
        `trusted` (models whose own code could run, `pickle` for dumps that could),
        `columns` of the token table, `scores` (K grid, temperature, dtype ...), `results`
        (fresh, stale or damaged, and what made them), `schema_version`, `edits` (files that were
        changed by hand and accepted), `warnings`; `faults` (files that are not as they were
        written, if `verify`), `accepted` (if `accept_edits`).

    Raises:
        ManifestError: If the folder holds no run.
        TableError: If the rollouts table is damaged.
    """
    accepted = None
    if accept_edits:
        accepted = accept(run.path if isinstance(run, Run) else Path(run))
        run = open_run(run.path if isinstance(run, Run) else run)
    run = run if isinstance(run, Run) else open_run(run)
    found = verify_run(run) if verify else None
    if found and ROLLOUTS_NAME in found:  # nothing more can be said of the run
        named = [
            f"{name}: {what}; expected the file as it was written" for name, what in found.items()
        ]
        raise TableError(faults(str(run.path), named))
    table, manifest = run.rollouts, run.manifest
    values = manifest.to_json()
    warnings = list(manifest.warnings)
    checkpoints = {
        name: _checkpoint(run, name) | known for name, known in values["checkpoints"].items()
    }
    for name, checkpoint in checkpoints.items():
        if checkpoint["parts"] < checkpoint["parts_expected"]:
            warnings.append(
                f"checkpoint {name}: {checkpoint['parts']} of {checkpoint['parts_expected']} "
                "parts; run the same `opd-diag score` again to go on"
            )
    if manifest.schema_version == 1:
        warnings.append(
            "made in schema version 1: files of another run that stand in "
            "its place are not noticed; `opd-diag info --accept-edits` binds them to it"
        )
    if manifest.edits:
        edited = dict.fromkeys(str(edit.get("file")) for edit in manifest.edits)
        warnings.append(f"changed by hand and accepted: {', '.join(edited)}")
    extra: dict[str, Any] = {} if found is None else {"faults": found}
    if accepted is not None:
        extra["accepted"] = accepted
    return {
        "path": str(run.path),
        "versions": manifest.versions,
        "teacher": values["teacher"],
        "rollouts": {
            "rows": table.height,
            "prompts": table["prompt_id"].n_unique(),
            "tokens": int(n_tokens(table).sum()),
            "token_exact": int(table["token_exact"].sum()),
            "report": manifest.rollouts,
        },
        "checkpoints": checkpoints,
        "trusted": _trusted(run),
        "columns": [column.name for column in token_columns(run.k_grid)],
        "scores": manifest.fingerprint,
        "results": {name: _result(run, name) for name in run.results()},
        "schema_version": manifest.schema_version,
        "edits": manifest.edits,
        "warnings": warnings,
        **extra,
    }


def _trusted(run: Run) -> list[str]:
    models = {"teacher": run.manifest.teacher, **run.manifest.checkpoints}
    trusted = [name for name, model in models.items() if model.trust_remote_code]
    return trusted + ["pickle"] * bool(run.manifest.rollouts.get("trust_pickle"))


def _checkpoint(run: Run, name: str) -> dict[str, Any]:
    parts = run.manifest.parts
    numbers = range(len(parts))
    tokens = [path for n in numbers if _is_there(run, path := part_path(run.path, name, n))]
    sums = [path for n in numbers if _is_there(run, path := gradients_path(run.path, name, n))]
    return {
        "parts": len(tokens),
        "parts_expected": len(parts),
        "rows": sum(part.rows for part in parts),
        "bytes": sum(path.stat().st_size for path in (*tokens, *sums)),
    }


def _is_there(run: Run, path: Path) -> bool:
    return path.exists() and run.manifest.lists(run.path, path)


def _result(run: Run, name: str) -> dict[str, Any]:
    try:
        metadata = read_result_metadata(result_path(run.results_folder, name))
        if why := run.why_stale(name):
            return {"state": "stale", "reason": why, **metadata}
        run.result(name)
    except TableError as error:
        return {"state": "damaged", "reason": str(error)}
    only = run.subset_of(name)
    return {"state": "fresh", **({"reason": only} if only else {}), **metadata}
