"""Random token and rollouts tables: valid ones with odd values, and ones that break a rule."""

from collections.abc import Callable

import numpy as np
import polars as pl
from hypothesis import strategies as st

from opd_diag.datasets import null_run
from opd_diag.tables.columns.tokens import TOKENS

K = (2, 4, 16)
MEASURED = [column.name for column in TOKENS if column.nullable]
Tables = tuple[pl.DataFrame, pl.DataFrame]
Change = Callable[[Tables, np.random.Generator], Tables]


def _some(n: int, rng: np.random.Generator, share: float = 0.2) -> pl.Series:
    return pl.Series(rng.random(n) < share)


def nulls(tables: Tables, rng: np.random.Generator) -> Tables:
    """Rows whose logits were not finite."""
    tokens, rollouts = tables
    missing = _some(tokens.height, rng, float(rng.choice([0.01, 0.5, 1.0])))
    blank = [pl.when(~missing).then(pl.col(name)).alias(name) for name in MEASURED]
    return tokens.with_columns(blank), rollouts


def null_values(tables: Tables, rng: np.random.Generator) -> Tables:
    """A measured column without most of its values."""
    tokens, rollouts = tables
    name = str(rng.choice(MEASURED))
    return tokens.with_columns(pl.when(_some(tokens.height, rng)).then(pl.col(name))), rollouts


def constant(tables: Tables, rng: np.random.Generator) -> Tables:
    """Columns of one value, such as the KL of a model from itself."""
    tokens, rollouts = tables
    floats = [name for name in MEASURED if tokens.schema.get(name) == pl.Float32]
    names = rng.choice(floats, 1 + int(rng.integers(len(floats))), replace=False)
    value = float(rng.choice([0.0, 1e-38, 50.0, -50.0]))
    return tokens.with_columns(pl.lit(value, pl.Float32).alias(name) for name in names), rollouts


def out_of_loss(tables: Tables, rng: np.random.Generator) -> Tables:
    """Few tokens count, or none."""
    tokens, rollouts = tables
    kept = _some(tokens.height, rng, float(rng.choice([0.0, 0.02, 0.5])))
    return tokens.with_columns(kept.alias("in_loss")), rollouts


def no_outcomes(tables: Tables, rng: np.random.Generator) -> Tables:
    """Nobody knows what was right, or all was."""
    tokens, rollouts = tables
    value = rng.choice([None, True, False])
    return tokens, rollouts.with_columns(pl.lit(value, pl.Boolean).alias("correct"))


def short(tables: Tables, rng: np.random.Generator) -> Tables:
    """Rollouts cut to a few tokens, some of them to none."""
    tokens, rollouts = tables
    length = (pl.col("rollout") + int(rng.integers(4))) % 4
    return tokens.filter(pl.col("position") < length), rollouts


def one_type(tables: Tables, rng: np.random.Generator) -> Tables:
    """Every token is the same."""
    tokens, rollouts = tables
    return tokens.with_columns(pl.lit(int(rng.integers(5)), pl.Int32).alias("token_id")), rollouts


def ties(tables: Tables, rng: np.random.Generator) -> Tables:
    """Values that are rounded to a few levels."""
    tokens, rollouts = tables
    return tokens.with_columns(pl.col(pl.Float32).round(0)), rollouts


def no_column(tables: Tables, rng: np.random.Generator) -> Tables:
    """A column is missing."""
    tokens, rollouts = tables
    if rng.random() < 0.7:
        return tokens.drop(str(rng.choice(tokens.columns))), rollouts
    return tokens, rollouts.drop(str(rng.choice(rollouts.columns)))


def other_dtype(tables: Tables, rng: np.random.Generator) -> Tables:
    """A column has another dtype."""
    tokens, rollouts = tables
    change = rng.choice(["String", "Float64", "Boolean", "List"])
    name = str(rng.choice(tokens.columns))
    if change == "List":
        return tokens.with_columns(pl.concat_list(pl.lit(1)).alias(name)), rollouts
    value = pl.lit("x") if change == "String" else pl.lit(1)
    return tokens.with_columns(value.cast(getattr(pl, str(change))).alias(name)), rollouts


def not_a_number(tables: Tables, rng: np.random.Generator) -> Tables:
    """A measured column holds NaN or an infinity."""
    tokens, rollouts = tables
    name = str(rng.choice([n for n in MEASURED if tokens.schema.get(n) == pl.Float32]))
    value = pl.lit(float(rng.choice([np.nan, np.inf, -np.inf])), pl.Float32)
    bad = pl.when(_some(tokens.height, rng)).then(value).otherwise(pl.col(name))
    return tokens.with_columns(bad.alias(name)), rollouts


def null_keys(tables: Tables, rng: np.random.Generator) -> Tables:
    """A key is missing somewhere."""
    tokens, rollouts = tables
    name = str(rng.choice([column.name for column in TOKENS if not column.nullable]))
    return tokens.with_columns(pl.when(~_some(tokens.height, rng)).then(pl.col(name))), rollouts


def doubled(tables: Tables, rng: np.random.Generator) -> Tables:
    """Rows stand twice."""
    tokens, rollouts = tables
    if rng.random() < 0.5:
        return pl.concat([tokens, tokens.head(3)]), rollouts
    return tokens, pl.concat([rollouts, rollouts.head(1)])


def lost(tables: Tables, rng: np.random.Generator) -> Tables:
    """Rows are missing: tokens of one checkpoint, or rollouts that tokens belong to."""
    tokens, rollouts = tables
    if rng.random() < 0.5:
        return tokens.filter(~_some(tokens.height, rng)), rollouts
    return tokens, rollouts.filter(~_some(rollouts.height, rng))


def shuffled(tables: Tables, rng: np.random.Generator) -> Tables:
    """Rows stand in another order."""
    tokens, rollouts = tables
    return tokens.sample(fraction=1, shuffle=True, seed=int(rng.integers(99))), rollouts


def empty(tables: Tables, rng: np.random.Generator) -> Tables:
    """No rows."""
    tokens, rollouts = tables
    return (tokens.clear(), rollouts) if rng.random() < 0.5 else (tokens, rollouts.clear())


ODD: tuple[Change, ...] = (
    *(nulls, null_values, constant, out_of_loss, no_outcomes, short, one_type, ties),
)
WRONG: tuple[Change, ...] = (
    *(no_column, other_dtype, not_a_number, null_keys, doubled, lost, shuffled, empty),
)


@st.composite
def tables(draw: st.DrawFn, changes: tuple[Change, ...] = (*ODD, *WRONG)) -> Tables:
    """A small run in memory, changed up to three times."""
    seed = draw(st.integers(0, 2**32 - 1))
    run = null_run(
        prompts=draw(st.integers(1, 8)),
        samples=draw(st.integers(1, 3)),
        tokens=draw(st.sampled_from([1, 2, 17, 80])),
        types=draw(st.sampled_from([16, 40, 300])),
        checkpoints=("a", "b")[: draw(st.integers(1, 2))],
        k_grid=K,
        seed=seed,
    )
    made = (run.tokens, run.rollouts)
    rng = np.random.default_rng([seed, 1])
    for change in draw(st.lists(st.sampled_from(changes), max_size=3)):
        try:
            made = change(made, rng)
        except pl.exceptions.PolarsError:  # the column to change is gone already
            continue
    return made
