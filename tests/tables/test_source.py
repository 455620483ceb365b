import polars as pl
import pytest

from opd_diag.errors import TableError
from opd_diag.tables.source import as_source, choose_checkpoints, choose_rollouts

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


def test_tokens_come_out_in_order_whatever_the_row_order() -> None:
    first, last = tokens("a", [1.0, 2.0, 3.0]), tokens("b", [0.1, 0.2, 0.3])
    mixed = pl.concat([first, last]).sample(fraction=1.0, shuffle=True, seed=3)
    source = as_source(mixed, ROLLOUTS)
    for name, side in (("a", first), ("b", last)):
        kl = source.tokens(name).collect()["reverse_kl"]
        assert kl.to_list() == side["reverse_kl"].to_list()
    order = source.tokens().select("checkpoint", "rollout", "position").collect()
    names = list(source.checkpoints)
    assert order.rows() == [(name, r, p) for name in names for r, p in ((0, 0), (0, 1), (1, 0))]


@pytest.mark.parametrize(
    ("last", "what"),
    [
        (tokens("b", [0.0] * 3, ids=(7, 8, 1)), "token_id"),
        (tokens("b", [0.0] * 3)[:2], "rollout, position"),
        (tokens("b", [0.0] * 3).with_columns(in_loss=pl.lit(True)), "in_loss"),
        (tokens("b", [0.0] * 3).with_columns(position=pl.Series([0, 2, 0])), "position"),
    ],
    ids=["other token", "row missing", "other loss mask", "other position"],
)
def test_other_tokens_are_refused(last: pl.DataFrame, what: str) -> None:
    message = f"checkpoints 'a' and 'b' differ in .*{what}.*; expected the same tokens, one to one"
    with pytest.raises(TableError, match=message):
        as_source(pl.concat([tokens("a", [0.0] * 3), last]), ROLLOUTS)


@pytest.mark.parametrize("copies", [1, 2])
def test_a_token_that_occurs_twice_is_refused(copies: int) -> None:
    both = [tokens("a", [0.0] * 3), tokens("b", [0.0] * 3)]
    with pytest.raises(TableError, match="occurs twice"):
        as_source(pl.concat(both + both[:copies]), ROLLOUTS)


def test_a_table_without_token_ids_will_do_where_none_are_read() -> None:
    bare = pl.concat([tokens("a", [0.5] * 3), tokens("b", [0.5] * 3)]).drop("token_id", "in_loss")
    source = as_source(bare, ROLLOUTS)
    assert source.tokens("b").select("reverse_kl").collect().height == 3


def test_checkpoints_come_in_the_order_of_the_source_or_as_asked() -> None:
    source = as_source(pl.concat([tokens("b", [0.0] * 3), tokens("a", [0.0] * 3)]), ROLLOUTS)
    assert choose_checkpoints(source) == ("b", "a")
    assert choose_checkpoints(source, ["a", "b"]) == ("b", "a")
    assert choose_checkpoints(source, ["a", "b"], as_asked=True) == ("a", "b")
    with pytest.raises(TableError, match="checkpoint: a, a; expected each name once"):
        choose_checkpoints(source, ["a", "a"], as_asked=True)
    assert choose_checkpoints(source, "a") == ("a",)
    with pytest.raises(TableError, match="no 'c'; expected one of b, a"):
        choose_checkpoints(source, ["c"])
    with pytest.raises(TableError, match="no checkpoint 'c'; expected one of b, a"):
        source.tokens("c")


def test_tokens_alone_are_refused() -> None:
    with pytest.raises(TableError, match="no rollouts table beside it"):
        as_source(tokens("a", [0.0] * 3))


def test_rollouts_are_chosen_by_policy_step_and_group() -> None:
    table = pl.DataFrame(
        {
            "rollout": [3, 1, 2],
            "policy": ["a", "b", "b"],
            "step": [0, 0, 1],
            "group": ["x", "x", "y"],
        }
    )
    assert choose_rollouts(table)["rollout"].to_list() == [1, 2, 3]
    assert choose_rollouts(table, group="x")["rollout"].to_list() == [1, 3]
    assert choose_rollouts(table, policy="b", step=1, group="y")["rollout"].to_list() == [2]
    with pytest.raises(TableError, match="group: no rollouts of 'z'; expected one of x, y"):
        choose_rollouts(table, group="z")
    assert choose_rollouts(table.drop("group"))["group"].null_count() == 3
