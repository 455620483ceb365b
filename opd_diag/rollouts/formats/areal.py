"""Trajectory dumps of AReaL: `<version>/<task>.jsonl` of decoded text with its lengths."""

from collections.abc import Iterator
from typing import Any

from opd_diag.rollouts.rows import DumpFile, Row, RowError, about_prompt, need

KEYS = ("seqlen", "prompt_len", "prompt", "completion")
USED = (*KEYS, "reward", "tail_version", "segments")


def rollouts(row: Row, file: DumpFile) -> Iterator[dict[str, Any]]:
    """Yield the rollout of a row; its lengths tell whether tokenising again gives as many tokens.

    A trajectory of several turns is left out: which of its tokens the model wrote is not told.
    """
    if row.get("segments") is not None:
        file.skipped["several turns without their loss mask"] += 1
        return
    total = need(row, "seqlen", int, "a number of tokens")
    before = need(row, "prompt_len", int, "a number of tokens")
    if not 0 <= before <= total:
        raise RowError(f"prompt_len is {before}; expected 0 to seqlen {total}")
    yield about_prompt(row, file) | {
        "prompt": row.get("prompt"),
        "response": row.get("completion"),
        "n_prompt": before,
        "n_response": total - before,
        "reward": row.get("reward"),
        "step": row.get("tail_version"),
    }
