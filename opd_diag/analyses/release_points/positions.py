"""Sum quantities of tokens over bins of relative and absolute position, by prompt."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.prompts import Prompts
from opd_diag.analyses.release_points.groups import (
    SPLITS,
    Group,
    SmallGroups,
    groups,
)
from opd_diag.analyses.tokens import bin_width
from opd_diag.stats.ragged import run_starts
from opd_diag.tables.columns.release_points import MIN_TOKENS

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

RELATIVE_BINS = 20
ABSOLUTE_BINS = 32
EARLY = slice(0, 4)  # relative bins: the first and last 20 % of the response
LATE = slice(16, 20)
OVERLAP_K = 16


class Quantity(NamedTuple):
    """A number of each token that is averaged.

    Attributes:
        column: Its name among the columns of a batch.
        name: Its name in the tables.
        k: Its K, or None.
        unit: Its unit.
    """

    column: str
    name: str
    k: int | None
    unit: str


class Bins(NamedTuple):
    """Sums over bins of one axis, by prompt or by cell.

    Attributes:
        listed: The quantities.
        x: Sums, shape (prompts, bins, quantities).
        m: Counts, same shape.
        squares: Sum of the squared advantage, shape (prompts, bins).
    """

    listed: Sequence[Quantity]
    x: Floats
    m: Floats
    squares: Floats

    @property
    def advantage(self) -> int:
        """Place of the advantage among the quantities."""
        return [q.name for q in self.listed].index("advantage")

    def part(self, bins: slice) -> "Bins":
        """Add some bins up to one."""
        x, m, squares = (
            sums[:, bins].sum(axis=1, keepdims=True) for sums in (self.x, self.m, self.squares)
        )
        return Bins(self.listed, x, m, squares)

    def by_prompt(self, rows: Integers, prompts: Prompts) -> "Bins":
        """Add the sums of some cells up to their prompts."""
        order = np.argsort(prompts.code, kind="stable")
        starts = run_starts(prompts.code[order])
        x, m, squares = (
            np.add.reduceat(sums[rows[order]], starts, axis=0)
            for sums in (self.x, self.m, self.squares)
        )
        return Bins(self.listed, x, m, squares)

    def row_deviations(self) -> Floats:
        """Find the standard deviation of the advantage in each row and bin, in nat."""
        n, first = self.m[..., self.advantage], self.x[..., self.advantage]
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = self.squares / n - (first / n) ** 2
        return np.asarray(np.sqrt(np.maximum(variance, 0)))

    def deviations(self, prompts: Prompts, *, draws: bool) -> Floats:
        """Find the standard deviation of the advantage in each bin, as it is and in each draw.

        Args:
            prompts: The prompts of the sums.
            draws: Whether the draws are wanted.

        Returns:
            Shape (1 + draws, bins), in nat; the first row is the estimate. One row of NaN instead
            of draws that are not wanted.
        """
        drawn = prompts.draws if draws else np.zeros((1, prompts.count))
        counts = np.vstack([np.ones((1, prompts.count)), drawn]).astype(np.float64)
        n = counts @ self.m[..., self.advantage]
        first = counts @ self.x[..., self.advantage]
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = (counts @ self.squares) / n - (first / n) ** 2
        return np.asarray(np.sqrt(np.maximum(variance, 0)))


class Positions(NamedTuple):
    """Sums over bins of position, of all rollouts and of the groups that they part into.

    Attributes:
        relative: By prompt, over relative position.
        absolute: By prompt, over absolute position.
        width: Tokens in a bin of absolute position.
        prompts: The prompts, one row each.
        cells: A prompt and a value of every split, one row each: `prompt` and the splits.
        by_cell: By cell, over relative position, of the headline quantities only.
    """

    relative: Bins
    absolute: Bins
    width: int
    prompts: Prompts
    cells: pl.DataFrame
    by_cell: Bins

    def groups(self) -> Iterator[tuple[Group, Bins, Prompts]]:
        """Give all rollouts and each group with enough prompts, its sums and its prompts."""
        yield Group("all", "all", self.prompts.code), self.relative, self.prompts
        code = self.cells["prompt"].to_numpy()
        whole = self.prompts.of_rows(code)
        for group in groups(self.cells, code):
            if isinstance(group, Group) and group.split != "all":
                part = whole.part(group.rows)
                yield group, self.by_cell.by_prompt(group.rows, part), part

    def small_groups(self) -> Iterator[tuple[SmallGroups, Bins]]:
        """Give the groups with too few prompts, and their sums: one row a group."""
        for group in groups(self.cells, self.cells["prompt"].to_numpy()):
            if isinstance(group, SmallGroups):
                own = self.by_cell
                sums = (group.sums(values) for values in (own.x, own.m, own.squares))
                yield group, Bins(own.listed, *sums)


def quantities(k_grid: Sequence[int]) -> list[Quantity]:
    """List what is averaged over all rollouts."""
    plain = [
        ("advantage", "nat"),
        ("student_entropy", "nat"),
        ("teacher_entropy", "nat"),
        ("teacher_top_logp", "nat"),
        ("advantage_var", "nat²"),
    ]
    listed = [Quantity(name, name, None, unit) for name, unit in plain]
    if OVERLAP_K in k_grid:
        listed.append(Quantity("overlap", "overlap", OVERLAP_K, "share"))
    for k in k_grid:
        listed.append(Quantity(f"margin_{k}", "margin", k, "nat"))
        listed.append(Quantity(f"log1p_margin_{k}", "log1p_margin", k, "log nat"))
    return listed


def headline_quantities(listed: Sequence[Quantity], k: int) -> list[Quantity]:
    """List what is averaged over each group, too: more would grow with the number of groups."""
    names = ("advantage", "student_entropy", "teacher_entropy")
    return [q for q in listed if q.name in names or (q.k == k and "margin" in q.name)]


def token_columns(k_grid: Sequence[int]) -> list[pl.Expr]:
    """Give the columns of a batch that are averaged."""
    advantage = pl.col("teacher_logp") - pl.col("student_logp")
    columns = [
        advantage.alias("advantage"),
        advantage.cast(pl.Float64).pow(2).alias("advantage_squared"),
        pl.col("student_entropy", "teacher_entropy", "teacher_top_logp", "advantage_var"),
    ]
    for place, k in enumerate(k_grid):
        margin = pl.col("margin").arr.get(place)
        columns += [margin.alias(f"margin_{k}"), margin.log1p().alias(f"log1p_margin_{k}")]
        if k == OVERLAP_K:
            columns.append(pl.col("overlap").arr.get(place).alias("overlap"))
    return columns


class Summing:
    """Adds batches of tokens up to `Positions`."""

    def __init__(
        self,
        rollouts: pl.DataFrame,
        prompts: Prompts,
        listed: Sequence[Quantity],
        k: int,
        *,
        longest: int,
    ) -> None:
        """Take what the sums are over.

        Args:
            rollouts: All rollouts, with the columns of the splits.
            prompts: Their prompts.
            listed: The quantities.
            k: K of the headline margin.
            longest: Tokens of the longest response.
        """
        keyed = rollouts.select(*SPLITS).with_columns(prompt=prompts.code)
        self._cells = keyed.unique(maintain_order=True).with_row_index("cell")
        columns = ["prompt", *SPLITS]
        joined = keyed.join(self._cells, on=columns, nulls_equal=True, maintain_order="left")
        self._code = {"prompt": pl.Series(prompts.code), "cell": joined["cell"]}
        self._prompts, self._listed = prompts, listed
        self._headline = headline_quantities(listed, k)
        self._width = bin_width(longest, ABSOLUTE_BINS)
        self._sums: dict[str, list[pl.DataFrame]] = {"relative": [], "absolute": [], "cell": []}

    def add(self, batch: pl.DataFrame) -> None:
        """Add the tokens of a batch, with row, position, index, n_tokens and the quantities."""
        relative = (pl.col("index") * RELATIVE_BINS // pl.col("n_tokens")).cast(pl.Int64)
        absolute = (pl.col("index") // self._width).cast(pl.Int64)
        coded = batch.with_columns(
            prompt=self._code["prompt"][batch["row"]], cell=self._code["cell"][batch["row"]]
        )
        long_enough = coded.filter(pl.col("n_tokens") >= MIN_TOKENS)
        everything, headline = _sum_columns(self._listed), _sum_columns(self._headline)
        for name, frame, by, place, sums in (
            ("relative", long_enough, "prompt", relative, everything),
            ("absolute", coded, "prompt", absolute, everything),
            ("cell", long_enough, "cell", relative, headline),
        ):
            grouped = frame.group_by(
                pl.col(by).alias("of"), place.alias("bin"), maintain_order=True
            )
            self._sums[name].append(grouped.agg(sums))

    def positions(self) -> Positions:
        """Give all sums."""
        prompts, cells = self._prompts.count, self._cells.height
        return Positions(
            _spread(self._sums["relative"], self._listed, prompts, RELATIVE_BINS),
            _spread(self._sums["absolute"], self._listed, prompts, None),
            self._width,
            self._prompts,
            self._cells,
            _spread(self._sums["cell"], self._headline, cells, RELATIVE_BINS),
        )


def _sum_columns(listed: Sequence[Quantity]) -> list[pl.Expr]:
    names = [q.column for q in listed]
    return [
        *(pl.col(name).cast(pl.Float64).sum().alias(f"{name}_x") for name in names),
        *(pl.col(name).count().alias(f"{name}_m") for name in names),
        pl.col("advantage_squared").sum().alias("advantage_squared_x"),
    ]


def _spread(
    frames: Sequence[pl.DataFrame], listed: Sequence[Quantity], rows: int, bins: int | None
) -> Bins:
    """Put sums into arrays; with bins None, as many as there are tokens in."""
    sums = pl.concat(frames).group_by("of", "bin", maintain_order=True).agg(pl.all().sum())
    place = sums["of"].to_numpy().astype(np.int64), sums["bin"].to_numpy()
    shape = rows, int(place[1].max(initial=-1)) + 1 if bins is None else bins

    def array(columns: list[str]) -> Floats:
        filled = np.zeros((*shape, len(columns)))
        filled[place] = sums.select(columns).cast(pl.Float64).to_numpy()
        return filled

    return Bins(
        listed,
        array([f"{q.column}_x" for q in listed]),
        array([f"{q.column}_m" for q in listed]),
        array(["advantage_squared_x"])[..., 0],
    )
