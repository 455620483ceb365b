"""Go on from where a rule cuts rollouts, and from the same depth of others, with both models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.tables import result_table
from opd_diag.errors import OptionError, RolloutError, TableError
from opd_diag.interventions.generation import Request
from opd_diag.interventions.models import (
    Chosen,
    Settings,
    choose_student,
    choose_teacher,
    decoding_of,
    dtype_of,
    load_engine,
)
from opd_diag.interventions.outcomes import NONE, difference, share_right, smallest_before
from opd_diag.interventions.parts import arm_responses, keep_settings
from opd_diag.interventions.problems import check_lengths, read_problems
from opd_diag.interventions.verifiers import (
    Verifier,
    check_verifier,
    judge_all,
    load_verifier,
)
from opd_diag.scoring.progress import Progress, StderrProgress
from opd_diag.tables.arguments import at_least, public_analysis
from opd_diag.tables.columns.interventions import (
    AT_CUT,
    AT_NONE,
    AVERAGE,
    PASS,
    RECOVERABLE,
    STUDENT,
    TEACHER,
)
from opd_diag.tables.files import run_lock
from opd_diag.tables.manifest import digest
from opd_diag.tables.run import Run, open_run
from opd_diag.tables.teacher_sources import LOGPROBS, unproven_weights

Floats = npt.NDArray[np.float64]

# Result table of each rule, the column that tells whether it cuts, and where.
CUTS: Mapping[str, tuple[str, str, str]] = {
    "trap": ("agreement_traps", "triggered", "cut_token"),
    "release": ("release_points", "accepted", "release_token"),
}
UNKNOWN = 0.5  # disagreement of continuations: that of outcomes thrown like coins
NOTHING = "no rollout is cut where another of its problem goes on uncut"


class Continuation(NamedTuple):
    """The table of `continuation`.

    Attributes:
        continuation: How often continuations are right, and what the cuts do to avg@k and pass@k.
    """

    continuation: pl.DataFrame


class Pair(NamedTuple):
    """A prefix before a cut, and one as long of another rollout of the problem.

    Attributes:
        problem: The problem.
        rollout: Row number of the rollout that is cut.
        other: Row number of the other one.
        depth: Tokens before the cut.
    """

    problem: str
    rollout: int
    other: int
    depth: int


@public_analysis
def continuation(
    run: Run | str | Path,
    *,
    verifier: str,
    cut: str = "trap",
    student: str | None = None,
    teacher: str | None = None,
    problems: str | Path | None = None,
    rollouts: int = 64,
    samples: int = 4,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    engine: str = "transformers",
    batch_size: int = 64,
    dtype: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    out: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Continuation:
    """Let student and teacher go on from where a rule cuts, and from as deep in other rollouts.

    A cut is worth it where what stands before it is lost: where even the teacher, going on from
    there, reaches the right answer less often than from the same depth of another rollout of the
    same problem that the rule has not cut by then. How often the answer is right after a cut alone
    tells the difficulty of the problems. Both starts have the same random numbers.

    Args:
        run: A run with the result of the rule (`agreement_traps` or `release_points`), or its
            folder.
        verifier: What calls responses right: `exact`, `boxed`, `last-number`, `math`, or
            `module:function`, code that is run.
        cut: Rule that cuts: `trap` or `release`.
        student: Checkpoint whose cuts are taken and which goes on: its name, or a folder of its
            weights; None: the last.
        teacher: Folder or hub id of the teacher; None: as scored. Needed where the run was scored
            with log-probs of the teacher, which do not tell its weights.
        problems: File of answers, one JSON object a line; None: those of the run.
        rollouts: Most rollouts that are cut and continued, spread over problems.
        samples: Continuations of each prefix, k.
        max_new_tokens: Most tokens of a response, its prefix included; None: as the run's longest.
        temperature: None: as scored.
        engine: `transformers` or `vllm`.
        batch_size: Most responses at a time; halved where memory runs out.
        dtype: None: float32 on a CPU, as saved on a GPU.
        device: None: a GPU if there is one.
        trust_remote_code: Whether code that comes with a model may run.
        out: Folder of the responses; None: RUN/interventions/continuation-CUT-CHECKPOINT.
        seed: Seed of all random numbers, draws and intervals.
        progress: Where progress goes; by default stderr.

    Returns:
        One table: for each model how often continuations are right, beside the control, and
        avg@k and pass@k of the run's rollouts if those that are cut count as wrong.

    Raises:
        OptionError: If a number is out of range, or there are no answers.
        TableError: If there is no result of the rule.
        ModelError: If a model cannot be loaded.
        ModelMismatchError: If a model is none of the run, or `out` holds another study.
        RolloutError: If a problem is damaged, or a prompt leaves no room in the context.
        VerifierError: If the verifier raises, or calls an answer itself wrong.

    Source: arXiv 2606.09471 (unrecoverable prefixes); the control and the test are opd-diag's.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    settings = Settings(
        temperature, max_new_tokens, engine, batch_size, dtype, device, trust_remote_code, seed
    ).check()
    if cut not in CUTS:
        raise OptionError(f"cut: {cut!r}; expected {' or '.join(CUTS)}")
    at_least(1, rollouts=rollouts, samples=samples)
    judge = load_verifier(verifier)
    chosen = choose_student(opened, student, trust_remote_code=trust_remote_code)
    guide = choose_teacher(opened, teacher, trust_remote_code=trust_remote_code)
    cuts = _cuts(opened, cut, chosen.name)
    known = set(opened.rollouts["prompt_id"])
    asked = [one for one in read_problems(opened, problems, chosen.tokenizer) if one.name in known]
    if not asked:
        raise RolloutError(
            f"{problems}: no problem of the run; expected its prompt_ids, with their answers"
        )
    answers = {one.name: one.answer for one in asked}
    longest = decoding_of(opened, chosen, settings).max_new_tokens
    for model in (chosen, guide):
        check_lengths(asked, longest, model.context, model.path)
    check_verifier(verifier, judge, list(answers.items()))
    pairs, alone = choose_pairs(opened.rollouts, cuts, answers, longest, seed=seed)
    pairs = pairs[:rollouts]
    folder = (
        Path(out) if out else opened.path / "interventions" / f"continuation-{cut}-{chosen.name}"
    )
    study = {
        "study": "continuation",
        "cut": cut,
        "student": chosen.digest,
        "teacher": guide.digest,
        "pairs": digest([list(pair) for pair in pairs]),
        "temperature": decoding_of(opened, chosen, settings).temperature,
        "max_new_tokens": longest,
        "samples": samples,
        "engine": engine,
        "dtype": dtype_of(settings),
        "seed": seed,
    }
    rows: list[dict[str, Any]] = []
    with progress or StderrProgress() as tell, run_lock(folder):
        identity = keep_settings(folder, study)
        if opened.teacher_source == LOGPROBS:
            tell.say(unproven_weights(guide.path))
        count = len({pair.problem for pair in pairs})
        each = samples * -(-len(pairs) // max(count, 1))
        smallest = smallest_before(1.0, UNKNOWN, max(count, 1), max(each, 1))
        tell.say(
            f"{len(pairs)} rollouts of {count} problems are cut where another goes on as deep "
            f"({alone} more are not); smallest difference that can be shown, at most: "
            f"{100 * smallest:.1f} points"
        )
        for name, model in ((STUDENT, chosen), (TEACHER, guide)) if pairs else ():
            requests = _requests(opened.rollouts, pairs, samples, teacher=model is guide)
            generator = load_engine(model, decoding_of(opened, model, settings), settings)
            tell.start(name, sum(longest - len(one.begun) for one in requests))
            responses = arm_responses(
                folder / name, identity, generator, requests, (), advance=tell.advance
            )
            del generator
            texts = model.tokenizer.batch_decode(
                responses["response_token_ids"].to_list(), skip_special_tokens=True
            )
            problem = [one.problem.rpartition("\n")[0] for one in requests]
            right = judge_all(verifier, judge, texts, problem, answers)
            rows.append(_recoverable(name, pairs, right.reshape(2, -1), samples, alone, seed))
    rows = rows or [_empty(name) for name in (STUDENT, TEACHER)]
    rows += _passes(opened.rollouts, cuts, answers, chosen, verifier, judge, seed)
    table = result_table("continuation", rows, checkpoint=chosen.name, cut=cut, verifier=verifier)
    return Continuation(table)


def _cuts(run: Run, cut: str, checkpoint: str) -> dict[int, int]:
    """Read where the rule cuts each rollout, by row number; others are left out."""
    name, cuts, where = CUTS[cut]
    table = run.result(name).filter(pl.col("checkpoint") == checkpoint)
    if table.is_empty():
        raise TableError(
            f"{name}: nothing on checkpoint {checkpoint!r}; expected a result that covers it"
        )
    cut_rows = table.filter(pl.col(cuts).fill_null(value=False))
    return dict(cut_rows.select("rollout", where).iter_rows())


def choose_pairs(
    rollouts: pl.DataFrame,
    cuts: Mapping[int, int],
    answers: Mapping[str, str],
    longest: int,
    *,
    seed: int,
) -> tuple[list[Pair], int]:
    """Pair every cut prefix with one as long of another rollout of the problem.

    The other rollout is longer than the prefix and not cut before its end; it is drawn at random.
    A cut at the first token keeps nothing, and is left out.

    Args:
        rollouts: The run's rollouts.
        cuts: Tokens before the cut, by row number.
        answers: Answers by problem; other problems are left out.
        longest: Most tokens of a response: prefixes that leave no room are left out.
        seed: Seed of the draws and of the order.

    Returns:
        The pairs, ordered so that every problem gives one before any gives a second; and how many
        cuts have no other rollout beside them.
    """
    rng = np.random.default_rng(seed)
    table = rollouts.filter(pl.col("prompt_id").is_in(list(answers)))
    of: dict[str, list[tuple[int, int]]] = {}
    for rollout, problem, length in table.select(
        "rollout", "prompt_id", pl.col("response_token_ids").list.len()
    ).iter_rows():
        of.setdefault(problem, []).append((rollout, length))
    turns: list[tuple[int, float, Pair]] = []
    alone = 0
    for problem, members in of.items():
        turn = 0
        for place in rng.permutation(len(members)):
            rollout, length = members[place]
            depth = cuts.get(rollout)
            if depth is None or not 0 < depth < min(length, longest):
                continue
            others = [
                other
                for other, size in members
                if other != rollout and size > depth and cuts.get(other, size) > depth
            ]
            if not others:
                alone += 1
                continue
            other = others[int(rng.integers(len(others)))]
            turns.append((turn, float(rng.random()), Pair(problem, rollout, other, int(depth))))
            turn += 1
    return [pair for *_, pair in sorted(turns)], alone


def _requests(
    rollouts: pl.DataFrame, pairs: Sequence[Pair], samples: int, *, teacher: bool
) -> list[Request]:
    """Ask for continuations of every prefix: those of the cuts first, then the others."""
    seen = pl.col("prompt_token_ids")
    if teacher:
        seen = pl.coalesce("teacher_prompt_token_ids", "prompt_token_ids")
    of = {
        rollout: (prompt, response)
        for rollout, prompt, response in rollouts.select(
            "rollout", seen.alias("prompt"), "response_token_ids"
        ).iter_rows()
    }
    requests = []
    for side in ("rollout", "other"):
        for pair in pairs:
            prompt, response = of[getattr(pair, side)]
            begun = tuple(response[: pair.depth])
            # Named by the pair: both of its sides have the same random numbers.
            name = f"{pair.problem}\n{pair.rollout}"
            requests += [Request(name, sample, prompt, begun) for sample in range(samples)]
    return requests


def _recoverable(
    model: str, pairs: Sequence[Pair], right: Floats, samples: int, alone: int, seed: int
) -> dict[str, Any]:
    """Compare continuations from the cuts with those from as deep in other rollouts.

    `right` has a row for each side, of shape (pairs x samples,).
    """
    problem = np.unique([pair.problem for pair in pairs], return_inverse=True)[1]
    each = np.repeat(problem, samples)
    sums = [np.bincount(each, side).astype(np.float64) for side in right]
    apart = difference(sums[0], sums[1], np.bincount(each).astype(np.float64), seed=seed)
    value, control = (share_right(side, each, seed=seed) for side in right)
    notes = [apart.reason, f"{alone} cuts without another rollout as deep" if alone else ""]
    return _empty(model) | {
        "k": samples,
        "n_prefixes": len(pairs),
        "n_problems": int(problem.max()) + 1,
        "n": right.size,
        "depth": float(np.mean([pair.depth for pair in pairs])),
        **value.columns("value"),
        **control.columns("control"),
        **apart.columns("difference"),
        "p": apart.p,
        "smallest": apart.smallest,
        "reason": "; ".join(note for note in notes if note),
    }


def _empty(model: str) -> dict[str, Any]:
    counts = dict.fromkeys(("k", "n_prefixes", "n_problems", "n"), 0)
    return {
        "measure": RECOVERABLE, "model": model, "start": AT_CUT, "reason": NOTHING, **counts
    }  # fmt: skip


def _passes(
    rollouts: pl.DataFrame,
    cuts: Mapping[int, int],
    answers: Mapping[str, str],
    chosen: Chosen,
    name: str,
    judge: Verifier,
    seed: int,
) -> list[dict[str, Any]]:
    """Give avg@k and pass@k of the run's rollouts, with those that are cut counted as wrong."""
    table = rollouts.filter(pl.col("prompt_id").is_in(list(answers)))
    texts = chosen.tokenizer.batch_decode(
        table["response_token_ids"].to_list(), skip_special_tokens=True
    )
    problems = table["prompt_id"].to_list()
    right = judge_all(name, judge, texts, problems, answers)
    kept = right * ~table["rollout"].is_in(list(cuts)).to_numpy()
    each = np.unique(problems, return_inverse=True)[1]
    n = np.bincount(each).astype(np.float64)
    whole, cut = (np.bincount(each, of).astype(np.float64) for of in (right, kept))
    ones = np.ones(n.size)
    rows = []
    for measure, (one, other, weight) in {
        AVERAGE: (cut, whole, n),
        PASS: ((cut > 0).astype(np.float64), (whole > 0).astype(np.float64), ones),
    }.items():
        apart = difference(one, other, weight, seed=seed) if n.size else NONE
        by_rollout = measure == AVERAGE
        places = each if by_rollout else np.arange(n.size)
        value, control = (
            share_right(of, places, seed=seed)
            for of in ((kept, right) if by_rollout else (one, other))
        )
        rows.append(
            {
                "measure": measure,
                "model": STUDENT,
                "start": AT_NONE,
                "k": int(n.max(initial=0)),
                "n_prefixes": table.height,
                "n_problems": n.size,
                "n": table.height,
                **value.columns("value"),
                **control.columns("control"),
                **apart.columns("difference"),
                "reason": apart.reason,
            }
        )
    return rows
