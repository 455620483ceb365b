"""Every choice of the analysis, checked once."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import polars as pl

from opd_diag.analyses.loss_audit.estimators import (
    COLUMNS,
    Estimator,
    list_estimators,
    named_estimator,
    needed_columns,
)
from opd_diag.errors import OptionError
from opd_diag.tables.arguments import at_least
from opd_diag.tables.columns.tokens import truncated_grid


@dataclass(frozen=True, kw_only=True)
class Options:
    """The choices of one call; `loss_audit` says what they mean.

    Attributes:
        estimators: The estimators that are compared.
        own: The loss that the finding asks about, one of them.
        k_grid: The K grid of the run.
    """

    estimators: tuple[Estimator, ...]
    own: Estimator
    k_grid: tuple[int, ...]

    @classmethod
    def of(
        cls,
        k_grid: Sequence[int],
        *,
        loss: str,
        clamp: Sequence[float],
        top_k: Sequence[int] | None,
        seed: int,
    ) -> "Options":
        """Check the choices.

        Raises:
            OptionError: If one is out of its range.
        """
        if wrong := [c for c in clamp if not (c > 0 and math.isfinite(c))]:
            raise OptionError(f"clamp: {wrong[0]}; expected numbers above 0 (nat)")
        at_least(0, seed=seed)
        few = truncated_grid(k_grid)
        top_k = few if top_k is None else top_k
        if unknown := [k for k in top_k if k not in few]:
            raise OptionError(
                f"top_k: {', '.join(map(str, unknown))}; expected some of "
                f"{', '.join(map(str, few))}, which the run has"
            )
        own = named_estimator(loss, few)
        estimators = list_estimators([float(c) for c in clamp], top_k, own)
        return cls(estimators=estimators, own=own, k_grid=tuple(k_grid))

    def columns(self, there: Collection[str]) -> list[pl.Expr]:
        """Return what is read of the token table; a top set that it lacks is null.

        Args:
            there: Columns of the table.
        """
        wanted = needed_columns(self.estimators, self.k_grid)
        read = wanted[""]
        for kind, names in COLUMNS.items():
            if set(names) <= set(there):
                read += wanted[kind]
            else:
                read += [
                    pl.lit(None, pl.Float32).alias(one.meta.output_name()) for one in wanted[kind]
                ]
        return read
