"""What a run holds: models, rows, columns, results and warnings."""

from pathlib import Path
from typing import Any

from opd_diag.errors import TableError
from opd_diag.tables.columns.tokens import token_columns
from opd_diag.tables.gradients import gradients_path
from opd_diag.tables.results import read_result_metadata, result_path
from opd_diag.tables.rollouts import n_tokens
from opd_diag.tables.run import Run, open_run
from opd_diag.tables.tokens import part_path


def info(run: Run | str | Path) -> dict[str, Any]:
    """Tell what a run holds.

    Args:
        run: A run, or its folder.

    Returns:
        JSON values: `path`, `versions`, `teacher`, `rollouts` (rows, prompts, tokens, what was
        seen while they were read), `checkpoints` (parts there and expected, rows, statistics),
        `trusted` (models whose own code could run, `pickle` for dumps that could),
        `columns` of the token table, `scores` (K grid, temperature, dtype ...), `results`
        (fresh, stale or damaged, and what made them), `warnings`.

    Raises:
        ManifestError: If the folder holds no run.
        TableError: If the rollouts table is damaged.
    """
    run = run if isinstance(run, Run) else open_run(run)
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
        "warnings": warnings,
    }


def _trusted(run: Run) -> list[str]:
    models = {"teacher": run.manifest.teacher, **run.manifest.checkpoints}
    trusted = [name for name, model in models.items() if model.trust_remote_code]
    return trusted + ["pickle"] * bool(run.manifest.rollouts.get("trust_pickle"))


def _checkpoint(run: Run, name: str) -> dict[str, Any]:
    parts = run.manifest.parts
    numbers = range(len(parts))
    tokens = [path for n in numbers if (path := part_path(run.path, name, n)).exists()]
    sums = [path for n in numbers if (path := gradients_path(run.path, name, n)).exists()]
    return {
        "parts": len(tokens),
        "parts_expected": len(parts),
        "rows": sum(part.rows for part in parts),
        "bytes": sum(path.stat().st_size for path in (*tokens, *sums)),
    }


def _result(run: Run, name: str) -> dict[str, Any]:
    try:
        metadata = read_result_metadata(result_path(run.results_folder, name))
        state = "stale" if run.is_stale(name) else "fresh"
    except TableError as error:
        return {"state": "damaged", "reason": str(error)}
    return {"state": state, **metadata}
