"""What can be said of a job before any weights are loaded: rollouts and tokenizers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from opd_diag.errors import OpdDiagError
from opd_diag.scoring.sequences import n_in_loss
from opd_diag.tables.rollouts import Rollouts, n_tokens, repeated_line
from opd_diag.text.tokenizers import compare_tokenizers, load_tokenizer
from opd_diag.text.vocabulary import check_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST_NAMED = 5

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
    for key, level, meaning in (
        ("left_out", GREEN, "files left out"),
        ("skipped", YELLOW, "rows left out"),
        ("unknown_keys", GREEN, "keys not used"),
    ):
        if counts := report.get(key, {}):
            findings.append(Finding(level, meaning, _listed(counts)))
    findings += [
        Finding(YELLOW, "cut file", f"the last line of {path} is cut, and left out")
        for path in report.get("cut_files", ())
    ]
    if repeated := repeated_line(report):
        findings.append(Finding(YELLOW, "repeated rollouts", repeated))
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
        told = {name: n for name, n in report.get("retokenised", {}).items() if n}
        findings.append(
            Finding(
                YELLOW,
                "token-exact",
                f"{retokenised:,} of {table.height:,} rollouts were made from text again"
                + (f": {_listed(told)}" if told else ""),
            )
        )
    return findings + _prompt_findings(table, report)


def _prompt_findings(table: pl.DataFrame, report: Mapping[str, Any]) -> list[Finding]:
    """Look at the prompts: their markers, their ids, and what the teacher reads."""
    findings = []
    counts = report.get("retokenised", {})
    if without := counts.get("prompts_without_markers", 0):
        findings.append(
            Finding(
                RED,
                "prompts",
                f"the chat markers are missing from the prompt: {without:,} of "
                f"{counts['prompts']:,} do not come back through the chat template (--template "
                "raw, if the model read them so)",
            )
        )
    if as_they_stand := counts.get("prompts_as_they_stand", 0) - without:
        findings.append(
            Finding(
                YELLOW,
                "prompts",
                f"{as_they_stand:,} of {counts['prompts']:,} are read as they stand, without the "
                "chat template",
            )
        )
    prompt_ids = report.get("prompt_ids", {})
    if merged := prompt_ids.get("merged", 0):
        detail = f"{merged:,} stand for the tokens of an earlier one; each prompt counts once"
        findings.append(Finding(YELLOW, "prompt ids", detail))
    if shared := prompt_ids.get("shared", 0):
        findings.append(Finding(YELLOW, "prompt ids", f"{shared:,} stand for several prompts"))
    teachers = table.height - table["teacher_prompt_token_ids"].null_count()
    if teachers:
        findings.append(
            Finding(
                GREEN,
                "teacher's prompts",
                f"another prompt than the student's in {teachers:,} of {table.height:,} rollouts",
            )
        )
    masks = table["loss_mask"]
    if masks.null_count() < table.height:
        inside, everything = n_in_loss(table), n_tokens(table).sum()
        detail = f"{inside:,} of {everything:,} tokens are in the loss"
        if not inside:
            detail += ", and only those are analysed: loss_mask is 1 where a token counts"
        findings.append(Finding(GREEN if inside else RED, "loss", detail))
    return findings


def _listed(counts: Mapping[str, Any]) -> str:
    """Write counts by name, the first five of them."""
    named = [f"{name.replace('_', ' ')} ({n})" for name, n in counts.items()]
    more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    return ", ".join(named[:_MOST_NAMED]) + more


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
