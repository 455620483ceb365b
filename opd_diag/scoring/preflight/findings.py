"""What can be said of a job before any weights are loaded: rollouts and tokenizers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from opd_diag.errors import OpdDiagError
from opd_diag.tables.rollouts import Rollouts, n_tokens
from opd_diag.text.tokenizers import compare_tokenizers, load_tokenizer
from opd_diag.text.vocabulary import check_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GREEN, YELLOW, RED = "green", "yellow", "red"


class Finding(NamedTuple):
    """One line of a preflight.

    Attributes:
        level: `green`; `yellow`, which a person should read; `red`, which makes the job senseless
            or impossible.
        what: What was looked at.
        detail: What was seen.
    """

    level: str
    what: str
    detail: str


def rollout_findings(rollouts: Rollouts) -> list[Finding]:
    """Look at the rollouts: files, rows, tokens, what was left out."""
    table, report = rollouts.table, rollouts.report
    findings = []
    if "format" in report:
        files = report["files"]
        findings.append(
            Finding(GREEN, "files", f"{len(files)}, format {report['format']} ({report['why']})")
        )
    for key, meaning in (("skipped", "rows left out"), ("unknown_keys", "keys not used")):
        counts: Mapping[str, Any] = report.get(key, {})
        if counts:
            listed = ", ".join(f"{name} ({n})" for name, n in counts.items())
            findings.append(Finding(YELLOW if key == "skipped" else GREEN, meaning, listed))
    tokens = n_tokens(table)
    samples = table.group_by("prompt_id").len()["len"].to_list()
    middle = float(tokens.median() or 0)  # type: ignore[arg-type]
    findings.append(
        Finding(
            GREEN,
            "rollouts",
            f"{table.height:,} of {len(samples):,} prompts ({min(samples)} to {max(samples)} "
            f"each), {tokens.sum():,} response tokens (median {middle:.0f}, "
            f"most {max(tokens):,})",
        )
    )
    empty = int((tokens == 0).sum())
    if empty:
        findings.append(
            Finding(YELLOW, "empty responses", f"{empty:,}; they have no tokens to score")
        )
    retokenised = table.height - int(table["token_exact"].sum())
    if retokenised:
        drift = ", ".join(f"{name} {n}" for name, n in report.get("retokenised", {}).items())
        findings.append(
            Finding(
                YELLOW,
                "token-exact",
                f"{retokenised:,} of {table.height:,} rollouts were made from text again"
                + (f" ({drift})" if drift else ""),
            )
        )
    return findings


def tokenizer_findings(
    table: pl.DataFrame, teacher: str, student: str, **load: Any
) -> list[Finding]:
    """Look at both tokenizers: ids, end and padding tokens, chat templates.

    Args:
        table: Rollouts.
        teacher: Folder or hub id.
        student: Folder or hub id.
        load: Options of `load_tokenizer`.
    """
    try:
        ours, theirs = (load_tokenizer(name, **load) for name in (teacher, student))
        shared = compare_tokenizers(ours, theirs)
        check_ids(table, shared)
    except OpdDiagError as error:
        return [Finding(RED, "tokenizer", str(error))]
    findings = [Finding(GREEN, "tokenizer", f"the same, {shared:,} decodable ids")]
    for what, attribute in (("end token", "eos_token_id"), ("padding token", "pad_token_id")):
        a, b = getattr(ours, attribute), getattr(theirs, attribute)
        same = a == b
        detail = f"{a}" if same else f"teacher {a}, student {b}"
        findings.append(Finding(GREEN if same else YELLOW, what, detail))
    findings.append(_template(ours, theirs))
    return findings + _endings(table, theirs.eos_token_id)


def _template(teacher: "PreTrainedTokenizerBase", student: "PreTrainedTokenizerBase") -> Finding:
    templates = teacher.chat_template, student.chat_template
    if templates[0] == templates[1]:
        return Finding(GREEN, "chat template", "none" if templates[0] is None else "the same")
    missing = [name for name, one in zip(("teacher", "student"), templates, strict=True) if not one]
    detail = f"the {missing[0]} has none" if missing else "teacher's and student's differ"
    return Finding(
        YELLOW, "chat template", f"{detail}; the teacher reads the student's prompt as it stands"
    )


def _endings(table: pl.DataFrame, eos: int | None) -> list[Finding]:
    stopped = table.filter(pl.col("finish_reason") == "stop")
    if eos is None or stopped.is_empty():
        return []
    ended = int((stopped["response_token_ids"].list.last() == eos).sum())
    if ended == stopped.height:
        return []
    return [
        Finding(
            YELLOW,
            "ends",
            f"{stopped.height - ended:,} of {stopped.height:,} stopped responses do not end with "
            f"the end token {eos}",
        )
    ]
