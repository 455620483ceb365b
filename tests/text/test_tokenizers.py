import copy

import pytest

from opd_diag.errors import ModelError, ModelMismatchError, OptionError
from opd_diag.text.tokenizers import (
    compare_tokenizers,
    encode_prompt,
    encode_responses,
    load_tokenizer,
    retokenise,
)
from opd_diag.text.vocabulary import vocabulary_size


def test_a_tokenizer_equals_itself_after_a_round_over_the_disk(tiny_tokenizer, tmp_path) -> None:
    tiny_tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert compare_tokenizers(tiny_tokenizer, loaded) == vocabulary_size(tiny_tokenizer)


def test_other_vocabularies_are_refused_with_their_first_ids(tiny_tokenizer, train_bpe) -> None:
    other = train_bpe(["something else entirely, with other words"] * 3)
    with pytest.raises(ModelMismatchError, match=r"differ in \d+ ids, first \d+ \('.+' and '.+'\)"):
        compare_tokenizers(tiny_tokenizer, other)


def test_equal_vocabularies_with_other_rules_are_refused(tiny_tokenizer) -> None:
    from tokenizers import pre_tokenizers

    other = copy.deepcopy(tiny_tokenizer)
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern="e", behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    with pytest.raises(ModelMismatchError, match="encode a probe text differently from token"):
        compare_tokenizers(tiny_tokenizer, other)


def test_added_tokens_past_the_end_are_not_shared_and_not_refused(
    tiny_tokenizer, train_bpe
) -> None:
    longer = train_bpe()
    longer.add_tokens(["<tool>", "</tool>"])
    assert compare_tokenizers(tiny_tokenizer, longer) == vocabulary_size(tiny_tokenizer)
    assert vocabulary_size(longer) == vocabulary_size(tiny_tokenizer) + 2


def test_a_folder_without_tokenizer_is_refused_in_one_line(tmp_path) -> None:
    with pytest.raises(ModelError, match="no tokenizer") as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="x: no such folder; expected a model folder or a hub id"):
        load_tokenizer(str(tmp_path / "x"))


def test_prompts_go_through_the_template_or_stand_as_they_are(tiny_tokenizer) -> None:
    chat = encode_prompt(tiny_tokenizer, "add 3")
    assert tiny_tokenizer.decode(chat) == "<|start|>user\nadd 3<|end|>\n<|start|>assistant\n"
    assert chat == encode_prompt(tiny_tokenizer, [{"role": "user", "content": "add 3"}])
    rendered = tiny_tokenizer.decode(chat)
    assert encode_prompt(tiny_tokenizer, rendered, template="raw") == chat
    with pytest.raises(OptionError, match="expected chat or raw"):
        encode_prompt(tiny_tokenizer, "add 3", template="jinja")


def test_a_started_answer_is_continued_and_not_closed(tiny_tokenizer) -> None:
    messages = [{"role": "user", "content": "add"}, {"role": "assistant", "content": "So"}]
    text = tiny_tokenizer.decode(encode_prompt(tiny_tokenizer, messages))
    assert text.endswith("<|start|>assistant\nSo")


def test_a_missing_chat_template_is_said(metaspace_tokenizer) -> None:
    with pytest.raises(ModelError, match="chat template: .*; expected a template"):
        encode_prompt(metaspace_tokenizer, "the")


def test_responses_get_no_special_tokens(tiny_tokenizer) -> None:
    assert encode_responses(tiny_tokenizer, []) == []
    (ids,) = encode_responses(tiny_tokenizer, ["12.<|end|>"])
    assert ids[-1] == tiny_tokenizer.eos_token_id
    assert tiny_tokenizer.decode(ids) == "12.<|end|>"


def test_tokenizers_that_differ_in_added_tokens_alone_say_so(tiny_tokenizer):
    """An id that is another marker in one of them; the words are the same."""
    text = tiny_tokenizer.backend_tokenizer.to_str().replace("<think>", "<pause>")
    other = type(tiny_tokenizer)(
        tokenizer_object=type(tiny_tokenizer.backend_tokenizer).from_str(text)
    )
    with pytest.raises(
        ModelMismatchError, match=r"differ in special or added tokens only, 1 ids, first 320 \("
    ):
        compare_tokenizers(tiny_tokenizer, other)


def test_round_trip_holds_for_byte_level_text(tiny_tokenizer) -> None:
    again = retokenise(tiny_tokenizer, ["Then 3 + 4 = 7.", "", "中文 👩‍🔬"])
    assert again.round_trip == [True, True, True]
    assert again.broken == [False, False, False]
    assert again.token_ids[1] == []
    assert retokenise(tiny_tokenizer, []).token_ids == []


def test_bytes_that_the_dump_has_lost_are_noticed(tiny_tokenizer) -> None:
    text = tiny_tokenizer.decode([tiny_tokenizer.convert_tokens_to_ids("ä")])  # half a character
    again = retokenise(tiny_tokenizer, [f"So {text}"])
    assert (again.round_trip, again.broken) == ([True], [True])


def test_a_tokenizer_that_loses_text_is_found_out(tiny_tokenizer) -> None:
    from tokenizers import normalizers

    lossy = copy.deepcopy(tiny_tokenizer)
    lossy.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert retokenise(lossy, ["Then", "then"]).round_trip == [False, True]
