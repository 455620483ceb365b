"""Ban token types while the student answers problems, and measure what that costs in accuracy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses import wording
from opd_diag.analyses.tables import result_table
from opd_diag.interventions.comparison import compare_arms
from opd_diag.interventions.generation import Request, Response
from opd_diag.interventions.lists import (
    Arm,
    BestTokens,
    check_arms,
    listed_arms,
    random_arms,
    rock_arms,
    single_arms,
    table_of_lists,
)
from opd_diag.interventions.models import (
    Chosen,
    Settings,
    choose_student,
    decoding_of,
    dtype_of,
    load_engine,
)
from opd_diag.interventions.outcomes import disagreement, smallest_before
from opd_diag.interventions.parts import arm_responses, keep_settings
from opd_diag.interventions.problems import check_lengths, read_problems
from opd_diag.interventions.verifiers import Verifier, check_verifier, judge_all, load_verifier
from opd_diag.scoring.progress import Progress, StderrProgress
from opd_diag.tables.arguments import at_least, public_analysis
from opd_diag.tables.columns.interventions import (
    ALL_ROCKS,
    CONTROL,
    ROCK,
)
from opd_diag.tables.files import run_lock
from opd_diag.tables.manifest import digest
from opd_diag.tables.run import Run, open_run

FEWEST_REPEATS = 3  # one lucky baseline would shift every difference
MOST_COMPARED = 1000  # rollouts on which the verifier is compared with the outcomes of the run
UNKNOWN = 0.5  # of disagreement: that of outcomes thrown like coins
COARSE = 0.05  # a study that shows nothing smaller is said to be coarse before it runs


class KnockOut(NamedTuple):
    """The tables of `knock_out`.

    Attributes:
        knock_out: One row for each arm: accuracy, what the ban costs, and its controls.
        knock_out_lists: The types that each arm bans.
    """

    knock_out: pl.DataFrame
    knock_out_lists: pl.DataFrame


@public_analysis
def knock_out(
    run: Run | str | Path,
    *,
    verifier: str,
    student: str | None = None,
    problems: str | Path | None = None,
    top: int | None = None,
    ban: Sequence[str] | None = None,
    each: int = 0,
    random_lists: int = 3,
    repeats: int = 3,
    samples: int = 1,
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
) -> KnockOut:
    """Ban rock tokens while the student generates, beside types as frequent and random types.

    Every arm answers the same problems with the same random numbers, so that arms differ only from
    the first banned token on. The rock list is held against types as frequent, problem by problem;
    random lists are as exposed as it; repeats without a ban, each with random numbers of its own,
    show the noise of accuracy itself. Exposure, and the smallest difference that the study can
    show, are said before the first token. A study that was interrupted goes on from its parts.

    Args:
        run: A run with the result `rock_tokens`, or its folder.
        verifier: What calls responses right: `exact`, `boxed`, `last-number`, `math`, or
            `module:function`, code that is run.
        student: Checkpoint that generates: its name, or a folder of its weights; None: the last.
        problems: File of problems, one JSON object a line; None: those of the run with an answer.
        top: Ban so many rocks by rank; None: all that `rock_tokens` lists.
        ban: Lists of one's own: `NAME=ID,ID,...`, or a class of tokens such as `digit`.
        each: Ban each of so many rocks alone, too.
        random_lists: Arms of random types.
        repeats: Unmasked arms; every other arm has their random numbers.
        samples: Responses of each problem and repeat.
        max_new_tokens: Most tokens of a response; None: as the run's longest.
        temperature: None: as scored.
        engine: `transformers`, or `vllm`, which has no common random numbers.
        batch_size: Most responses at a time; halved where memory runs out.
        dtype: None: float32 on a CPU, as saved on a GPU.
        device: None: a GPU if there is one.
        trust_remote_code: Whether code that comes with the model may run.
        out: Folder of the responses; None: RUN/interventions/knock-out-CHECKPOINT.
        seed: Seed of all random numbers, draws and intervals.
        progress: Where progress goes; by default stderr.

    Returns:
        Two tables.

    Raises:
        OptionError: If a number is out of range, a list bans an end token or every token, or there
            are no answers.
        TableError: If there is no result `rock_tokens`.
        ModelError: If the model cannot be loaded.
        ModelMismatchError: If the student is none of the run, or `out` holds another study.
        RolloutError: If a problem is damaged, or its prompt leaves no room in the context.
        VerifierError: If the verifier raises, or calls an answer itself wrong.

    Source: arXiv 2605.09253, equation 17; controls, repeats and common random numbers are ours.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    settings = Settings(
        temperature, max_new_tokens, engine, batch_size, dtype, device, trust_remote_code, seed
    ).check()
    at_least(FEWEST_REPEATS, repeats=repeats)
    at_least(1, samples=samples, top=top)
    at_least(0, each=each, random_lists=random_lists)
    judge = load_verifier(verifier)
    rocks = opened.result("rock_tokens")
    chosen = choose_student(opened, student, trust_remote_code=trust_remote_code)
    asked = read_problems(opened, problems, chosen.tokenizer)
    decoding = decoding_of(opened, chosen, settings)
    check_lengths(asked, decoding.max_new_tokens, chosen.context, chosen.path)
    check_verifier(verifier, judge, [(one.name, one.answer) for one in asked])
    best = BestTokens(opened, chosen.name)
    arms = _arms(opened, rocks, best, chosen, top, ban or (), each, random_lists, seed)
    check_arms(arms, decoding.ids, chosen.end_ids, decoding.suppressed)
    folder = Path(out) if out else opened.path / "interventions" / f"knock-out-{chosen.name}"
    study = {
        "study": "knock-out",
        "student": chosen.digest,
        "problems": digest([[one.name, one.prompt] for one in asked]),
        "temperature": decoding.temperature,
        "max_new_tokens": decoding.max_new_tokens,
        "end_ids": list(decoding.end_ids),
        "suppressed": list(decoding.suppressed),
        "repeats": repeats,
        "samples": samples,
        "engine": engine,
        "dtype": dtype_of(settings),
        "seed": seed,
    }
    with progress or StderrProgress() as tell, run_lock(folder):
        identity = keep_settings(folder, study)
        answers = {one.name: one.answer for one in asked}
        for line in (
            *_before(opened, arms, best, len(asked), repeats * samples),
            *_agreement(opened, chosen, answers, verifier, judge),
        ):
            tell.say(line)
        generator = load_engine(chosen, decoding, settings)
        requests = [
            Request(one.name, sample, one.prompt)
            for sample in range(repeats * samples)
            for one in asked
        ]
        tell.start("without a ban", len(requests) * _usual_length(opened, decoding.max_new_tokens))
        unmasked = arm_responses(
            folder / "unmasked", identity, generator, requests, (), advance=tell.advance
        )
        frames = {"unmasked": unmasked}
        # A verifier that fails on real responses does so before the other arms are generated.
        judged = {"unmasked": _judged(chosen, unmasked, answers, verifier, judge)}
        for arm in arms:
            known: list[Response | None] | None = None
            wanted = requests
            expected = unmasked["response_token_ids"].list.len().sum()
            if generator.shares_numbers:
                wanted, known = _up_to_the_ban(requests, unmasked, arm.token_ids)
                done = sum(
                    len(one.begun if there is None else there.token_ids)
                    for one, there in zip(wanted, known, strict=True)
                )
                expected -= done
            tell.start(arm.name, int(expected))
            frames[arm.name] = arm_responses(
                folder / arm.name,
                identity,
                generator,
                wanted,
                arm.token_ids,
                known=known,
                advance=tell.advance,
            )
            judged[arm.name] = _judged(chosen, frames[arm.name], answers, verifier, judge)
    compared = compare_arms(
        arms,
        frames,
        judged,
        best,
        len(asked),
        repeats,
        samples,
        seed=seed,
        common=generator.shares_numbers,
    )
    constants = {"checkpoint": chosen.name, "verifier": verifier, "engine": engine}
    table = result_table("knock_out", compared, **constants)
    lists = result_table(
        "knock_out_lists", table_of_lists(arms, best, opened.vocab), checkpoint=chosen.name
    )
    return KnockOut(table, lists)


def _arms(
    run: Run,
    rocks: pl.DataFrame,
    best: BestTokens,
    chosen: Chosen,
    top: int | None,
    ban: Sequence[str],
    each: int,
    random_lists: int,
    seed: int,
) -> list[Arm]:
    """List every arm that bans something, the rock list first."""
    arms = rock_arms(rocks, best, top=top, ends=chosen.end_ids)
    listed = next(arm for arm in arms if arm.kind == ROCK)
    everything = next((arm for arm in arms if arm.kind == ALL_ROCKS), listed)
    barred = {*everything.token_ids, *chosen.end_ids, *chosen.suppressed}
    special = run.vocab.filter("is_special")["token_id"].to_list()
    candidates = [i for i in range(best.size) if i not in barred and i not in special]
    arms += random_arms(listed, best, candidates, count=random_lists, seed=seed)
    ranked = rocks.filter(pl.col("token_id").is_in(everything.token_ids)).sort("rank")
    arms += single_arms(ranked["token_id"].to_list(), run.vocab["text"].to_list(), each)
    return arms + listed_arms(ban, run.vocab, chosen.end_ids)


def _before(
    run: Run, arms: Sequence[Arm], best: BestTokens, problems: int, samples: int
) -> list[str]:
    """Say what the study can show, before it runs."""
    known = disagreement(run.rollouts)
    apart = UNKNOWN if known is None else known
    source = "nothing is known" if known is None else "as in the run"
    lines = [
        f"{problems} problems, {samples} responses each in every arm; two responses to a problem "
        f"taken to differ in being right in {wording.share(apart)} ({source})"
    ]
    for arm in arms:
        exposure = best.exposure(arm.token_ids)
        smallest = smallest_before(exposure.rollouts, apart, problems, samples)
        lines.append(
            f"{arm.name}: {len(arm.token_ids)} types, the student's likeliest token in "
            f"{wording.share(exposure.rollouts)} of the rollouts and "
            f"{wording.share(exposure.positions)} of the positions; smallest difference that can "
            f"be shown: {100 * smallest:.1f} points"
        )
    headline = [arm for arm in arms if arm.kind in (ROCK, CONTROL)]
    if len(headline) == 2:
        both = min(1.0, sum(best.exposure(arm.token_ids).rollouts for arm in headline))
        smallest = smallest_before(both, apart, problems, samples)
        line = f"rock against control: smallest difference {100 * smallest:.1f} points"
        if smallest > COARSE:
            line += "; a smaller one will go unseen: expected more problems, or more samples"
        lines.append(line)
    return lines


def _agreement(
    run: Run, chosen: Chosen, answers: Mapping[str, str], name: str, judge: Verifier
) -> list[str]:
    """Say how often the verifier agrees with the outcomes of the run, where it has some."""
    known = run.rollouts.filter(
        pl.col("correct").is_not_null(), pl.col("prompt_id").is_in(list(answers))
    ).head(MOST_COMPARED)
    if known.is_empty():
        return []
    right = judge_all(name, judge, _texts(chosen, known), known["prompt_id"], answers)
    agree = float((right == known["correct"].to_numpy()).mean())
    return [
        f"verifier {name} agrees with the outcomes of the run on {wording.share(agree)} of "
        f"{wording.count(known.height)} rollouts"
    ]


def _usual_length(run: Run, most: int) -> int:
    lengths = run.rollouts["response_token_ids"].list.len().to_numpy()
    return max(1, int(min(most, lengths.mean()))) if lengths.size else most


def _up_to_the_ban(
    requests: Sequence[Request], unmasked: pl.DataFrame, banned: Sequence[int]
) -> tuple[list[Request], list[Response | None]]:
    """Take from the unmasked responses what a ban leaves as it is.

    Under a ban the same numbers choose the same tokens up to the first that is banned: a response
    without one is the same, and others go on from there.

    Returns:
        The requests, begun up to the first banned token, and the response of each that holds none.
    """
    barred = set(banned)
    wanted, known = [], []
    rows = unmasked.select("response_token_ids", "finish").iter_rows()
    for request, (ids, finish) in zip(requests, rows, strict=True):
        place = next((n for n, token in enumerate(ids) if token in barred), None)
        wanted.append(request._replace(begun=tuple(ids[:place])))
        known.append(Response(ids, finish, []) if place is None else None)
    return wanted, known


def _judged(
    chosen: Chosen, frame: pl.DataFrame, answers: Mapping[str, str], name: str, judge: Verifier
) -> npt.NDArray[np.float64]:
    """Judge the responses of an arm. Shape (samples of all repeats, problems)."""
    right = judge_all(name, judge, _texts(chosen, frame), frame["problem"], answers)
    return right.reshape(-1, len(answers))


def _texts(chosen: Chosen, frame: pl.DataFrame) -> list[str]:
    ids = frame["response_token_ids"].to_list()
    texts: list[str] = chosen.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return texts
