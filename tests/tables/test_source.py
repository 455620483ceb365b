import polars as pl
import pytest

from opd_diag.errors import TableError
from opd_diag.tables.source import as_source, choose_checkpoints, paired_tokens

ROLLOUTS = pl.DataFrame({"rollout": [0, 1]})


def tokens(checkpoint: str, kl: list[float], ids: tuple[int, ...] = (7, 8, 9)) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "checkpoint": checkpoint,
            "rollout": [0, 0, 1],
            "position": [0, 1, 0],
            "token_id": ids,
            "in_loss": [True, True, False],
            "reverse_kl": kl,
        }
    )


def test_two_checkpoints_stand_side_by_side_whatever_the_row_order() -> None:
    first, last = tokens("a", [1.0, 2.0, 3.0]), tokens("b", [0.1, 0.2, 0.3])
    source = as_source(pl.concat([first, last.reverse()]), ROLLOUTS)
    assert source.checkpoints == ("a", "b")
    pair = paired_tokens(source, "a", "b", ["reverse_kl"], shared=["in_loss"])
    assert pair.columns == [
        "rollout",
        "position",
        "token_id",
        "in_loss",
        "reverse_kl_first",
        "reverse_kl_last",
    ]
    assert pair["reverse_kl_first"].to_list() == [1.0, 2.0, 3.0]
    assert pair["reverse_kl_last"].to_list() == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    "last",
    [tokens("b", [0.0] * 3, ids=(7, 8, 1)), tokens("b", [0.0] * 3)[:2]],
    ids=["other token", "row missing"],
)
def test_other_tokens_are_refused(last: pl.DataFrame) -> None:
    source = as_source(pl.concat([tokens("a", [0.0] * 3), last]), ROLLOUTS)
    with pytest.raises(TableError, match="expected the same tokens, one to one"):
        paired_tokens(source, "a", "b", ["reverse_kl"])


def test_a_token_that_occurs_twice_is_refused() -> None:
    both = [tokens("a", [0.0] * 3), tokens("b", [0.0] * 3)]
    source = as_source(pl.concat(both + both), ROLLOUTS)
    with pytest.raises(TableError, match="occurs twice"):
        paired_tokens(source, "a", "b", ["reverse_kl"])


def test_checkpoints_keep_the_order_of_the_source() -> None:
    source = as_source(pl.concat([tokens("b", [0.0] * 3), tokens("a", [0.0] * 3)]), ROLLOUTS)
    assert choose_checkpoints(source) == ("b", "a")
    assert choose_checkpoints(source, ["a", "b"]) == ("b", "a")
    assert choose_checkpoints(source, "a") == ("a",)
    with pytest.raises(TableError, match="no 'c'; expected one of b, a"):
        choose_checkpoints(source, ["c"])


def test_tokens_alone_are_refused() -> None:
    with pytest.raises(TableError, match="no rollouts table beside it"):
        as_source(tokens("a", [0.0] * 3))
