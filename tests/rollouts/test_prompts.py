"""Prompts become what the model read, whatever a dump has left of them, and one cluster each."""

import json

import pytest

from opd_diag.errors import ModelError, OptionError, RolloutError
from opd_diag.rollouts import read_rollouts
from opd_diag.text.tokenizers import encode_prompt, render_chat

ASK = [{"role": "user", "content": "Add 3 and 4."}]
RULED = [{"role": "system", "content": "You add."}, *ASK]
IDS = {"prompt_token_ids": [5, 6], "response_token_ids": [7]}


def prompts(read) -> list[list[int]]:
    return read.table["prompt_token_ids"].to_list()


# --- Text with and without the chat template ------------------------------------------------------


@pytest.mark.parametrize("messages", [ASK, RULED])
def test_a_rendered_prompt_is_not_wrapped_again(lines, tmp_path, tiny_tokenizer, messages) -> None:
    row = {"prompt": render_chat(tiny_tokenizer, messages), "response": "So 7."}
    read = read_rollouts(lines(tmp_path / "a.jsonl", [row]), tokenizer=tiny_tokenizer)
    assert prompts(read) == [encode_prompt(tiny_tokenizer, messages)]
    assert read.report["retokenised"]["prompts_as_they_stand"] == 0


def test_a_rendered_prompt_with_the_chat_template_is_an_error(
    lines, tmp_path, tiny_tokenizer
) -> None:
    path = lines(tmp_path / "a.jsonl", [{"prompt": "<|start|>user\nHi<|end|>", "response": "So"}])
    with pytest.raises(RolloutError, match=r"a.jsonl:1: the prompt holds '<\|start\|>', .*"):
        read_rollouts(path, tokenizer=tiny_tokenizer, template="chat")
    raw = read_rollouts(path, tokenizer=tiny_tokenizer, template="raw")
    assert tiny_tokenizer.decode(prompts(raw)[0]) == "<|start|>user\nHi<|end|>"


def stripped_rows(tokenizer, **keys: object) -> dict[str, object]:
    text = tokenizer.decode(encode_prompt(tokenizer, RULED), skip_special_tokens=True)
    return {"prompt": text, **keys}


TEXT_FORMATS = {
    "generic": {"response": "So 7."},
    "trl": {"completion": "So 7.", "step": 1},
    "kdflow": {"output": "So 7."},
    "areal": {"completion": "So 7.", "seqlen": 20, "prompt_len": 10},
}


@pytest.mark.parametrize("name", TEXT_FORMATS)
def test_every_text_format_gets_its_special_tokens_back(
    lines, tmp_path, tiny_tokenizer, name
) -> None:
    path = lines(tmp_path / "a.jsonl", [stripped_rows(tiny_tokenizer, **TEXT_FORMATS[name])])
    read = read_rollouts(path, tokenizer=tiny_tokenizer)
    assert read.report["format"] == name
    assert prompts(read) == [encode_prompt(tiny_tokenizer, RULED)]
    assert read.report["retokenised"]["prompts_restored"] == 1
    assert read.report["retokenised"]["prompts_without_markers"] == 0


def test_a_prompt_that_has_lost_its_markers_for_good_is_counted(
    lines, tmp_path, tiny_tokenizer
) -> None:
    row = {"prompt": "user\nAdd 3 and 4.\nassistant\nHm\n\nassistant", "response": "So 7."}
    row["prompt"] = "user\nAdd 3 and 4."  # cut: the template does not write this
    read = read_rollouts(lines(tmp_path / "a.jsonl", [row]), tokenizer=tiny_tokenizer)
    assert read.report["retokenised"]["prompts_without_markers"] == 1
    assert prompts(read) == [tiny_tokenizer(row["prompt"])["input_ids"]]


def test_a_bare_question_is_one_user_turn(lines, tmp_path, tiny_tokenizer) -> None:
    path = lines(tmp_path / "a.jsonl", [{"prompt": "Add 3 and 4.", "response": "So 7."}])
    assert prompts(read_rollouts(path, tokenizer=tiny_tokenizer)) == [
        encode_prompt(tiny_tokenizer, ASK)
    ]


# --- Prompt ids -----------------------------------------------------------------------------------


def test_one_prompt_under_several_ids_is_one_cluster(lines, tmp_path) -> None:
    names = ["a", "b", "c", "a", None]
    ids = [[5, 6], [5, 6], [7], [8], [8]]
    rows = [IDS | {"prompt_id": n, "prompt_token_ids": i} for n, i in zip(names, ids, strict=True)]
    read = read_rollouts(lines(tmp_path / "a.jsonl", rows))
    # b stands for the prompt of a; a stands for two prompts; the last one is that of a, too.
    assert read.table["prompt_id"].to_list() == ["a", "a", "c", "a", "a"]
    assert read.table["sample"].to_list() == [0, 1, 0, 2, 3]
    assert read.report["prompt_ids"] == {"merged": 1, "shared": 1}
    assert read.report["prompts"] == 2


def test_clusters_are_joined_through_the_prompts_that_they_share(lines, tmp_path) -> None:
    names, ids = ["a", "b", "b", "c", "c"], [[1], [2], [3], [3], [1]]
    rows = [IDS | {"prompt_id": n, "prompt_token_ids": i} for n, i in zip(names, ids, strict=True)]
    read = read_rollouts(lines(tmp_path / "a.jsonl", rows))
    assert read.table["prompt_id"].n_unique() == 1
    assert read.report["prompt_ids"] == {"merged": 2, "shared": 2}


def test_ids_that_stand_for_one_prompt_each_stay(lines, tmp_path) -> None:
    rows = [IDS | {"prompt_id": str(n), "prompt_token_ids": [n]} for n in (1, 2, 2, 1)]
    read = read_rollouts(lines(tmp_path / "a.jsonl", rows))
    assert read.table["prompt_id"].to_list() == ["1", "2", "2", "1"]
    assert read.report["prompt_ids"] == {"merged": 0, "shared": 0}


def test_the_sample_is_taken_off_the_uid_of_verl(lines, tmp_path, tiny_tokenizer) -> None:
    uuid = "0b9f6f0e-6a7e-4a52-9a0c-1f2e3d4c5b6a"
    row = {"output": "So 7.", "score": 1.0, "step": 7}
    rows = [
        row | {"input": f"user\nAdd {prompt}.\nassistant\n", "uid": uuid[:-1] + f"{prompt}_0_{n}"}
        for prompt in range(6)
        for n in range(4)
    ]
    read = read_rollouts(lines(tmp_path / "7.jsonl", rows), tokenizer=tiny_tokenizer)
    assert read.report["format"] == "verl"
    assert read.report["prompts"] == 6
    assert read.table["sample"].to_list() == [0, 1, 2, 3] * 6
    assert set(read.table["prompt_id"]) == {uuid[:-1] + str(prompt) for prompt in range(6)}
    assert read.report["prompt_ids"] == {"merged": 0, "shared": 0}


# --- The teacher's prompts ------------------------------------------------------------------------


def teacher(read) -> list[list[int] | None]:
    return read.table["teacher_prompt_token_ids"].to_list()


def test_a_system_turn_for_the_teacher_in_every_way_a_prompt_is_held(
    lines, tmp_path, tiny_tokenizer
) -> None:
    ids = encode_prompt(tiny_tokenizer, RULED)
    held = [
        {"prompt": RULED},
        {"prompt": render_chat(tiny_tokenizer, RULED)},
        {"prompt": tiny_tokenizer.decode(ids, skip_special_tokens=True)},
        {"prompt_token_ids": ids},
    ]
    rows = [{"response": "So 7."} | row for row in held] + [{"prompt": ASK, "response": "So"}]
    path = lines(tmp_path / "a.jsonl", rows)
    read = read_rollouts(path, tokenizer=tiny_tokenizer, teacher_system="The sum is 7.")
    expected = encode_prompt(tiny_tokenizer, [{"role": "system", "content": "The sum is 7."}, *ASK])
    assert teacher(read) == [expected] * 5
    assert read.report["teacher_prompts"] == 5
    assert prompts(read)[:4] == [ids] * 4


def test_a_prompt_that_is_no_chat_takes_no_system_turn(lines, tmp_path, tiny_tokenizer) -> None:
    row = {"prompt_token_ids": tiny_tokenizer("Add 3")["input_ids"], "response_token_ids": [30]}
    path = lines(tmp_path / "a.jsonl", [row])
    with pytest.raises(RolloutError, match="a.jsonl:1: the prompt is not what the chat template"):
        read_rollouts(path, tokenizer=tiny_tokenizer, teacher_system="x")
    with pytest.raises(RolloutError, match="expected a tokenizer"):
        read_rollouts(path, teacher_system="x")


def test_the_teachers_prompts_come_from_a_file(lines, tmp_path, tiny_tokenizer) -> None:
    rows = [
        {"id": "x", "prompt": "Add 3 and 4.", "response": "So 7."},
        {"id": "y", "prompt_id": "p", "prompt": "Add 1 and 4.", "response": "So 5."},
        {"id": "z", "prompt": "Add 1 and 1.", "response": "So 2."},
    ]
    path = lines(tmp_path / "a.jsonl", rows)
    given = [
        {"id": "x", "teacher_prompt": "Add 3 and 4. It is 7."},
        {"prompt_id": "p", "teacher_prompt_token_ids": [5, 6]},
        {"id": "other", "teacher_prompt": "unused"},
    ]
    file = lines(tmp_path / "teacher" / "prompts.jsonl", given)
    read = read_rollouts(path, tokenizer=tiny_tokenizer, teacher_prompts=file)
    first = encode_prompt(tiny_tokenizer, "Add 3 and 4. It is 7.")
    assert teacher(read) == [first, [5, 6], None]
    assert read.report["teacher_prompts"] == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "other", "teacher_prompt": "x"}], "prompts for none of the 1 rollouts"),
        ([{"teacher_prompt": "x"}], "line 1: no id and no prompt_id; expected one of them"),
        ([{"id": "x"}], "line 1: no prompt; expected teacher_prompt or teacher_prompt_token"),
        ([{"id": "x", "teacher_prompt": "a"}] * 2, "line 2: id 'x' once more"),
        (["x"], "line 1: no id"),
    ],
)
def test_a_bad_file_of_teachers_prompts_is_one_error(
    lines, tmp_path, tiny_tokenizer, rows, message
) -> None:
    path = lines(tmp_path / "a.jsonl", [{"id": "x", "prompt": "Add 3", "response": "So"}])
    file = lines(tmp_path / "teacher.jsonl", rows)
    with pytest.raises(RolloutError, match=message):
        read_rollouts(path, tokenizer=tiny_tokenizer, teacher_prompts=file)


def test_two_ways_to_give_the_teacher_prompts_exclude_each_other(lines, tmp_path) -> None:
    path = lines(tmp_path / "a.jsonl", [IDS])
    with pytest.raises(OptionError, match="teacher_system: beside teacher_prompts"):
        read_rollouts(path, teacher_system="x", teacher_prompts=path)
    with pytest.raises(RolloutError, match="no.jsonl: no such file; expected the teacher's"):
        read_rollouts(path, teacher_prompts=tmp_path / "no.jsonl")


def test_a_template_without_system_turns_is_an_error(lines, tmp_path, metaspace_tokenizer) -> None:
    path = lines(tmp_path / "a.jsonl", [{"prompt": ASK, "response": "th"}])
    with pytest.raises(ModelError, match="chat template"):
        read_rollouts(path, tokenizer=metaspace_tokenizer, teacher_system="x")


def test_the_tokens_in_the_loss_are_counted(lines, tmp_path) -> None:
    rows = [IDS, IDS | {"response_token_ids": [7, 8, 9], "loss_mask": [1, 0, 1]}]
    report = read_rollouts(lines(tmp_path / "a.jsonl", rows)).report
    assert (report["response_tokens"], report["loss_tokens"]) == (4, 3)
    assert json.loads(json.dumps(report)) == report
