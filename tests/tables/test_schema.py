import polars as pl
import pytest

from opd_diag.errors import TableError
from opd_diag.tables.columns.rollouts import ROLLOUTS, VOCAB
from opd_diag.tables.columns.tokens import TOKENS, token_columns
from opd_diag.tables.schema import Column, check_table, describe, empty_table

COLUMNS = (
    Column("name", pl.String, "-", "A name.", nullable=False),
    Column("x", pl.Float32, "nat", "A number."),
    Column("per_k", pl.Array(pl.Float32, 2), "nat", "Two numbers."),
    Column("many", pl.List(pl.Float32), "nat", "Some numbers."),
)


def table(**changed: object) -> pl.DataFrame:
    values: dict[str, object] = {
        "name": ["a", "b"],
        "x": [1.0, None],
        "per_k": [[1.0, None], None],
        "many": [[1.0], []],
    }
    schema = {column.name: column.dtype for column in COLUMNS}
    return pl.DataFrame(values | changed, schema=schema)


def test_a_good_table_comes_back_in_column_order() -> None:
    shuffled = table().select("many", "x", "name", "per_k")
    assert check_table(shuffled, COLUMNS, "t").columns == ["name", "x", "per_k", "many"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": ["a", None]}, "column 'name' has 1 null values; expected none"),
        ({"x": [1.0, float("nan")]}, "column 'x' has 1 NaN values"),
        ({"per_k": [[1.0, float("nan")], None]}, "column 'per_k' has 1 NaN values"),
        ({"many": [[1.0, float("nan")], []]}, "column 'many' has 1 NaN values"),
    ],
)
def test_bad_values_are_named(changed: dict[str, object], message: str) -> None:
    with pytest.raises(TableError, match="^t: ") as raised:
        check_table(table(**changed), COLUMNS, "t")
    assert message in str(raised.value)


def test_all_schema_faults_are_told_at_once() -> None:
    frame = table().drop("x").with_columns(pl.lit(1).alias("extra"), pl.lit(2).alias("name"))
    with pytest.raises(TableError) as raised:
        check_table(frame, COLUMNS, "t")
    text = str(raised.value)
    assert "no column 'x'; expected Float32" in text
    assert "column 'extra' is not in the schema" in text
    assert "column 'name' is Int32; expected String" in text


@pytest.mark.parametrize("columns", [ROLLOUTS, VOCAB, TOKENS, token_columns((2, 4))])
def test_every_column_has_a_unit_and_a_meaning(columns: tuple[Column, ...]) -> None:
    for column in columns:
        assert column.unit
        assert column.meaning.endswith((".", ")"))
    assert check_table(empty_table(columns), columns, "t").is_empty()


def test_a_description_has_a_line_for_each_column() -> None:
    text = describe(COLUMNS)
    assert "| `x` | Float32? | nat | A number. |" in text
    assert len(text.splitlines()) == 2 + len(COLUMNS)
