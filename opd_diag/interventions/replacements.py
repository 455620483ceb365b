"""Replace single tokens of correct rollouts, and score the answer that follows again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from opd_diag.analyses import reasons
from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.tables import interval_columns, result_table
from opd_diag.errors import TableError
from opd_diag.interventions.models import Settings, choose_student, dtype_of
from opd_diag.interventions.verifiers import boxed_span, last_number_span
from opd_diag.scoring.models.forward import LanguageModel
from opd_diag.scoring.models.loading import Loading, default_device, load_model
from opd_diag.scoring.progress import Progress, StderrProgress
from opd_diag.stats.matching import match_nearest
from opd_diag.stats.p_values import sign_flip_p
from opd_diag.stats.ranks import normal_scores
from opd_diag.tables.arguments import at_least, public_analysis
from opd_diag.tables.columns.interventions import OTHERS, ROCKS
from opd_diag.tables.run import Run, open_run

Floats = npt.NDArray[np.float64]

CALIPER = 0.25  # in normal scores of all coordinates
NO_TOKENS = "no rock in a correct rollout before its answer has another token alike"
COORDINATES = ("log10_n", "student_logp", "student_entropy", "distance")


class Replacement(NamedTuple):
    """The table of `replacement`.

    Attributes:
        replacement: Change of the answer's log-prob by replacing rocks, and others alike.
    """

    replacement: pl.DataFrame


@public_analysis
def replacement(
    run: Run | str | Path,
    *,
    student: str | None = None,
    tokens: int = 200,
    top: int | None = None,
    batch_size: int = 16,
    dtype: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Replacement:
    r"""Replace rock tokens in correct rollouts by the student's likeliest other token.

    The rest of the response stays as it is and is scored again: by how much the log-prob of the
    answer changes tells how much rests on that token, as far as one token can. Beside each rock
    stands an occurrence of another type, as frequent, as probable, at as uncertain a place and as
    far from the answer.
    Nothing is generated.

    The answer is what the last `\boxed{...}` of the response holds, else its last number.

    Args:
        run: A run with the result `rock_tokens` and correct rollouts, or its folder.
        student: Checkpoint that is asked: its name, or a folder of its weights; None: the last.
        tokens: Most rocks that are replaced, spread over prompts.
        top: Take so many rocks by rank; None: all that `rock_tokens` lists.
        batch_size: Responses scored at a time.
        dtype: None: float32 on a CPU, as saved on a GPU.
        device: None: a GPU if there is one.
        trust_remote_code: Whether code that comes with the model may run.
        seed: Seed of the draws and the intervals.
        progress: Where progress goes; by default stderr.

    Returns:
        One table: rocks, and others alike.

    Raises:
        OptionError: If a number is out of range.
        TableError: If there is no result `rock_tokens`, or no rollout is known to be correct.
        ModelError: If the model cannot be loaded.
        ModelMismatchError: If the student is none of the run.

    Source: opd-diag's own; it asks the question of arXiv 2605.09253, section on knock-outs,
        without generating.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    settings = Settings(
        None, None, "transformers", batch_size, dtype, device, trust_remote_code, seed
    ).check()
    at_least(1, tokens=tokens, top=top)
    listed = opened.result("rock_tokens").filter("is_rock")
    if top is not None:
        listed = listed.filter(pl.col("rank") <= top)
    chosen = choose_student(opened, student, trust_remote_code=trust_remote_code)
    spans = _answer_spans(opened)
    everything = _occurrences(opened, chosen.name, spans, listed["token_id"].to_list())
    pairs = _matched(everything, tokens, seed)
    loading = Loading(
        dtype=dtype_of(settings),
        device=device or default_device(),
        trust_remote_code=trust_remote_code,
    )
    with progress or StderrProgress() as tell:
        changes = [np.zeros(0), np.zeros(0)]
        if pairs[0].height:
            model = load_model(chosen.path, loading)
            tell.start("replacement", sum(part.height for part in pairs))
            rescorer = _Rescorer(opened, model, spans, batch_size)
            changes = [rescorer.changes(part, tell) for part in pairs]
    return Replacement(_table(chosen.name, pairs, changes, seed))


def _answer_spans(run: Run) -> dict[int, tuple[int, int]]:
    """Find the tokens of the answer in every correct rollout: first, and one past the last."""
    correct = run.rollouts.filter(pl.col("correct").fill_null(value=False))
    if correct.is_empty():
        raise TableError("rollouts: none is known to be correct; expected the outcome of some")
    spelled = run.vocab["bytes"].to_list()
    special = run.vocab["is_special"].to_list()
    spans = {}
    for rollout, ids in correct.select("rollout", "response_token_ids").iter_rows():
        # Latin-1 gives each byte one character, so that places in the text are places of bytes.
        pieces = ["" if special[i] else spelled[i].decode("latin-1") for i in ids]
        span = boxed_span("".join(pieces)) or last_number_span("".join(pieces))
        if span is None or span[0] == span[1]:
            continue
        ends = np.cumsum([len(piece) for piece in pieces])
        first = int(np.searchsorted(ends, span[0], side="right"))
        spans[rollout] = first, int(np.searchsorted(ends, span[1], side="left")) + 1
    return spans


def _occurrences(
    run: Run, checkpoint: str, spans: dict[int, tuple[int, int]], rocks: Sequence[int]
) -> pl.DataFrame:
    """List the tokens before the answers of correct rollouts, with what they are matched by."""
    columns = "rollout", "position", "token_id", "student_logp", "student_entropy", "student_top_id"
    tokens = run.tokens(checkpoint).filter("in_loss").select(columns).collect()
    counts = tokens.group_by("token_id").agg(log10_n=pl.len().log10())
    answers = pl.DataFrame(
        {"rollout": list(spans), "answer": [first for first, _ in spans.values()]},
        schema={"rollout": pl.UInt32, "answer": pl.UInt32},
    )
    special = run.vocab.filter("is_special")["token_id"].to_list()
    return (
        tokens.drop_nulls()
        .join(answers, on="rollout")
        .filter(pl.col("position") < pl.col("answer"), ~pl.col("token_id").is_in(special))
        .join(counts, on="token_id")
        .join(run.rollouts.select("rollout", "prompt_id"), on="rollout")
        .with_columns(
            is_rock=pl.col("token_id").is_in(list(rocks)),
            distance=pl.col("answer") - pl.col("position"),
        )
        .sort("rollout", "position")
    )


def _matched(everything: pl.DataFrame, most: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Match rocks to other tokens one to one, and take pairs spread over prompts."""
    rng = np.random.default_rng(seed)
    scores = np.column_stack([normal_scores(everything[name].to_numpy()) for name in COORDINATES])
    # A tiny coordinate of chance breaks the ties of equal tokens.
    scores = np.column_stack([scores, 1e-6 * rng.random(len(scores))])
    rock = everything["is_rock"].to_numpy()
    rocks, others = np.flatnonzero(rock), np.flatnonzero(~rock)
    turns = _spread(everything["prompt_id"].to_numpy()[rocks], rng)
    rocks = rocks[turns[: 4 * most]]  # some have nothing alike
    pairs = match_nearest(scores[rocks], scores[others], [*[CALIPER] * len(COORDINATES), 1.0])
    order = np.argsort(pairs.left)[:most]
    return everything[rocks[pairs.left[order]]], everything[others[pairs.right[order]]]


def _spread(prompts: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Order tokens so that every prompt gives one before any gives a second."""
    order = rng.permutation(prompts.size)
    seen: dict[Any, int] = {}
    turn = np.zeros(prompts.size, np.int64)
    for place in order:
        turn[place] = seen[prompts[place]] = seen.get(prompts[place], -1) + 1
    return order[np.argsort(turn[order], kind="stable")]


class _Rescorer:
    """Scores answers again after one token was replaced.

    Args:
        run: The run.
        model: The student.
        spans: Tokens of the answer of each rollout.
        batch_size: Responses scored at a time.
    """

    def __init__(
        self, run: Run, model: LanguageModel, spans: dict[int, tuple[int, int]], batch_size: int
    ) -> None:
        self._model, self._spans, self._size = model, spans, batch_size
        self._head = model.head.cut(0, run.vocab.height)
        self._temperature = float(run.manifest.fingerprint.get("temperature", 1.0))
        rows = run.rollouts.select("rollout", "prompt_token_ids", "response_token_ids").iter_rows()
        self._texts = {rollout: (prompt, response) for rollout, prompt, response in rows}
        self._before: dict[int, float] = {}

    @torch.inference_mode()
    def changes(self, tokens: pl.DataFrame, progress: Progress) -> Floats:
        """Change of the answer's log-prob by each replacement, nat. Shape (tokens,)."""
        changes = []
        columns = tokens.select("rollout", "position", "token_id")
        for part in columns.iter_slices(self._size):
            rows = part.rows()
            missing = sorted({rollout for rollout, *_ in rows} - self._before.keys())
            if missing:
                logps, _ = self._score([(rollout, None) for rollout in missing])
                self._before |= dict(zip(missing, logps, strict=True))
            _, best = self._score(
                [(rollout, None) for rollout, *_ in rows], at=[r[1] for r in rows]
            )
            replaced = [
                (rollout, (position, next(i for i in two if i != token)))
                for (rollout, position, token), two in zip(rows, best, strict=True)
            ]
            after, _ = self._score(replaced)
            changes += [
                now - self._before[rollout] for now, (rollout, *_) in zip(after, rows, strict=True)
            ]
            progress.advance(len(rows))
        return np.array(changes)

    def _score(
        self,
        wanted: Sequence[tuple[int, tuple[int, int] | None]],
        *,
        at: Sequence[int] | None = None,
    ) -> tuple[list[float], list[list[int]]]:
        """Score the answers of some rollouts, each with a token replaced or as it is.

        Args:
            wanted: Row number, and (position, token) that replaces another.
            at: Position of each at which the two likeliest ids are wanted.

        Returns:
            Log-prob of each answer, and the two likeliest ids.
        """
        texts = []
        for rollout, change in wanted:
            prompt, response = self._texts[rollout]
            ids = [*prompt, *response[: self._spans[rollout][1]]]
            if change is not None:
                ids[len(prompt) + change[0]] = change[1]
            texts.append(ids)
        width = max(map(len, texts))
        batch = torch.zeros((len(texts), width), dtype=torch.long)
        for row, ids in enumerate(texts):
            batch[row, : len(ids)] = torch.tensor(ids)
        states = self._model.hidden_states(batch)
        logps, best = [], []
        for row, (rollout, _) in enumerate(wanted):
            start = len(self._texts[rollout][0])
            first, last = (start + place for place in self._spans[rollout])
            logits = self._logits(states[row, first - 1 : last - 1])
            answer = batch[row, first:last].to(logits.device)
            logp = torch.log_softmax(logits.double() / self._temperature, dim=1)
            logps.append(float(logp.gather(1, answer[:, None]).sum()))
            if at is not None:
                place = start + at[row]
                best.append(
                    self._logits(states[row, place - 1 : place])[0].topk(2).indices.tolist()
                )
        return logps, best

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        return self._head.logits(states.to(self._head.weight.device))


def _table(
    checkpoint: str,
    pairs: tuple[pl.DataFrame, pl.DataFrame],
    changes: Sequence[Floats],
    seed: int,
) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    labels = pl.concat([part["prompt_id"] for part in pairs])
    prompts = Prompts(labels, seed=seed)
    rock = np.arange(labels.len()) < pairs[0].height
    values = np.concatenate(changes) if labels.len() else np.zeros(0)
    sums = [
        prompts.sums(part)[:, None]
        for part in (values * rock, rock * 1.0, values * ~rock, ~rock * 1.0)
    ]
    for place, (name, part) in enumerate(zip((ROCKS, OTHERS), pairs, strict=True)):
        row: dict[str, Any] = {
            "group": name,
            "n": part.height,
            "n_types": part["token_id"].n_unique(),
            "n_rollouts": part["rollout"].n_unique(),
            "n_prompts": part["prompt_id"].n_unique(),
            "mean_log10_n": part["log10_n"].mean(),
            "mean_logp": part["student_logp"].mean(),
            "mean_entropy": part["student_entropy"].mean(),
            "mean_distance": part["distance"].mean(),
            "reason": NO_TOKENS,
        }
        if part.height:
            mean = prompts.ratio(*sums[2 * place : 2 * place + 2])
            row |= _first(interval_columns("change", mean)) | {"reason": reasons.first(mean)[0]}
            if name == ROCKS:
                apart = prompts.difference(*sums)
                row |= _first(interval_columns("difference", apart))
                row["p"] = difference_p(sums, seed=seed)
        rows.append(row)
    return result_table("replacement", rows, checkpoint=checkpoint)


def _first(columns: dict[str, Any]) -> dict[str, Any]:
    return {name: float(value[0]) for name, value in columns.items()}


def difference_p(sums: Sequence[Floats], *, seed: int) -> float:
    """Test the difference of two means by flipping signs of what each prompt adds to it.

    Args:
        sums: Values and number of tokens of the one group, then of the other, by prompt; each of
            shape (prompts, 1).
        seed: Seed of the flips.

    Returns:
        Two-sided p that both have the mean of all tokens.
    """
    x, m, x0, m0 = (part[:, 0] for part in sums)
    mean = (x.sum() + x0.sum()) / (m.sum() + m0.sum())
    adds = (x - mean * m) / m.sum() - (x0 - mean * m0) / m0.sum()
    return float(sign_flip_p(adds, seed=seed))
