import gzip
import json
import math
from pathlib import Path

import polars as pl
import pytest
import torch

from opd_diag.errors import OptionError, RolloutError
from opd_diag.rollouts import read_rollouts
from opd_diag.rollouts.files import read_rows
from opd_diag.rollouts.formats import FORMATS, generic
from opd_diag.rollouts.rows import GROUPS, REFERENCES, DumpFile
from opd_diag.tables.columns.rollouts import ROLLOUTS
from opd_diag.tables.schema import check_table
from opd_diag.text.tokenizers import encode_prompt

GUIDE = Path(__file__).parents[2] / "docs" / "dumps.md"
EXACT = {"slime", "prime-rl", "nemo-rl", "vllm", "ta-opd", "labels", "verl-batch", "traces"}
PROMPT, RESPONSE, LOGP = [1, 20, 21], [30, 31, 2], [-0.5, -0.25, -1.0]


def test_every_format_is_detected_and_gives_a_valid_table(dump, tiny_tokenizer) -> None:
    name, path = dump
    read = read_rollouts(path, tokenizer=tiny_tokenizer)
    assert read.report["format"] == name
    assert read.report["why"].startswith("its rows have ")
    check_table(read.table, ROLLOUTS, name)
    assert read.table["token_exact"].to_list() == [name in EXACT] * read.table.height
    assert read.table["step"].to_list() == [None if name in ("vllm", "lm-eval") else 7] * (
        read.table.height
    )
    json.dumps(read.report)


def test_the_given_format_reads_the_same(dump, tiny_tokenizer) -> None:
    name, path = dump
    detected = read_rollouts(path, tokenizer=tiny_tokenizer)
    given = read_rollouts(path, tokenizer=tiny_tokenizer, format=name)
    assert given.table.equals(detected.table)
    assert given.report["why"] == "given"


def test_token_exact_formats_need_no_tokenizer_and_text_does(dump) -> None:
    name, path = dump
    if name in EXACT:
        assert read_rollouts(path).table["response_token_ids"][0].to_list() == RESPONSE
    else:
        with pytest.raises(RolloutError, match="text without token ids; expected a tokenizer"):
            read_rollouts(path)


class Watched(dict[str, object]):
    """A row that remembers which keys were asked for."""

    asked: set[str]

    def get(self, key: str, default: object = None) -> object:
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)


def test_no_key_that_a_format_asks_for_is_unknown(dump) -> None:
    """What names the answer and the group is known where it is found."""
    name, path = dump
    form = next(form for form in FORMATS if form.name == name)
    files = [path] if path.is_file() else [one for one in path.rglob("*.jsonl") if one.is_file()]
    for one in files:
        file = DumpFile(one)
        for _, row in read_rows(one):
            watched = Watched(row)
            watched.asked = set()
            list(form.rollouts(watched, file))
            assert watched.asked, name
            assert watched.asked <= {*form.used, *file.used, *REFERENCES, *GROUPS}, name


@pytest.mark.parametrize("name", ["slime", "verl-batch"])
def test_keys_that_a_batch_is_read_by_are_known(make, tmp_path, name) -> None:
    path = make(name, tmp_path)
    if name == "verl-batch":
        content = torch.load(path)
        content["tensordict"]["domain"] = content["tensordict"].pop("data_source")
        torch.save(content, path)
    read = read_rollouts(path)
    assert not {"remove_sample", *GROUPS} & read.report["unknown_keys"].keys()
    if name == "verl-batch":
        assert read.table["group"].to_list() == ["adding", "adding"]


@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_every_format_of_text_reads_compressed(dump, tmp_path, tiny_tokenizer, packed) -> None:
    name, path = dump
    if name in ("slime", "trl", "verl-batch"):
        assert path.suffix in (".pt", ".parquet")  # which compress by themselves
        return
    expected = read_rollouts(path, tokenizer=tiny_tokenizer).table
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    for file in files:
        if file.name != "STABLE":
            compress(file, file.with_name(f"{file.name}.{packed}"))
            file.unlink()
    there = path if path.is_dir() else path.with_name(f"{path.name}.{packed}")
    read = read_rollouts(there, tokenizer=tiny_tokenizer)
    assert read.report["format"] == name
    assert read.table.drop("source", "rollout_id").equals(expected.drop("source", "rollout_id"))


def compress(plain: Path, path: Path) -> None:
    """Write the lines of a file compressed; of zstd, polars alone brings a writer along."""
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(plain.read_bytes()))
        return
    lines = pl.scan_csv(plain, has_header=False, separator="\x1f", quote_char=None)
    lines.sink_csv(
        path, include_header=False, separator="\x1f", quote_style="never", compression="zstd"
    )


def test_a_format_that_does_not_fit_is_one_error(dump, tiny_tokenizer) -> None:
    name, path = dump
    for other in FORMATS:
        if other.name not in (name, "generic", "kdflow", "trl", "ms-swift", "prime-rl"):
            with pytest.raises(RolloutError):
                read_rollouts(path, tokenizer=tiny_tokenizer, format=other.name)


def test_the_guide_names_every_format_its_keys_and_every_generic_key() -> None:
    text = GUIDE.read_text()
    for form in FORMATS:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{form.name}`"))
        assert form.name == "ta-opd" or all(f"`{key}`" in row for key in form.keys), form.name
    for key in (*generic.USED, *generic.ALIASES):
        assert f"`{key}`" in text


def first(table: pl.DataFrame) -> dict[str, object]:
    return table.row(0, named=True)


def test_slime(make, tmp_path) -> None:
    read = read_rollouts(make("slime", tmp_path))
    row = first(read.table)
    assert row["prompt_token_ids"] == PROMPT
    assert row["sampled_logp"] == LOGP
    assert row["answer"] == "7"
    assert row["trainer_teacher_logp"] == pytest.approx([-0.1, -0.2, -0.3])
    assert read.table["reward"].to_list() == [1.0, 1.0]
    assert read.table["finish_reason"].to_list() == ["stop", "length"]
    assert read.table["loss_mask"].to_list() == [None, [True, False, True]]
    assert read.report["skipped"] == {
        "aborted before its prompt was tokenised": 1,
        "removed by the trainer": 1,
    }


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        ({"a": 1.0}, 1.0),
        ({"a": 1.0, "b": 0.0}, None),
        ({"a": 1.0, "score": 0.25, "note": "x"}, 0.25),
        ({"note": "x"}, None),
    ],
)
def test_slimes_reward_may_be_an_object(tmp_path, slime_file, reward, expected) -> None:
    read = read_rollouts(slime_file({"reward": reward}))
    assert read.table["reward"].to_list() == [expected]
    assert ("reward" in read.report["unknown_keys"]) is (expected is None)


# What SGLang answers to a request for the log-probs of its input: [log-prob, id, text].
SERVER = {
    "input_token_logprobs": [
        *([None, 1, None], [-9.0, 20, None], [-8.0, 21, None]),
        *([-1.0, 30, None], [-2.0, 31, None], [-3.0, 2, None]),
    ]
}


@pytest.mark.parametrize(
    "change",
    [
        {"teacher_log_probs": [-9.0] * 3 + [-1.0, -2.0, -3.0]},
        {"teacher_log_probs": None, "meta_info": {"teacher_log_probs": [-1.0, -2.0, -3.0]}},
        {"teacher_log_probs": torch.tensor([-1.0, -2.0, -3.0])},
        {"teacher_log_probs": None, "reward": {"meta_info": SERVER, "text": ""}},
        {"teacher_log_probs": None, "reward": {"teacher": {"meta_info": SERVER}}},
    ],
    ids=[
        *("with those of the prompt", "in meta_info", "as a tensor"),
        *("in what its server answered", "in what miles keeps of its server"),
    ],
)
def test_slimes_teacher_is_found_where_it_stands(slime_file, change) -> None:
    read = read_rollouts(slime_file(change))
    assert read.table["trainer_teacher_logp"].to_list() == [[-1.0, -2.0, -3.0]]
    assert "reward" not in read.report["unknown_keys"]


def test_the_likeliest_ids_of_miles_teacher_are_kept(slime_file) -> None:
    def entry(*pairs: tuple[float, int]) -> list[list[object]]:
        return [[logp, token, None] for logp, token in pairs]

    tops = [None, entry((-9.0, 1)), entry((-9.0, 1))]
    tops += [
        entry((-0.5, 30), (-1.0, 7)),
        entry((-0.25, 8), (-2.0, 9)),
        entry((-3.0, 2), (-1.5, 4)),
    ]
    answer = {"meta_info": {"input_top_logprobs": tops}}
    row = read_rollouts(
        slime_file({"teacher_log_probs": None, "reward": {"teacher": answer}})
    ).table.row(0, named=True)
    assert row["trainer_teacher_logp"] == [-0.5, None, -3.0]  # 31 is not among the ids kept
    assert row["trainer_top_id"] == [30, 8, 4]
    expected = [math.exp(a) + math.exp(b) for a, b in ((-0.5, -1), (-0.25, -2), (-3, -1.5))]
    assert row["trainer_top_mass"] == pytest.approx(expected, rel=1e-6)
    # What the sample itself says of the tokens that stand there comes first.
    told = slime_file({"reward": {"teacher": answer}})
    assert read_rollouts(told).table["trainer_teacher_logp"][0].to_list() == pytest.approx(
        [-0.1, -0.2, -0.3]
    )


def test_a_slime_dump_without_its_teacher_has_none(slime_file) -> None:
    read = read_rollouts(slime_file({"teacher_log_probs": None}))
    assert read.table["trainer_teacher_logp"].to_list() == [None]


@pytest.fixture
def slime_file(make, tmp_path):
    """The function that writes one sample of slime with other values for some keys."""

    def write(change: dict[str, object]):
        path = make("slime", tmp_path)
        content = torch.load(path)
        content["samples"] = [content["samples"][0] | change]
        torch.save(content, path)
        return path

    return write


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code of the pickle runs",))


def test_a_pickle_with_code_is_refused_unless_trusted(make, tmp_path, capsys) -> None:
    path = make("slime", tmp_path)
    content = torch.load(path)
    content["samples"][0]["metadata"] = {"x": Hostile()}
    torch.save(content, path)
    with pytest.raises(RolloutError, match="--trust-pickle"):
        read_rollouts(path)
    assert capsys.readouterr().out == ""
    assert read_rollouts(path, trust_pickle=True).table.height == 2
    assert "code of the pickle runs" in capsys.readouterr().out


def test_prime_rl_reads_stable_steps_only(make, tmp_path) -> None:
    read = read_rollouts(make("prime-rl", tmp_path))
    assert read.table["response_token_ids"].to_list() == [RESPONSE] * 3
    assert read.table["loss_mask"].to_list() == [None, [True, False, True], None]
    assert read.table["sampled_logp"].to_list() == [LOGP, LOGP, None]
    assert read.table["reward"].to_list() == [1.0, None, 1.0]
    assert read.report["skipped"] == {
        "no token in the loss": 1,
        "in a step that is not marked STABLE": 1,
    }


def test_nemo_rl_is_cut_at_the_length(make, tmp_path) -> None:
    read = read_rollouts(make("nemo-rl", tmp_path))
    row = first(read.table)
    assert (row["prompt_token_ids"], row["response_token_ids"]) == (PROMPT, RESPONSE)
    assert (row["sampled_logp"], row["reward"]) == (LOGP, 1.0)
    assert read.table["loss_mask"].to_list() == [None, [True, False, True]]


def test_vllm_picks_the_sampled_logprob(make, tmp_path) -> None:
    read = read_rollouts(make("vllm", tmp_path))
    assert read.table["rollout_id"].to_list() == [
        *("outputs.json:1.0", "outputs.json:1.1", "outputs.json:2.0", "outputs.json:2.1")
    ]
    assert read.table["sampled_logp"].to_list() == [LOGP] * 4
    assert read.table["sample"].to_list() == [0, 1, 2, 3]
    assert read.table["finish_reason"].to_list() == ["stop", "length"] * 2


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_ta_opd_reads_lists_out_of_strings(make, tmp_path, suffix) -> None:
    path = make("ta-opd", tmp_path)
    frame = pl.read_csv(path, infer_schema=False)
    other = tmp_path / f"bank_again.{suffix}"
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[suffix](
        other
    )
    read = read_rollouts(other)
    assert read.table["rollout_id"].to_list() == ["a", "b"]
    assert read.table["prompt_token_ids"].to_list() == [PROMPT] * 2
    assert read.table["sampled_logp"].to_list() == [LOGP] * 2
    assert read.table["reward"].to_list() == [1.0, None]
    assert read.table["correct"].to_list() == [True, True]


def test_verl_prompts_get_their_special_tokens_back_where_possible(
    make, tmp_path, tiny_tokenizer
) -> None:
    read = read_rollouts(make("verl", tmp_path), tokenizer=tiny_tokenizer)
    chat = encode_prompt(tiny_tokenizer, "Add 3 and 4.")
    raw = encode_prompt(tiny_tokenizer, "Add 3 and 4.", template="raw")
    assert read.table["prompt_token_ids"].to_list() == [chat, raw]
    assert read.report["retokenised"]["prompts_restored"] == 1
    assert read.report["retokenised"]["prompts_without_markers"] == 1
    assert read.table["reward"].to_list() == [1.0, 1.0]
    assert read.table["correct"].to_list() == [True, True]
    assert tiny_tokenizer.decode(read.table["response_token_ids"][0]) == "So 7."


def test_trl_takes_the_only_reward_and_its_nan_as_missing(make, tmp_path, tiny_tokenizer) -> None:
    read = read_rollouts(make("trl", tmp_path), tokenizer=tiny_tokenizer)
    assert read.table["reward"].to_list() == [1.0, None]
    chat = encode_prompt(tiny_tokenizer, "Add 3 and 4.")
    assert read.table["prompt_token_ids"].to_list() == [chat] * 2
    assert read.report["unknown_keys"] == {"advantage": 2}


def test_of_several_reward_columns_none_is_the_reward(make, tmp_path, tiny_tokenizer) -> None:
    path = make("trl", tmp_path)
    frame = pl.read_parquet(path).with_columns(format_reward=pl.lit(0.5))
    frame.write_parquet(path)
    read = read_rollouts(path, tokenizer=tiny_tokenizer)
    assert read.table["reward"].to_list() == [None, None]
    assert set(read.report["unknown_keys"]) == {"accuracy_reward", "format_reward", "advantage"}


def test_trl_batches_that_are_logged_again_are_left_out(make, tmp_path, tiny_tokenizer) -> None:
    # What the trainer writes with num_iterations=2: two files a batch, with two steps.
    path = make("trl", tmp_path)
    frame = pl.read_parquet(path)
    other = frame.with_columns(completion=pl.Series([[{"role": "assistant", "content": "No"}]] * 2))
    for step, batch in ((8, frame), (9, other), (10, other), (11, frame)):
        again = batch.with_columns(step=pl.lit(step, dtype=pl.Int64))
        again.write_parquet(path.with_name(f"completions_{step:05d}.parquet"))
    read = read_rollouts(path.parent, tokenizer=tiny_tokenizer)
    assert read.table["step"].to_list() == [7, 7, 9, 9, 11, 11]
    assert read.report["skipped"] == {"logged again at a later step": 4}


def test_ms_swift_batches_are_taken_apart(make, tmp_path, tiny_tokenizer) -> None:
    read = read_rollouts(make("ms-swift", tmp_path), tokenizer=tiny_tokenizer)
    assert read.table["reward"].to_list() == [1.0, 0.0]
    assert read.table["source_row"].to_list() == [1, 1]
    texts = [tiny_tokenizer.decode(ids) for ids in read.table["response_token_ids"]]
    assert texts == ["So 7.<|end|>", "So"]
    chat = encode_prompt(tiny_tokenizer, "Add 3 and 4.")
    assert read.table["prompt_token_ids"].to_list() == [chat] * 2


def test_ms_swift_batches_that_are_logged_again_are_left_out(
    make, tmp_path, tiny_tokenizer, lines
) -> None:
    batch = json.loads(make("ms-swift", tmp_path).read_text())
    rows = [batch, batch | {"step": ["8", "8"]}, batch | {"completion": ["No", "No"]}]
    read = read_rollouts(lines(tmp_path / "completions.jsonl", rows), tokenizer=tiny_tokenizer)
    assert read.table["source_row"].to_list() == [1, 1, 3, 3]
    assert read.report["skipped"] == {"logged again at a later step": 2}


def test_kdflow_prompts_stand_as_the_model_read_them(make, tmp_path, tiny_tokenizer) -> None:
    read = read_rollouts(make("kdflow", tmp_path), tokenizer=tiny_tokenizer)
    chat = encode_prompt(tiny_tokenizer, "Add 3 and 4.")
    assert read.table["prompt_token_ids"].to_list() == [chat] * 2
    assert read.table["reward"].to_list() == [1.0, None]
    assert read.report["empty_responses"] == 1


def test_lm_eval_reads_a_document_once(make, tmp_path, tiny_tokenizer) -> None:
    read = read_rollouts(make("lm-eval", tmp_path), tokenizer=tiny_tokenizer)
    texts = [tiny_tokenizer.decode(ids) for ids in read.table["response_token_ids"]]
    assert texts == ["So 7.", "So", "7."]
    # One metric for a document says nothing of each of its repeats.
    assert read.table["correct"].to_list() == [True, None, None]
    assert read.report["skipped"] == {"the same document under another filter": 1}


def test_lm_eval_chat_messages_are_read(make, tmp_path, tiny_tokenizer, lines) -> None:
    row = json.loads(make("lm-eval", tmp_path).read_text().splitlines()[0])
    messages = json.dumps([{"role": "user", "content": "Add 3 and 4."}])
    row["arguments"]["gen_args_0"]["arg_0"] = [messages]
    read = read_rollouts(lines(tmp_path / "samples_chat.jsonl", [row]), tokenizer=tiny_tokenizer)
    chat = encode_prompt(tiny_tokenizer, "Add 3 and 4.")
    assert read.table["prompt_token_ids"].to_list() == [chat]


def test_lm_eval_log_likelihoods_are_refused(make, tmp_path, tiny_tokenizer, lines) -> None:
    row = json.loads(make("lm-eval", tmp_path).read_text().splitlines()[0])
    path = lines(tmp_path / "samples_mc.jsonl", [row | {"resps": [[["-3.2", "False"]]]}])
    with pytest.raises(RolloutError, match="line 1: resps are no texts"):
        read_rollouts(path, tokenizer=tiny_tokenizer)


@pytest.mark.parametrize(("more", "differ"), [(0, 0), (2, 1)])
def test_areal_lengths_verify_the_tokens(
    make, tmp_path, tiny_tokenizer, lines, more, differ
) -> None:
    row = json.loads(make("areal", tmp_path).read_text().splitlines()[0])
    n_prompt = len(encode_prompt(tiny_tokenizer, row["prompt"], template="raw"))
    n_response = len(tiny_tokenizer(row["completion"])["input_ids"])
    lengths = {"prompt_len": n_prompt, "seqlen": n_prompt + n_response + more}
    path = lines(tmp_path / "told.jsonl", [row | lengths])
    drift = read_rollouts(path, tokenizer=tiny_tokenizer).report["retokenised"]
    assert (drift["lengths_told"], drift["lengths_differ"]) == (1, differ)
    assert (drift["tokens_told"], drift["tokens_made"]) == (n_response + more, n_response)
    assert (drift["prompt_lengths_told"], drift["prompt_lengths_differ"]) == (1, 0)


def test_areal_turns_are_left_out_and_counted(make, tmp_path, tiny_tokenizer) -> None:
    read = read_rollouts(make("areal", tmp_path), tokenizer=tiny_tokenizer)
    assert read.table.height == 1
    assert read.report["skipped"] == {"several turns without their loss mask": 1}


# --- Answers --------------------------------------------------------------------------------------


def test_the_answer_is_kept_wherever_a_format_has_one(make, tmp_path, tiny_tokenizer) -> None:
    having = ("slime", "verl", "kdflow", "lm-eval", "verl-batch", "traces")
    for name in having:
        (tmp_path / name).mkdir()
        read = read_rollouts(make(name, tmp_path / name), tokenizer=tiny_tokenizer)
        assert read.table["answer"][0] == "7", name
        assert read.report["answers"] >= 1


@pytest.mark.parametrize("key", ["answer", "label", "gts", "reference", "solution"])
@pytest.mark.parametrize("name", ["prime-rl", "nemo-rl", "vllm", "areal", "labels", "messages"])
def test_the_answer_is_kept_under_any_of_its_names(
    make, tmp_path, tiny_tokenizer, name, key
) -> None:
    path = make(name, tmp_path)
    file = next(p for p in [path, *path.rglob("*7/*.jsonl")] if p.is_file())
    rows = json.loads(file.read_text()) if file.suffix == ".json" else [
        json.loads(line) for line in file.read_text().splitlines()
    ]  # fmt: skip
    told = {key: "x = 7", "domain": "adding"}
    file.write_text("".join(json.dumps({**row, **told}) + "\n" for row in rows))
    read = read_rollouts(path, tokenizer=tiny_tokenizer)
    assert set(read.table["answer"]) == {"x = 7"}
    expected = "math" if name == "prime-rl" else "adding"
    assert set(read.table["group"]) <= {expected, "adding"}
    assert key not in read.report["unknown_keys"]


def test_extra_columns_of_trl_and_ms_swift_are_answers_and_no_rewards(
    make, tmp_path, tiny_tokenizer, lines
) -> None:
    path = make("trl", tmp_path)
    frame = pl.read_parquet(path).with_columns(solution=pl.lit(7), data_source=pl.lit("adding"))
    frame.write_parquet(path)
    read = read_rollouts(path, tokenizer=tiny_tokenizer)
    assert read.table["answer"].to_list() == ["7", "7"]
    assert read.table["group"].to_list() == ["adding", "adding"]
    assert read.table["reward"].to_list() == [1.0, None]
    batch = json.loads(make("ms-swift", tmp_path).read_text())
    path = lines(tmp_path / "completions.jsonl", [batch | {"solution": ["7", "8"]}])
    read = read_rollouts(path, tokenizer=tiny_tokenizer)
    assert read.table["answer"].to_list() == ["7", "8"]
    assert read.table["reward"].to_list() == [1.0, 0.0]


# --- Groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key", "group"),
    [
        ("slime", "label", "7"),
        ("verl-batch", "reward_model.ground_truth", "7"),
        ("traces", "task.type", "Adding"),
        ("vllm", "request_id", "0"),
        ("lm-eval", "doc.question", "Add 3 and 4."),
        ("ms-swift", "Accuracy", None),
        ("ms-swift", "step", "7"),
    ],
)
def test_any_key_of_a_dump_can_tell_the_group(
    make, tmp_path, tiny_tokenizer, name, key, group
) -> None:
    path = make(name, tmp_path)
    if group is None:
        with pytest.raises(RolloutError, match="group is a number; expected text or a whole"):
            read_rollouts(path, tokenizer=tiny_tokenizer, group_by=key)
        return
    read = read_rollouts(path, tokenizer=tiny_tokenizer, group_by=key)
    assert read.table["group"][0] == group
    assert read.report["groups"][group] >= 1


def test_a_group_that_no_rollout_has_is_an_error(lines, tmp_path) -> None:
    row = {"prompt_token_ids": [1], "response_token_ids": [2], "domain": "a"}
    path = lines(tmp_path / "a.jsonl", [row, row | {"domain": "b"}, row])
    with pytest.raises(RolloutError, match="group_by: no rollout has 'task'"):
        read_rollouts(path, group_by="task")
    with pytest.raises(OptionError, match="group_by: beside a group in map"):
        read_rollouts(path, group_by="task", map={"group": "domain"})
    read = read_rollouts(path)
    assert read.table["group"].to_list() == ["a", "b", "a"]
    assert read.report["groups"] == {"a": 2, "b": 1}
