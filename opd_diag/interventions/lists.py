"""Which types each arm bans: rocks, types as frequent, random types as exposed, single types."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.errors import OptionError, TableError
from opd_diag.tables.columns.interventions import (
    ALL_ROCKS,
    CONTROL,
    LISTED,
    RANDOM,
    ROCK,
    SINGLE,
)
from opd_diag.tables.columns.rock_tokens import TOKEN_CLASSES
from opd_diag.tables.run import Run
from opd_diag.text.token_classes import token_classes

Integers = npt.NDArray[np.int64]

TRIES = 50  # random orders of types, of which the list nearest in exposure is taken
NO_CONTROL = "no rock has a type as frequent beside it (rock_tokens: control_token_id)"


class Arm(NamedTuple):
    """One arm that bans types.

    Attributes:
        name: Its name, which names its folder too.
        kind: Kind of arm, as in `opd_diag.tables.columns.interventions`.
        token_ids: Ids that are banned, rising.
        note: What a reader has to know of the list, or "".
        text: Text of the type, where it is a single one.
    """

    name: str
    kind: str
    token_ids: tuple[int, ...]
    note: str = ""
    text: str | None = None


class Exposure(NamedTuple):
    """How often the student's likeliest token is of a list.

    Attributes:
        rollouts: Share of the rollouts in which it ever is.
        positions: Share of the positions at which it is.
    """

    rollouts: float
    positions: float


class BestTokens:
    """The student's likeliest token at every position of the run's rollouts that is in the loss.

    Args:
        run: The run.
        checkpoint: The checkpoint.
    """

    def __init__(self, run: Run, checkpoint: str) -> None:
        tokens = run.tokens(checkpoint).filter("in_loss").select("rollout", "student_top_id")
        frame = tokens.drop_nulls().collect()
        self.size = run.vocab.height
        self._rollout = frame["rollout"].to_numpy()
        self._token = frame["student_top_id"].to_numpy()
        self.counts = np.bincount(self._token, minlength=self.size)

    def exposure(self, token_ids: Sequence[int]) -> Exposure:
        """Measure how exposed the rollouts are to a ban."""
        banned = np.zeros(self.size, np.bool_)
        banned[list(token_ids)] = True
        hit = banned[self._token]
        rollouts = np.unique(self._rollout).size
        if not rollouts:
            return Exposure(0.0, 0.0)
        return Exposure(np.unique(self._rollout[hit]).size / rollouts, float(hit.mean()))


def rock_arms(
    rock_tokens: pl.DataFrame, best: BestTokens, *, top: int | None, ends: Sequence[int]
) -> list[Arm]:
    """List rocks, and the types as frequent that `rock_tokens` has matched to them.

    Where some rocks have no type as frequent, those that have one are an arm of their own, which
    is what the control is compared with. End tokens are left out of every list: a ban of theirs
    asks what happens to responses that do not end.

    Args:
        rock_tokens: The table of this name.
        best: The student's likeliest tokens.
        top: So many rocks by rank; None: those that the table lists.
        ends: End tokens.

    Returns:
        The arms: all rocks, those with a control, and the control.

    Raises:
        TableError: If no rock is listed.
    """
    listed = rock_tokens.filter("is_rock") if top is None else _top(rock_tokens, top)
    rocks = [i for i in listed["token_id"].to_list() if i not in ends]
    if not rocks:
        raise TableError("rock_tokens: no rock is listed; expected some")
    partner = dict(listed.select("token_id", "control_token_id").iter_rows())
    barred = {*rocks, *ends}
    matched = [i for i in rocks if partner[i] is not None and partner[i] not in barred]
    ended = listed.height - len(rocks)
    note = f"{ended} end token left out" if ended else ""
    arms = []
    if matched and len(matched) < len(rocks):
        unmatched = f"{len(rocks) - len(matched)} of {len(rocks)} rocks have no type as frequent"
        arms.append(Arm("all-rocks", ALL_ROCKS, tuple(sorted(rocks)), note))
        arms.append(Arm("rock", ROCK, tuple(sorted(matched)), unmatched))
    else:
        missing = "" if matched else NO_CONTROL
        arms.append(Arm("rock", ROCK, tuple(sorted(rocks)), missing or note))
    if matched:
        arms.append(Arm("control", CONTROL, tuple(sorted({int(partner[i]) for i in matched}))))
    return arms


def _top(rock_tokens: pl.DataFrame, top: int) -> pl.DataFrame:
    """Take the first rocks by rank; types that are no rock have no control."""
    chosen = rock_tokens.filter(pl.col("rank") <= top)
    listed = chosen.filter("is_rock").height
    if chosen.height > listed:
        raise OptionError(
            f"top: {top}, but rock_tokens lists {listed} rocks; expected at most so many (rock "
            "tokens with a larger `--top` first)"
        )
    return chosen


def random_arms(
    like: Arm,
    best: BestTokens,
    candidates: Sequence[int],
    *,
    count: int,
    seed: int,
) -> list[Arm]:
    """Draw lists of random types that are as exposed as a list.

    Of 50 random orders of the candidates, each taken as long as the list does not exceed the
    positions at which the student's likeliest token is of `like`, the nearest is the arm. Positions
    rather than rollouts are matched: long lists expose every rollout.

    Args:
        like: The list whose exposure is wanted.
        best: The student's likeliest tokens.
        candidates: Types to draw from.
        count: Number of arms.
        seed: Seed of the draws.
    """
    wanted = int(best.counts[list(like.token_ids)].sum())
    able = np.array([i for i in candidates if best.counts[i] > 0], np.int64)
    arms = []
    for number in range(1, count + 1):
        rng = np.random.default_rng([seed, number])
        nearest: Integers = np.zeros(0, np.int64)
        short = wanted
        for _ in range(TRIES):
            chosen, left = _fill(able[rng.permutation(able.size)], best.counts, wanted)
            if left < short and chosen.size:
                nearest, short = chosen, left
        if not nearest.size:
            break
        note = "" if short <= 0.1 * wanted else f"exposed at {short:,} positions fewer"
        arms.append(Arm(f"random-{number}", RANDOM, tuple(sorted(nearest.tolist())), note))
    return arms


def _fill(order: Integers, counts: npt.NDArray[np.int64], wanted: int) -> tuple[Integers, int]:
    """Take types in order while they fit; return them, and how many positions are missing."""
    chosen, left = [], wanted
    for token_id in order.tolist():
        if counts[token_id] <= left:
            chosen.append(token_id)
            left -= int(counts[token_id])
    return np.array(chosen, np.int64), left


def single_arms(rocks: Sequence[int], texts: Sequence[str], count: int) -> list[Arm]:
    """Ban each of the first rocks alone; `texts` are those of all ids."""
    return [
        Arm(f"single-{token_id}", SINGLE, (token_id,), text=texts[token_id])
        for token_id in rocks[:count]
    ]


def listed_arms(ban: Sequence[str], vocab: pl.DataFrame, ends: Sequence[int]) -> list[Arm]:
    """Read lists that were given: `NAME=ID,ID,...`, or the name of a class of tokens.

    Raises:
        OptionError: If a list is neither, holds an id that is none, an end token, or every id.
    """
    classes = token_classes(vocab)
    special = vocab["is_special"].to_numpy()
    arms = []
    for given in ban:
        name, equals, text = given.partition("=")
        if not equals:
            if name not in TOKEN_CLASSES:
                raise OptionError(
                    f"ban: {given!r}; expected NAME=ID,ID,... or a class of tokens "
                    f"({', '.join(TOKEN_CLASSES)})"
                )
            members = (classes == name).to_numpy() & ~special
            ids = [int(i) for i in np.flatnonzero(members) if i not in ends]
            name = name.replace(" ", "-")
        else:
            ids = _ids(given, text, vocab.height)
        if not name.replace("-", "").replace("_", "").isalnum() or not ids:
            raise OptionError(f"ban: {given!r}; expected NAME=ID,ID,..., NAME of letters and -")
        arms.append(Arm(f"ban-{name}", LISTED, tuple(sorted(set(ids)))))
    return arms


def _ids(given: str, text: str, size: int) -> list[int]:
    try:
        ids = [int(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"ban: {given!r}; expected NAME=ID,ID,...") from None
    outside = [i for i in ids if not 0 <= i < size]
    if outside:
        raise OptionError(f"ban: {given!r} holds id {outside[0]}; expected 0 to {size - 1}")
    return ids


def check_arms(
    arms: Sequence[Arm], size: int, ends: Sequence[int], left_out: Sequence[int]
) -> None:
    """Refuse bans after which a model cannot write or cannot end.

    Args:
        arms: The arms.
        size: Number of ids.
        ends: End tokens.
        left_out: Ids that no arm can choose anyway.

    Raises:
        OptionError: If an arm bans an end token, or every other token, or two have one name.
    """
    names = [arm.name for arm in arms]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise OptionError(f"ban: {twice[0]!r} twice; expected one name for each list")
    for arm in arms:
        ended = [i for i in arm.token_ids if i in ends]
        if ended:
            raise OptionError(
                f"ban: {arm.name} bans the end token {ended[0]}; expected a list without it, since "
                "no response would end"
            )
        if len({*arm.token_ids, *ends, *left_out}) >= size:
            raise OptionError(
                f"ban: {arm.name} bans every token but those that end a response; expected some "
                "that can be written"
            )


def table_of_lists(
    arms: Sequence[Arm], best: BestTokens, vocab: pl.DataFrame
) -> Mapping[str, Sequence[object]]:
    """List the banned types of every arm, as columns of `knock_out_lists`."""
    rows = [(arm.name, token_id) for arm in arms for token_id in arm.token_ids]
    texts = vocab["text"].to_list()
    total = max(int(best.counts.sum()), 1)
    return {
        "arm": [name for name, _ in rows],
        "token_id": [token_id for _, token_id in rows],
        "text": [texts[token_id] for _, token_id in rows],
        "exposed_positions": [best.counts[token_id] / total for _, token_id in rows],
    }
