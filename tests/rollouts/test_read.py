import json
import shutil

import polars as pl
import pytest

from opd_diag.cli.read_dump import notes
from opd_diag.errors import ModelError, OptionError, RolloutError
from opd_diag.rollouts import read_rollouts
from opd_diag.tables.rollouts import prompt_halves
from opd_diag.text.tokenizers import encode_prompt

EXACT = {"prompt_token_ids": [5, 6], "response_token_ids": [7, 8, 9]}
TEXT = {"prompt": "Add 3 and 4.", "response": "So 7."}


def refusal(path: object, **options: object) -> str:
    with pytest.raises(RolloutError) as caught:
        read_rollouts(path, **options)
    return str(caught.value)


def test_all_keys_arrive(lines, tmp_path) -> None:
    row = EXACT | {
        "id": 3,
        "prompt_id": "p",
        "step": 2,
        "policy": "step2",
        "reward": 1,
        "correct": 1,
        "finish_reason": "eos",
        "loss_mask": [1, 0, 1],
        "sampled_logp": [-1, -0.5, 0.0],
        "teacher_prompt_token_ids": [4, 5, 6],
        "answer": 7,
        "group": "adding",
        "trained": False,
        "trainer_teacher_logp": [-2, None, 0.0],
        "trainer_top_id": [9, 8, 7],
        "trainer_top_mass": [0.5, 1, 0.25],
    }
    path = lines(tmp_path / "a.jsonl", [row])
    got = read_rollouts(path).table.row(0, named=True)
    assert got == EXACT | {
        "rollout": 0,
        "rollout_id": "3",
        "prompt_id": "p",
        "half": 0,
        "sample": 0,
        "step": 2,
        "policy": "step2",
        "teacher_prompt_token_ids": [4, 5, 6],
        "loss_mask": [True, False, True],
        "sampled_logp": [-1.0, -0.5, 0.0],
        "finish_reason": "stop",
        "reward": 1.0,
        "correct": True,
        "token_exact": True,
        "source": str(path),
        "source_row": 1,
        "answer": "7",
        "group": "adding",
        "trained": False,
        "trainer_teacher_logp": [-2.0, None, 0.0],
        "trainer_top_id": [9, 8, 7],
        "trainer_top_mass": [0.5, 1.0, 0.25],
    }


def test_ids_samples_and_empty_responses(lines, tmp_path) -> None:
    rows = [EXACT, EXACT | {"response_token_ids": []}, EXACT | {"prompt_token_ids": [1]}, EXACT]
    rows[3] = rows[3] | {"step": 1}
    read = read_rollouts(lines(tmp_path / "a.jsonl", rows))
    assert read.table["rollout_id"].to_list() == [f"a.jsonl:{n}" for n in (1, 2, 3, 4)]
    assert read.table["sample"].to_list() == [0, 1, 0, 0]
    prompts = read.table["prompt_id"].to_list()
    assert prompts[0] == prompts[1] == prompts[3] != prompts[2]
    assert read.table["half"].to_list()[0] != read.table["half"].to_list()[2]
    assert read.report["empty_responses"] == 1
    assert read.table["response_token_ids"][1].to_list() == []


def test_halves_are_equal_and_do_not_depend_on_the_order() -> None:
    names = [f"prompt {n}" for n in range(101)]
    halves = prompt_halves(names)
    assert sum(halves.values()) == 50
    assert prompt_halves(names[::-1] + names) == halves


def test_unknown_keys_are_left_out_counted_and_named(lines, tmp_path) -> None:
    rows = [EXACT | {"advantage": 1.0}, EXACT | {"advantage": 2.0, "note": "x"}]
    read = read_rollouts(lines(tmp_path / "a.jsonl", rows))
    assert read.report["unknown_keys"] == {"advantage": 2, "note": 1}
    assert "advantage" not in read.table.columns


def test_files_are_read_in_the_order_of_their_numbers(lines, tmp_path) -> None:
    for step in (10, 2, 1):
        lines(tmp_path / f"step_{step}" / "dump.jsonl", [EXACT | {"step": step}])
    for paths in (tmp_path, str(tmp_path / "**" / "*.jsonl")):
        table = read_rollouts(paths).table
        assert table["step"].to_list() == [1, 2, 10]
        assert table["rollout_id"].n_unique() == 3
    given = [tmp_path / "step_10" / "dump.jsonl", tmp_path / "step_2" / "dump.jsonl"]
    assert read_rollouts(given).table["step"].to_list() == [10, 2]
    assert read_rollouts(tmp_path, limit=2).table["step"].to_list() == [1, 2]


def test_parquet_reads_as_the_lines_do(lines, tmp_path) -> None:
    rows = [EXACT | {"reward": 0.5, "loss_mask": [True, False, True]}, EXACT | {"reward": None}]
    path = lines(tmp_path / "a.jsonl", rows)
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    from_lines, from_parquet = (
        read_rollouts(p).table.drop("rollout_id", "source") for p in (path, tmp_path / "a.parquet")
    )
    assert from_lines.equals(from_parquet)


def test_text_is_tokenised_and_marked(lines, tmp_path, tiny_tokenizer) -> None:
    messages = [{"role": "user", "content": "Add 3 and 4."}]
    rows = [
        TEXT | {"finish_reason": "stop"},
        TEXT | {"prompt": messages, "finish_reason": "length"},
        TEXT | {"teacher_prompt": "Add 3 and 4. The answer is 7."},
        EXACT,
    ]
    read = read_rollouts(lines(tmp_path / "a.jsonl", rows), tokenizer=tiny_tokenizer)
    body = tiny_tokenizer("So 7.")["input_ids"]
    end = tiny_tokenizer.eos_token_id
    responses = read.table["response_token_ids"].to_list()
    assert responses == [[*body, end], body, body, EXACT["response_token_ids"]]
    chat = encode_prompt(tiny_tokenizer, "Add 3 and 4.")
    assert read.table["prompt_token_ids"].to_list()[:3] == [chat] * 3
    assert read.table["token_exact"].to_list() == [False, False, False, True]
    teacher = read.table["teacher_prompt_token_ids"].to_list()
    assert teacher[:2] == [None, None]
    assert "The answer is 7." in tiny_tokenizer.decode(teacher[2])
    assert read.report["retokenised"]["responses"] == 3
    assert read.report["retokenised"]["eos_appended"] == 1
    assert read.report["token_exact"] == 1


@pytest.mark.parametrize(("eos", "ends"), [("append", [1, 1]), ("never", [0, 1])])
def test_eos_policies(lines, tmp_path, tiny_tokenizer, eos, ends) -> None:
    rows = [TEXT, TEXT | {"response": "So 7.<|end|>"}]
    path = lines(tmp_path / "a.jsonl", rows)
    table = read_rollouts(path, tokenizer=tiny_tokenizer, eos=eos).table
    end = tiny_tokenizer.eos_token_id
    assert [ids.to_list().count(end) for ids in table["response_token_ids"]] == ends


def test_templates(lines, tmp_path, tiny_tokenizer, metaspace_tokenizer) -> None:
    path = lines(tmp_path / "a.jsonl", [TEXT | {"prompt": "the", "response": "th"}])
    raw = read_rollouts(path, tokenizer=tiny_tokenizer, template="raw").table
    assert raw["prompt_token_ids"][0].to_list() == tiny_tokenizer("the")["input_ids"]
    with pytest.raises(ModelError, match="chat template"):
        read_rollouts(path, tokenizer=metaspace_tokenizer)
    assert read_rollouts(path, tokenizer=metaspace_tokenizer, template="raw").table.height == 1


def test_the_tokenizer_may_be_a_folder(lines, tmp_path, tiny_tokenizer) -> None:
    tiny_tokenizer.save_pretrained(tmp_path / "student")
    path = lines(tmp_path / "a.jsonl", [TEXT])
    assert (
        read_rollouts(path, tokenizer=tmp_path / "student").table["response_token_ids"].to_list()
        == read_rollouts(path, tokenizer=tiny_tokenizer).table["response_token_ids"].to_list()
    )


def test_ids_outside_the_vocabulary_are_refused(lines, tmp_path, tiny_tokenizer) -> None:
    path = lines(tmp_path / "a.jsonl", [EXACT, EXACT | {"response_token_ids": [9_999]}])
    told = refusal(path, tokenizer=tiny_tokenizer)
    assert told.startswith(f"{path}:2: response_token_ids holds 9999; expected 0 to")
    assert read_rollouts(path).table.height == 2


def test_no_such_file_and_empty_files(lines, tmp_path) -> None:
    assert refusal(tmp_path / "x.jsonl") == (
        f"{tmp_path}/x.jsonl: no such file; expected a file, a folder or a pattern"
    )
    assert "no rollouts; expected files ending in .jsonl" in refusal(tmp_path)
    assert "expected at least one file" in refusal(str(tmp_path / "*.jsonl"))
    assert "expected at least one" in refusal([])
    empty = lines(tmp_path / "a.jsonl", [])
    assert refusal(empty) == f"{empty}: empty; expected at least one rollout"


def test_a_cut_last_line_is_left_out_and_told(lines, tmp_path) -> None:
    path = lines(tmp_path / "a.jsonl", [EXACT] * 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    read = read_rollouts(path)
    assert read.table.height == 2
    assert read.report["cut_files"] == [str(path)]
    assert notes(read.report) == [f"warning: the last line of {path} is cut, and left out"]
    path.write_bytes(whole[:-1])  # whole, but for its end
    read = read_rollouts(path)
    assert (read.table.height, read.report["cut_files"]) == (3, [])
    # One with its end or alone in its file is no such line.
    path.write_bytes(whole[:-9] + b"\n")
    assert "line 3: not JSON" in refusal(path)
    path.write_bytes(whole[:20])
    assert "line 1: not JSON" in refusal(path)


def test_line_7_that_is_not_json_is_named(lines, tmp_path) -> None:
    path = lines(tmp_path / "a.jsonl", [EXACT] * 9)
    text = path.read_text().splitlines()
    text[6] = text[6][:-4]
    path.write_text("\n".join(text))
    told = refusal(path)
    assert told.startswith(f"{path}: line 7: not JSON (")
    assert "\n" not in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"response_token_ids": None}, "no response; expected response_token_ids or response"),
        ({"prompt_token_ids": None}, "no prompt; expected prompt_token_ids or prompt"),
        ({"prompt_token_ids": []}, "prompt_token_ids is empty; expected at least one id"),
        ({"response_token_ids": [1, 2.5]}, "something else than whole numbers"),
        ({"response_token_ids": [1, -2]}, "response_token_ids holds -2 to 1"),
        ({"response_token_ids": [[1]]}, "response_token_ids is a list; expected a list of token"),
        ({"response_token_ids": [1, [2]]}, "response_token_ids is not flat"),
        ({"response_token_ids": "1 2"}, "response_token_ids is text"),
        ({"response_token_ids": [10**30]}, "expected"),
        ({"reward": float("nan")}, "reward is nan; expected a finite number, or null"),
        ({"reward": float("inf")}, "reward is inf"),
        ({"reward": "good"}, "reward is text; expected a number"),
        ({"reward": 10**400}, "reward is inf"),
        ({"correct": 0.5}, "correct is a number; expected true or false"),
        ({"step": 1.5}, "step is a number; expected a whole number"),
        ({"step": 2**70}, "step is a number; expected a whole number"),
        ({"policy": ["a"]}, "policy is a list; expected text"),
        ({"policy": "\ud800"}, "policy holds half a surrogate pair"),
        ({"finish_reason": 3}, "finish_reason is a number; expected text"),
        ({"loss_mask": [True]}, "loss_mask has 1 values; expected 3, one a response token"),
        ({"loss_mask": [0, 1, 2]}, "loss_mask holds other values"),
        ({"sampled_logp": [0.0, 0.0]}, "sampled_logp has 2 values; expected 3"),
        ({"sampled_logp": [0.0, None, 0.0]}, "sampled_logp holds other values"),
        ({"sampled_logp": [0.0, float("-inf"), 0.0]}, "sampled_logp holds other values"),
        ({"trainer_teacher_logp": [0.0]}, "trainer_teacher_logp has 1 values; expected 3"),
        ({"answer": float("nan")}, "answer is a number; expected a value of JSON"),
        ({"group": ["a"]}, "group is a list; expected text"),
        ({"teacher_prompt": [{"role": "user"}]}, "expected text or messages of role, content"),
    ],
)
def test_bad_values_are_named_with_their_line(lines, tmp_path, change, told) -> None:
    path = lines(tmp_path / "a.jsonl", [EXACT, EXACT | change])
    message = refusal(path)
    assert message.startswith(f"{path}: line 2: ")
    assert told in message


def test_all_faults_of_a_file_are_told_at_once_up_to_twenty(lines, tmp_path) -> None:
    masks = [EXACT | {"loss_mask": [1] * n} for n in range(4, 29)]
    path = lines(tmp_path / "a.jsonl", [EXACT, *masks])
    told = refusal(path).splitlines()
    assert told[0] == f"{path}: 25 faults"
    assert told[1].strip().startswith("line 2: loss_mask has 4 values")
    assert len(told) == 22
    assert told[-1].strip() == "... and 5 more"


def test_equal_faults_are_one_line(lines, tmp_path) -> None:
    fault = "reward is text; expected a number"
    bad = EXACT | {"reward": "x"}
    path = lines(tmp_path / "a.jsonl", [EXACT, *[bad] * 25])
    assert refusal(path) == f"{path}: lines 2, 3, 4 and 22 more: {fault}"
    path = lines(tmp_path / "b.jsonl", [EXACT, bad, EXACT | {"correct": "x"}, bad])
    assert refusal(path).splitlines() == [
        f"{path}: 3 faults",
        f"  lines 2 and 4: {fault}",
        "  line 3: correct is text; expected true or false",
    ]
    more = [EXACT | {"loss_mask": [1] * n} for n in range(4, 30)]
    told = refusal(lines(tmp_path / "c.jsonl", [bad, bad, *more])).splitlines()
    assert told[-1].strip() == "... and 7 more"  # 28 less two in the first line and 19 others


def test_ids_that_come_twice_are_refused(lines, tmp_path) -> None:
    path = lines(tmp_path / "a.jsonl", [EXACT | {"id": "x"}, EXACT | {"id": "x"}])
    assert "a.jsonl:2: id 'x' is that of a.jsonl:1 too; expected unique ids" in refusal(path)
    assert "expected unique ids" in refusal([path, path])


def test_rollouts_that_another_file_has_too_are_told(lines, tmp_path) -> None:
    """They are kept. Equal samples in one file, and the same text at another step, are none."""
    rows = [EXACT | {"id": "x"}, EXACT | {"id": "y"}, EXACT | {"id": "z", "step": 3}]
    one = lines(tmp_path / "1.jsonl", rows)
    two = lines(tmp_path / "2.jsonl", [rows[1], rows[2] | {"step": 4}, EXACT | {"id": "w"}])
    read = read_rollouts([one, two])
    assert read.table.height == 6
    assert read.report["repeated"] == {"rollouts": 1, "first": [f"{two}:1", f"{one}:2"]}
    assert notes(read.report)[0] == (
        "warning: rollouts that another file has too, with the same prompt, response and step: 1, "
        f"all of which count; first {two}:1 as {one}:2"
    )
    three = lines(tmp_path / "3.jsonl", [EXACT, EXACT])
    assert read_rollouts(three).report["repeated"]["rollouts"] == 0
    four = lines(tmp_path / "4.jsonl", [EXACT])
    assert read_rollouts([three, four]).report["repeated"]["rollouts"] == 1


def test_two_formats_in_a_call_are_refused(lines, tmp_path, make, tiny_tokenizer) -> None:
    ours = lines(tmp_path / "a.jsonl", [EXACT])
    told = refusal([ours, make("verl", tmp_path)], tokenizer=tiny_tokenizer)
    assert "format verl, for its rows have input, output, score, step" in told
    assert f"expected generic as in {ours}, one format in a call" in told


def test_unknown_keys_only_name_the_formats(lines, tmp_path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"question": "x", "answer": "y"}])
    assert "no known format, its keys are answer, question; expected prompt_token_ids" in refusal(
        path
    )


def test_nothing_left_is_refused(make, tmp_path) -> None:
    folder = make("prime-rl", tmp_path)
    shutil.rmtree(folder / "step_7")
    assert "no rollouts left (1 in a step that is not marked STABLE skipped)" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b"PAR1 no parquet PAR1"),
        ("a.parquet", b""),
        ("a.pt", b"no pickle"),
        ("a.csv", b"a,b\n\xff\xfe,2\n"),
        ("a.jsonl", b"\xff\xfe\n"),
        ("a.json", b"[1, 2]"),
        ("a.json", b"[" * 100_000),
    ],
)
def test_damaged_files_are_one_error(tmp_path, name, content) -> None:
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / name).startswith(str(tmp_path / name))


def test_unknown_options_are_refused(lines, tmp_path) -> None:
    path = lines(tmp_path / "a.jsonl", [EXACT])
    for option in ("eos", "template", "format"):
        with pytest.raises(OptionError, match=f"^{option}: 'maybe'; expected"):
            read_rollouts(path, **{option: "maybe"})


def test_the_report_is_json(lines, tmp_path) -> None:
    read = read_rollouts(lines(tmp_path / "a.jsonl", [EXACT, EXACT]))
    assert json.loads(json.dumps(read.report)) == read.report
    assert read.report["prompts"] == 1
    assert read.report["response_tokens"] == 6
