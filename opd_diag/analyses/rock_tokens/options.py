"""The choices of one call of `rock_tokens`."""

from dataclasses import dataclass

from opd_diag.analyses.rock_tokens.occurrences import LOSSES
from opd_diag.errors import OptionError
from opd_diag.tables.arguments import at_least

EXCLUDED = {"opd-diag": 0, "paper": 5}
ETA = 0.1


@dataclass(frozen=True)
class Options:
    """Choices of the user, checked.

    Attributes:
        preset: `opd-diag` or `paper`.
        loss: One of `LOSSES`.
        rank_by: Checkpoint whose loss ranks: `last`, `first`, or `joint`, the smaller R of both.
        top: Size of the list, K.
        min_count: Fewest occurrences of a type that may be chosen.
        exclude_top_frequent: How many of the most frequent types are left out; None: the preset's.
        detail: Types by R that get intervals and the context stage.
        tau: `own` or `first`.
        eta: Share of similar contexts that keeps an occurrence.
        seed: Seed of every draw.

    Raises:
        OptionError: If a name is unknown or a number out of range.
    """

    preset: str = "opd-diag"
    loss: str = "reverse_kl"
    rank_by: str = "last"
    top: int = 100
    min_count: int = 2
    exclude_top_frequent: int | None = None
    detail: int = 500
    tau: str = "own"
    eta: float = ETA
    seed: int = 0

    def __post_init__(self) -> None:
        known = {
            "preset": tuple(EXCLUDED),
            "loss": tuple(LOSSES),
            "rank_by": ("last", "first", "joint"),
            "tau": ("own", "first"),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                expected = ", ".join(values)
                raise OptionError(f"{name}: {getattr(self, name)!r}; expected one of {expected}")
        at_least(1, top=self.top, min_count=self.min_count, detail=self.detail)
        at_least(0, exclude_top_frequent=self.exclude_top_frequent, seed=self.seed)
        if not 0 <= self.eta <= 1:
            raise OptionError(f"eta: {self.eta}; expected a share from 0 to 1")

    @property
    def left_out(self) -> int:
        """How many of the most frequent types are left out."""
        asked = self.exclude_top_frequent
        return EXCLUDED[self.preset] if asked is None else asked

    @property
    def next_ranks(self) -> bool:
        """Whether controls are the next ranks by R, not matched by frequency."""
        return self.preset == "paper"

    @property
    def signed(self) -> bool:
        """Whether the loss can be negative: then it has no shares and no relative change."""
        return self.loss == "sampled_log_ratio"
