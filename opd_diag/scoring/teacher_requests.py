"""Write what a teacher elsewhere is to be asked: the student's likeliest ids at every token."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from opd_diag.errors import OptionError
from opd_diag.scoring.columns.top_k import top_k
from opd_diag.scoring.models.fingerprints import scored_student
from opd_diag.scoring.models.forward import LanguageModel, response_states
from opd_diag.scoring.models.loading import Loading, default_device, default_dtype, load_model
from opd_diag.scoring.options import check_loading
from opd_diag.scoring.parts.batches import chunk_rows, default_batch_tokens, plan_batches
from opd_diag.scoring.sequences import sequences
from opd_diag.scoring.teachers.request_scripts import SCRIPTS
from opd_diag.tables.files import atomic_path
from opd_diag.tables.run import Run, open_run
from opd_diag.tables.source import choose_checkpoints


def teacher_requests(
    run: Run | str | Path,
    *,
    to: str,
    out: str | Path,
    checkpoint: str | None = None,
    students: Mapping[str, str] | None = None,
    k: int = 16,
    dtype: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> list[Path]:
    """Write requests for a teacher that runs elsewhere, and the script that sends them.

    The script writes `teacher.jsonl`, which `score` reads as `teacher_logprobs`.

    Args:
        run: A run, or its folder.
        to: `vllm` for an offline engine of vLLM, `sglang` for a server of SGLang.
        out: Folder for both files.
        checkpoint: The student whose likeliest ids are asked about; None: the last one.
        students: Folders or hub ids by checkpoint; None: as scored. Weights other than those that
            were scored are refused.
        k: How many ids beside the token that stands there.
        dtype: As for `score`.
        device: Device of the student; a GPU if there is one.
        trust_remote_code: Whether code that comes with the model may run.

    Returns:
        The requests and the script.

    Raises:
        OptionError: If an option has no known value, or the run lacks the checkpoint of a student.
        TableError: If the checkpoint is unknown.
        ModelMismatchError: If the student's weights are not those that were scored.
        ModelError: If the student cannot be loaded.
        StorageError: If a file cannot be written.
    """
    if to not in SCRIPTS:
        raise OptionError(f"to: {to!r}; expected {', '.join(SCRIPTS)}")
    check_loading(dtype=dtype, devices=(device,))
    opened = run if isinstance(run, Run) else open_run(run)
    names = choose_checkpoints(opened, checkpoint)
    device = device or default_device()
    how = Loading(
        dtype=dtype or default_dtype(device), device=device, trust_remote_code=trust_remote_code
    )
    path = scored_student(
        opened.manifest.checkpoints, names[-1], students, trust_remote_code=trust_remote_code
    )
    student = load_model(path, how)
    n_ids = min(opened.vocab.height, student.width)
    if not 1 <= k < n_ids:
        raise OptionError(f"k: {k}; expected 1 to {n_ids - 1}")
    folder = Path(out)
    name, script = SCRIPTS[to]
    paths = [folder / "requests.jsonl", folder / name]
    with atomic_path(paths[0]) as temporary, temporary.open("w") as file:
        for row in _requests(opened, student, n_ids, k):
            file.write(json.dumps(row) + "\n")
    with atomic_path(paths[1]) as temporary:
        temporary.write_text(script)
    return paths


def _requests(run: Run, student: LanguageModel, n_ids: int, k: int) -> Iterator[dict[str, object]]:
    """Yield the request of every rollout with a response: ids, and the token first among them."""
    table = run.rollouts
    read = sequences(table, run.manifest.fingerprint.get("max_response_tokens"))
    head = student.head.cut(0, n_ids)
    filled = np.flatnonzero(read.responses.lengths)
    size = default_batch_tokens([student])
    rows = chunk_rows(n_ids, str(head.weight.device))
    names = table["rollout_id"].to_list()
    for batch in plan_batches(read.lengths[filled], size):
        numbers = [int(i) for i in filled[batch]]
        with torch.inference_mode():
            states = response_states(student, read.prompts, read.responses, numbers)
            likeliest = torch.cat(
                [top_k(head.logits(part), k + 1)[1] for part in torch.split(states, rows)]
            ).tolist()
        for number in numbers:
            response = read.responses[number].tolist()
            own, likeliest = likeliest[: len(response)], likeliest[len(response) :]
            yield {
                "id": names[number],
                "prompt_token_ids": read.teacher_prompts[number].tolist(),
                "response_token_ids": response,
                "ids": [
                    [token, *[i for i in ids if i != token][:k]]
                    for token, ids in zip(response, own, strict=True)
                ],
            }
