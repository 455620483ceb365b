"""What is asked: the choices of one call of `rock_tokens`, and what it is asked of."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from opd_diag.analyses.rock_tokens.controls import Controls
from opd_diag.analyses.rock_tokens.occurrences import Occurrences
from opd_diag.analyses.rock_tokens.sums import Sums
from opd_diag.errors import OptionError


class Options(NamedTuple):
    """Choices of the user.

    Attributes:
        top: Size of the list, K.
        min_count: Fewest occurrences of a type that may be chosen.
        exclude_top_frequent: How many of the most frequent types are left out.
        next_ranks: Whether controls are the next ranks by R.
        detail: Types by R that get intervals and the context stage.
        tau: `own` or `first`.
        eta: Share of similar contexts that keeps an occurrence.
        signed: Whether the loss can be negative.
        seed: Seed of every draw.
    """

    top: int
    min_count: int
    exclude_top_frequent: int
    next_ranks: bool
    detail: int
    tau: str
    eta: float
    signed: bool
    seed: int


def one_of(name: str, value: str, known: Iterable[str]) -> None:
    """Refuse a name that is not known, with OptionError."""
    if value not in known:
        raise OptionError(f"{name}: {value!r}; expected one of {', '.join(known)}")


def in_range(*, eta: float, exclude_top_frequent: int, **counts: int) -> None:
    """Refuse a share outside 0 to 1 and a count that is too small, with OptionError."""
    for name, value in counts.items():
        if value < 1:
            raise OptionError(f"{name}: {value}; expected 1 or more")
    if exclude_top_frequent < 0:
        raise OptionError(f"exclude_top_frequent: {exclude_top_frequent}; expected 0 or more")
    if not 0 <= eta <= 1:
        raise OptionError(f"eta: {eta}; expected a share from 0 to 1")


class Question(NamedTuple):
    """Tokens, their sums and the list by R.

    Attributes:
        options: Choices of the user.
        occurrences: Tokens of the run under all checkpoints.
        sums: Their sums per prompt and type.
        panel: Sums that compare first and last: the same, or two runs beside one another.
        eligible: Types of `sums` that may be chosen. Shape (types,).
        ranks: Their ranks by R.
        controls: Controls of the rocks.
        pairing: `one checkpoint`, `paired` or `unpaired`.
        common: Columns with one value throughout.
    """

    options: Options
    occurrences: Occurrences
    sums: Sums
    panel: Sums
    eligible: npt.NDArray[np.bool_]
    ranks: npt.NDArray[np.int64]
    controls: Controls
    pairing: str
    common: dict[str, str]

    @property
    def is_rock(self) -> npt.NDArray[np.bool_]:
        """Which types stand in the list. Shape (types,)."""
        return np.asarray(self.ranks <= self.options.top)

    @property
    def panel_eligible(self) -> npt.NDArray[np.bool_]:
        """The types of `panel` that may be chosen."""
        return np.isin(self.panel.token_id, self.sums.token_id[self.eligible])
