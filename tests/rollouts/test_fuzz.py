"""Laws that hold for any input: what is written comes back, and nothing breaks but by one error."""

import contextlib
import copy
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opd_diag.errors import RolloutError
from opd_diag.rollouts import read_rollouts
from opd_diag.rollouts.files import read_rows
from opd_diag.tables.columns.rollouts import ROLLOUTS
from opd_diag.tables.schema import check_table

NAMES = (
    *("slime", "prime-rl", "nemo-rl", "vllm", "ta-opd", "verl"),
    *("trl", "ms-swift", "kdflow", "lm-eval", "areal", "labels", "messages"),
    *("verl-batch", "traces"),
)
# `make fuzz` takes so many times as many examples.
TIMES = int(os.environ.get("OPD_DIAG_FUZZ", "1"))
SHARED_FOLDER = settings(
    max_examples=60 * TIMES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

ids = st.lists(st.integers(0, 2**31 - 1), max_size=5)
names = st.none() | st.text(alphabet=st.characters(codec="utf-8"), max_size=5)
numbers = st.floats(-1e6, 1e6, width=32)


@st.composite
def rollouts(draw: st.DrawFn) -> dict[str, object]:
    response = draw(ids)
    n = len(response)
    per_token = {"min_size": n, "max_size": n}
    return {
        "prompt_id": draw(names),
        "step": draw(st.none() | st.integers(-(2**62), 2**62)),
        "policy": draw(names),
        "prompt_token_ids": draw(st.lists(st.integers(0, 99), min_size=1, max_size=3)),
        "response_token_ids": response,
        "teacher_prompt_token_ids": draw(st.none() | st.lists(st.integers(0, 99), min_size=1)),
        "loss_mask": draw(st.none() | st.lists(st.booleans(), **per_token)),
        "sampled_logp": draw(st.none() | st.lists(numbers, **per_token)),
        "finish_reason": draw(st.sampled_from([None, "stop", "length", "other"])),
        "reward": draw(st.none() | st.floats(allow_nan=False, allow_infinity=False)),
        "correct": draw(st.none() | st.booleans()),
        "answer": draw(names),
        "group": draw(names),
        "trained": draw(st.none() | st.booleans()),
        "trainer_teacher_logp": draw(st.none() | st.lists(st.none() | numbers, **per_token)),
        "trainer_top_id": draw(st.none() | st.lists(st.integers(0, 99), **per_token)),
        "trainer_top_mass": draw(st.none() | st.lists(numbers, **per_token)),
    }


@SHARED_FOLDER
@given(rows=st.lists(rollouts(), min_size=1, max_size=6))
def test_rollouts_written_as_lines_come_back_equal(lines, tmp_path, rows) -> None:
    read = read_rollouts(lines(tmp_path / "a.jsonl", rows))
    for key in rows[0]:
        told = [row[key] for row in rows]
        if key == "prompt_id":
            check_clusters(read.table[key].to_list(), told, [r["prompt_token_ids"] for r in rows])
        else:
            assert read.table[key].to_list() == told
    again = read.table.select("rollout_id", *rows[0]).rename({"rollout_id": "id"})
    second = read_rollouts(lines(tmp_path / "b.jsonl", again.to_dicts()))
    assert second.table.drop("source").equals(read.table.drop("source"))


def check_clusters(got: list[str], told: list[str | None], prompts: list[list[int]]) -> None:
    """Rollouts are in one cluster exactly if a chain of equal ids or equal prompts joins them."""
    links = [{("prompt", str(prompt))} for prompt in prompts]
    for link, name in zip(links, told, strict=True):
        link |= {("id", name)} if name is not None else set()
    joined = [{n} for n in range(len(got))]
    for a in range(len(got)):
        for b in range(a):
            if links[a] & links[b] and joined[a] is not joined[b]:
                joined[b] |= joined[a]
                for n in joined[a]:
                    joined[n] = joined[b]
    for a in range(len(got)):
        for b in range(a):
            assert (got[a] == got[b]) == (joined[a] is joined[b])
        names = {told[n] for n in joined[a]} - {None}
        assert not names or got[a] in names or told[min(joined[a])] is None


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """List the paths to all parts of a JSON value."""
    found = [path] if path else []
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in inside:
        if isinstance(part, dict | list):
            found += places(part, (*path, key))
        else:
            found.append((*path, key))
    return found


def change(rows: list[object], data: st.DataObject) -> None:
    """Replace or drop one part of the rows."""
    path = data.draw(st.sampled_from(places(rows)))
    parent = rows
    for key in path[:-1]:
        parent = parent[key]
    if data.draw(st.booleans()):
        parent[path[-1]] = data.draw(values)
    else:
        del parent[path[-1]]


def read_or_refuse(path: Path, tokenizer: object) -> None:
    read = None
    with contextlib.suppress(RolloutError):
        read = read_rollouts(path, tokenizer=tokenizer)
    if read is not None:
        check_table(read.table, ROLLOUTS, "rollouts")
        json.dumps(read.report, allow_nan=False)


@pytest.mark.parametrize("name", [*NAMES, "generic"])
def test_changed_dumps_give_a_table_or_one_error(make, tmp_path, tiny_tokenizer, name) -> None:
    if name == "generic":
        row = {"prompt_token_ids": [1, 2], "response_token_ids": [3], "reward": 1.0, "step": 1}
        text = {"prompt": [{"role": "user", "content": "Hi"}], "response": "So", "correct": True}
        rows = [row, text]
    else:
        path = make(name, tmp_path)
        path = next(path.rglob("*7/*.jsonl")) if path.is_dir() else path
        rows = [row for _, row in read_rows(path)]
    (tmp_path / "STABLE").touch()
    changed = tmp_path / "changed_7.jsonl"

    @settings(max_examples=50 * TIMES, deadline=None)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        mine = copy.deepcopy(rows)
        for _ in range(data.draw(st.integers(1, 3))):
            if places(mine):
                change(mine, data)
        text = "".join(json.dumps(row) + "\n" for row in mine)
        if data.draw(st.booleans()):
            text = text[: data.draw(st.integers(0, len(text)))]
        changed.write_text(text)
        read_or_refuse(changed, tiny_tokenizer)

    check()


@pytest.mark.parametrize("name", ["slime", "trl", "vllm", "ta-opd", "verl"])
def test_damaged_bytes_give_a_table_or_one_error(make, tmp_path, tiny_tokenizer, name) -> None:
    path = make(name, tmp_path)
    whole = path.read_bytes()

    @settings(max_examples=40 * TIMES, deadline=None)
    @given(st.integers(0, len(whole) - 1), st.binary(max_size=8), st.booleans())
    def check(at: int, put: bytes, cut: bool) -> None:
        path.write_bytes(whole[:at] + put + (b"" if cut else whole[at + len(put) :]))
        read_or_refuse(path, tiny_tokenizer)

    check()
