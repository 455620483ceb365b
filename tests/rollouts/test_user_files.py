"""Files as users have them: compressed, in a trainer's folder, under other keys, several turns."""

import gzip
import json

import polars as pl
import pytest

from opd_diag.errors import OptionError, RolloutError
from opd_diag.rollouts import read_rollouts
from opd_diag.rollouts.files import read_rows
from opd_diag.text.tokenizers import encode_prompt, render_chat

EXACT = {"prompt_token_ids": [5, 6], "response_token_ids": [7, 8, 9]}
TURNS = [
    {"role": "user", "content": "Add 3 and 4."},
    {"role": "assistant", "content": "So 7."},
    {"role": "user", "content": "And 5?"},
    {"role": "assistant", "content": "Then 12."},
]


# --- Files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".ndjson", ".csv"])
@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_compressed_texts_read_as_the_others(tmp_path, suffix, packed) -> None:
    if suffix == ".csv":
        row = {key: json.dumps(value) for key, value in EXACT.items()} | {"id": "ä"}
        text = pl.DataFrame([row]).write_csv()
    else:
        text = json.dumps(EXACT | {"id": "ä"}) + "\n"
    plain = tmp_path / f"a{suffix}"
    plain.write_text(text)
    path = tmp_path / "packed" / f"a{suffix}.{packed}"
    path.parent.mkdir()
    if packed == "gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        compress_lines(plain, path)
    read, expected = read_rollouts(path).table, read_rollouts(plain).table
    assert read.drop("source").equals(expected.drop("source"))
    assert read_rollouts(tmp_path / "packed").table.height == 1


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json", "a.csv"])
def test_a_line_ends_with_a_line_feed_alone(tmp_path, name) -> None:
    """Other line breaks, which JSON need not escape, stay in the text."""
    asked = "one\u2028two\u2029three\x85four"
    rows = [{"prompt": asked, "response": "5"}, {"prompt": "next", "response": "6"}]
    path, plain = tmp_path / name, tmp_path / "plain"
    if name == "a.csv":
        pl.DataFrame(rows).write_csv(path)
    else:
        plain.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        if name.endswith(".zst"):
            compress_lines(plain, path)
        else:
            pack = gzip.compress if name.endswith(".gz") else bytes
            path.write_bytes(pack(plain.read_bytes()))
    assert [row["prompt"] for _, row in read_rows(path)] == [asked, "next"]


def compress_lines(plain, path) -> None:
    """Write the lines of a file as they are with zstd, which polars alone brings along."""
    lines = pl.scan_csv(plain, has_header=False, separator="\x1f", quote_char=None)
    lines.sink_csv(
        path, include_header=False, separator="\x1f", quote_style="never", compression="zstd"
    )


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.csv.gz", "a.json.zst"])
def test_damaged_compressed_files_are_one_error(tmp_path, name) -> None:
    whole = gzip.compress(json.dumps(EXACT).encode() * 50)
    for content in (b"no archive", whole[:40], whole[:30] + b"xxxx" + whole[34:]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RolloutError) as caught:
            read_rollouts(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))


def test_the_dumps_are_taken_out_of_a_trainers_folder(
    lines, tmp_path, make, tiny_tokenizer
) -> None:
    make("trl", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    (tmp_path / "trainer_state.json").write_text("{")
    (tmp_path / "notes.jsonl").touch()
    (tmp_path / "optimizer.pt").write_bytes(b"no pickle")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    read = read_rollouts(tmp_path, tokenizer=tiny_tokenizer)
    assert read.report["format"] == "trl"
    assert [file["rollouts"] for file in read.report["files"]] == [2]
    reasons = {path.rsplit("/")[-1]: reason for path, reason in read.report["left_out"].items()}
    assert reasons["config.json"] == "no known format"
    assert reasons["notes.jsonl"] == "empty"
    assert reasons["trainer_state.json"].startswith("not JSON")
    assert "trust_pickle" in reasons["optimizer.pt"]
    assert "model.safetensors" not in reasons


def test_a_format_takes_its_own_files_out_of_a_folder(
    lines, tmp_path, make, tiny_tokenizer
) -> None:
    make("trl", tmp_path)
    lines(tmp_path / "ours.jsonl", [EXACT])
    with pytest.raises(RolloutError, match="one format in a call .--format takes the files"):
        read_rollouts(tmp_path, tokenizer=tiny_tokenizer)
    trl = read_rollouts(tmp_path, tokenizer=tiny_tokenizer, format="trl")
    assert trl.table.height == 2
    (reason,) = trl.report["left_out"].values()
    assert reason == "not in the format trl"
    assert read_rollouts(tmp_path / "ours.jsonl", format="generic").report["left_out"] == {}


def test_a_folder_without_dumps_says_what_lies_there(tmp_path) -> None:
    for name in "abcde":
        (tmp_path / f"{name}.json").write_text("{}")
    with pytest.raises(RolloutError) as caught:
        read_rollouts(tmp_path)
    told = str(caught.value)
    assert told.startswith(f"rollouts: no dump among 5 files: {tmp_path}/a.json (no known format)")
    assert told.endswith("and 2 more; expected at least one")


def test_a_named_file_is_never_left_out(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(RolloutError, match="no known format, its keys are model_type"):
        read_rollouts([tmp_path / "config.json"])


def test_one_id_in_several_files_is_told_apart_by_the_file(lines, tmp_path) -> None:
    rows = [EXACT | {"id": "0"}, EXACT | {"id": "1"}]
    files = [lines(tmp_path / f"{name}.jsonl", rows) for name in ("a", "b")]
    read = read_rollouts(files)
    assert read.table["rollout_id"].to_list() == [
        "a.jsonl:0",
        "a.jsonl:1",
        "b.jsonl:0",
        "b.jsonl:1",
    ]
    assert read_rollouts(files[0]).table["rollout_id"].to_list() == ["0", "1"]
    lines(files[0], [*rows, rows[0]])
    with pytest.raises(RolloutError, match="a.jsonl:3: id '0' is that of a.jsonl:1 too"):
        read_rollouts(files)


# --- Keys -----------------------------------------------------------------------------------------


def test_other_names_for_the_same_are_known(lines, tmp_path, tiny_tokenizer) -> None:
    rows = [{"prompt_ids": [5, 6], "completion_ids": [7, 8, 9], "logprob": 1.0}]
    read = read_rollouts(lines(tmp_path / "a.jsonl", rows))
    assert read.table["response_token_ids"].to_list() == [[7, 8, 9]]
    assert read.report["unknown_keys"] == {"logprob": 1}
    rows = [{"prompt": "Add 3 and 4.", "completion": "So 7."}]
    read = read_rollouts(lines(tmp_path / "a.jsonl", rows), tokenizer=tiny_tokenizer)
    assert tiny_tokenizer.decode(read.table["response_token_ids"][0]) == "So 7."
    own = EXACT | {"prompt_ids": [1], "response_ids": [1]}
    assert read_rollouts(lines(tmp_path / "a.jsonl", [own])).table["prompt_token_ids"][0][0] == 5


def test_keys_are_mapped_also_inside_objects(lines, tmp_path, tiny_tokenizer) -> None:
    row = {"question": "Add 3 and 4.", "out": [{"text": "So 7."}], "meta": {"score": 0.5}, "x.y": 3}
    keys = {"prompt": "question", "response": "out.0.text", "reward": "meta.score", "step": "x.y"}
    path = lines(tmp_path / "a.jsonl", [row, row | {"meta": {}}])
    read = read_rollouts(path, tokenizer=tiny_tokenizer, map=keys)
    assert tiny_tokenizer.decode(read.table["response_token_ids"][0]) == "So 7."
    assert read.table["reward"].to_list() == [0.5, None]
    assert read.table["step"].to_list() == [3, 3]
    assert read.report["map"] == keys
    assert "question" not in read.report["unknown_keys"]


def test_a_mapped_key_comes_before_what_the_format_reads(make, tmp_path, tiny_tokenizer) -> None:
    path = make("verl", tmp_path)
    read = read_rollouts(
        path, tokenizer=tiny_tokenizer, map={"policy": "request_id", "reward": "step"}
    )
    assert read.report["format"] == "verl"
    assert read.table["reward"].to_list() == [7.0, 7.0]
    assert read.table["policy"].to_list() == ["f00", "f00"]


def test_a_mapped_key_that_no_row_has_is_an_error(lines, tmp_path, tiny_tokenizer) -> None:
    path = lines(tmp_path / "a.jsonl", [EXACT, EXACT | {"meta": {"task": None}, "tags": ["x"]}])
    told = "map: no row has the key of {}; expected one of prompt_token_ids, response_token_ids, "
    for wrong in ("nokey", "meta.nokey", "tags.1", "meta.task.x"):
        with pytest.raises(RolloutError) as caught:
            read_rollouts(path, map={"group": wrong, "step": "meta.task"})
        assert str(caught.value).startswith(told.format(f"group={wrong}") + "meta, tags")
    for there in ("meta.task", "tags.0"):  # in one row, or null: a rollout without it is of none
        read_rollouts(path, map={"group": there})
    # What follows from it is told first.
    path = lines(tmp_path / "b.jsonl", [{"prompt": "Add 3 and 4.", "text": "So 7."}])
    with pytest.raises(RolloutError) as caught:
        read_rollouts(path, tokenizer=tiny_tokenizer, map={"response": "txt"})
    assert "line 1: no response" in str(caught.value)
    assert "(map: no row has the key of response=txt; expected one of prompt, text" in str(
        caught.value
    )


def test_mapped_keys_do_not_make_a_row_one_of_a_trainer(lines, tmp_path, tiny_tokenizer) -> None:
    """`prompt` and `output` would be KDFlow's, which has no `reward`."""
    rows = [{"input": "Add 3 and 4.", "output": "So 7.", "reward": 0.5}]
    path = lines(tmp_path / "a.jsonl", rows)
    keys = {"prompt": "input", "response": "output"}
    read = read_rollouts(path, tokenizer=tiny_tokenizer, map=keys)
    assert read.report["format"] == "generic"
    assert read.report["unknown_keys"] == {}
    assert read.table["reward"].to_list() == [0.5]
    turns = [{"messages": TURNS[:1], "text": "So 7."}]
    keys = {"prompt": "messages", "response": "text"}
    path = lines(tmp_path / "c.jsonl", turns)
    read = read_rollouts(path, tokenizer=tiny_tokenizer, map=keys)
    assert (read.report["format"], read.table.height) == ("generic", 1)


COMMON = {
    "prompt_id": "p",
    "step": 3,
    "policy": "step3",
    "reward": 0.5,
    "correct": True,
    "finish_reason": "length",
    "trained": False,
}
TEXTS = {"prompt": "Add 3 and 4.", "completion": "So 7."}


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("trl", TEXTS | {"step": 3}),
        ("kdflow", {"prompt": "Add 3 and 4.", "output": "So 7."}),
        ("vllm", {"prompt_token_ids": [5, 6], "outputs": [{"token_ids": [7, 8, 9]}]}),
        ("messages", {"messages": TURNS[:2]}),
        ("labels", {"input_ids": [5, 6, 7], "labels": [-100, -100, 7]}),
    ],
)
def test_generic_keys_are_read_in_every_format(lines, tmp_path, tiny_tokenizer, name, row) -> None:
    rows = [row | COMMON | {"id": number} for number in (1, 2)]
    read = read_rollouts(lines(tmp_path / "a.jsonl", rows), tokenizer=tiny_tokenizer)
    assert read.report["format"] == name
    assert read.report["unknown_keys"] == {}
    assert read.table["rollout_id"].to_list() == ["1", "2"]
    assert read.table.select(*COMMON).row(1, named=True) == COMMON


def test_generic_keys_with_another_meaning_are_left_out(lines, tmp_path, tiny_tokenizer) -> None:
    other = {"id": 4, "correct": "no", "reward": {"a": 1.0}, "finish_reason": ["x"]}
    path = lines(tmp_path / "a.jsonl", [TEXTS | {"step": 3} | other] * 2)
    read = read_rollouts(path, tokenizer=tiny_tokenizer)
    assert read.report["format"] == "trl"
    assert read.report["unknown_keys"] == dict.fromkeys(sorted(other), 2)
    assert read.table["rollout_id"].to_list() == ["a.jsonl:1", "a.jsonl:2"]
    assert read.table.select("reward", "correct", "finish_reason").null_count().row(0) == (2, 2, 2)


def test_a_value_beside_several_responses_holds_for_all_if_it_is_of_the_prompt(
    lines, tmp_path
) -> None:
    row = {"prompt_token_ids": [5, 6], "outputs": [{"token_ids": [7]}, {"token_ids": [8]}]}
    row |= {"prompt_id": "p", "reward": 1.0, "correct": [True, False]}
    read = read_rollouts(lines(tmp_path / "a.jsonl", [row]))
    assert read.table["prompt_id"].to_list() == ["p", "p"]
    assert read.table["correct"].to_list() == [True, False]
    assert read.table["reward"].to_list() == [None, None]
    assert read.report["unknown_keys"] == {"reward": 1}


def test_a_mapping_of_unknown_keys_is_refused(lines, tmp_path) -> None:
    path = lines(tmp_path / "a.jsonl", [EXACT])
    with pytest.raises(
        OptionError, match="map: solution; expected keys of prompt_token_ids, .*step"
    ):
        read_rollouts(path, map={"solution": "x"})
    with pytest.raises(RolloutError, match=r"told by map \(--map response=KEY\)"):
        read_rollouts(lines(tmp_path / "b.jsonl", [{"question": "x"}]))


def test_the_format_that_would_fit_is_named(make, tmp_path, tiny_tokenizer) -> None:
    path = make("areal", tmp_path)
    with pytest.raises(RolloutError, match="--format areal would fit, for its rows have seqlen"):
        read_rollouts(path, tokenizer=tiny_tokenizer, format="verl")


def test_labels_tell_the_response_from_the_prompt(lines, tmp_path) -> None:
    out = -100
    rows = [
        {"input_ids": [1, 2, 3, 4, 5], "labels": [out, out, 3, 4, 5]},
        {"input_ids": [0, 1, 2, 3, 4, 5], "labels": [out, out, 2, out, 4, out]},
        {"input_ids": [0, 0, 1, 2], "labels": [out, out, out, 2], "attention_mask": [0, 0, 1, 1]},
        {"input_ids": [1, 2], "labels": [out, out]},
    ]
    read = read_rollouts(lines(tmp_path / "a.jsonl", rows))
    assert read.report["format"] == "labels"
    assert read.table["prompt_token_ids"].to_list() == [[1, 2], [0, 1], [1]]
    assert read.table["response_token_ids"].to_list() == [[3, 4, 5], [2, 3, 4], [2]]
    assert read.table["loss_mask"].to_list() == [None, [True, False, True], None]
    assert read.report["skipped"] == {"no token in the loss": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"input_ids": [1, 2], "labels": [-100]}, "differ in length"),
        ({"input_ids": [1, 2], "labels": [-100, 3]}, "labels differ from input_ids"),
        ({"input_ids": [1, 2], "labels": [-100, 2], "attention_mask": 1}, "differ in length"),
        ({"input_ids": 1, "labels": [2]}, "input_ids is a number"),
    ],
)
def test_bad_labels_are_refused(lines, tmp_path, row, message) -> None:
    with pytest.raises(RolloutError, match=f"line 1: .*{message}"):
        read_rollouts(lines(tmp_path / "a.jsonl", [row]))


# --- Conversations --------------------------------------------------------------------------------


def spans(read, tokenizer, row: int = 0) -> list[tuple[bool, str]]:
    """The response cut where its loss mask changes, as text."""
    ids = read.table["response_token_ids"][row].to_list()
    mask = read.table["loss_mask"][row]
    flags = [True] * len(ids) if mask is None else mask.to_list()
    cut = [n for n in range(1, len(ids)) if flags[n] != flags[n - 1]]
    places = zip([0, *cut], [*cut, len(ids)], strict=True)
    return [(flags[a], tokenizer.decode(ids[a:b])) for a, b in places]


def test_turns_of_the_assistant_are_the_response_and_others_do_not_count(
    lines, tmp_path, tiny_tokenizer
) -> None:
    rows = [{"messages": TURNS, "finish_reason": "stop"}, {"messages": TURNS[:2]}]
    read = read_rollouts(lines(tmp_path / "a.jsonl", rows), tokenizer=tiny_tokenizer)
    assert read.report["format"] == "messages"
    assert (
        read.table["prompt_token_ids"].to_list() == [encode_prompt(tiny_tokenizer, TURNS[:1])] * 2
    )
    assert spans(read, tiny_tokenizer) == [
        (True, "So 7.<|end|>"),
        (False, "\n<|start|>user\nAnd 5?<|end|>\n<|start|>assistant\n"),
        (True, "Then 12.<|end|>"),
    ]
    assert spans(read, tiny_tokenizer, 1) == [(True, "So 7.")]
    whole = [*read.table["prompt_token_ids"][0], *read.table["response_token_ids"][0]]
    closed = render_chat(tiny_tokenizer, TURNS, answer=False)
    assert tiny_tokenizer.decode(whole) == closed.rstrip("\n")
    assert read.report["loss_tokens"] == sum(
        len(tiny_tokenizer(text)["input_ids"])
        for text in ("So 7.<|end|>", "Then 12.<|end|>", "So 7.")
    )


def test_other_chat_logs_are_known_by_their_keys(lines, tmp_path, tiny_tokenizer) -> None:
    said = [{"from": "human", "value": "Add 3 and 4."}, {"from": "gpt", "value": "So 7."}]
    log = lines(tmp_path / "a.jsonl", [{"conversations": said}, {"conversations": said[:1]}])
    read = read_rollouts(log, tokenizer=tiny_tokenizer)
    assert spans(read, tiny_tokenizer) == [(True, "So 7.")]
    assert read.report["skipped"] == {"no turn of the assistant": 1}
    choices = [
        {"message": TURNS[1], "finish_reason": "stop"},
        {"message": TURNS[3], "finish_reason": "length"},
    ]
    rows = [{"messages": TURNS[:1], "choices": choices}]
    read = read_rollouts(lines(tmp_path / "b.jsonl", rows), tokenizer=tiny_tokenizer)
    assert [spans(read, tiny_tokenizer, n) for n in (0, 1)] == [
        [(True, "So 7.<|end|>")],
        [(True, "Then 12.")],
    ]
    assert read.table["sample"].to_list() == [0, 1]


def test_a_response_of_several_turns_in_the_projects_own_keys(
    lines, tmp_path, tiny_tokenizer
) -> None:
    row = {"prompt": TURNS[:1], "response": TURNS[1:]}
    log = {"messages": TURNS}
    read, expected = (
        read_rollouts(lines(tmp_path / "a.jsonl", [one]), tokenizer=tiny_tokenizer).table
        for one in (row, log)
    )
    assert read.equals(expected)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": TURNS[:1], "response": TURNS[1:3]},
            "response starts or ends with another's turn",
        ),
        ({"prompt": "Add 3", "response": TURNS[1:]}, "response is messages beside a prompt"),
        ({"prompt": TURNS[:1], "response": []}, "response is a list"),
        ({"messages": [1]}, "no known format"),
        ({"messages": TURNS[:1], "choices": [1]}, "choices holds something else"),
        ({"messages": TURNS[1:]}, "prompt is a list"),
    ],
)
def test_conversations_that_do_not_fit_are_refused(
    lines, tmp_path, tiny_tokenizer, row, message
) -> None:
    with pytest.raises(RolloutError, match=message):
        read_rollouts(lines(tmp_path / "a.jsonl", [row]), tokenizer=tiny_tokenizer)


def test_a_template_that_rewrites_earlier_turns_is_refused(lines, tmp_path, tiny_tokenizer) -> None:
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content']", "(message['content'] if loop.last else '...')"
    )
    with pytest.raises(RolloutError, match="a.jsonl:1: the chat template rewrites earlier turns"):
        read_rollouts(lines(tmp_path / "a.jsonl", [{"messages": TURNS}]), tokenizer=tokenizer)
