"""Chat prompts are read back from text, with their special tokens and without, or not at all."""

import copy

import pytest

from opd_diag.text.chat import ChatReader, with_system
from opd_diag.text.tokenizers import encode_prompt, encode_text, render_chat

SYSTEM = {"role": "system", "content": "You add.\nAlways."}
ASK = {"role": "user", "content": "add 3\n\nand 4"}
ANSWER = {"role": "assistant", "content": "So 7."}
MORE = {"role": "user", "content": "and then 5?"}

# The shapes of well-known templates. A token is special where it stands in <| |> or [ ].
LLAMA = (
    "<|begin|>{% for m in messages %}<|head|>{{ m.role }}<|/head|>\n\n{{ m.content | trim }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|start|>system\nYou are helpful.<|end|>\n{% endif %}"
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n{% endif %}{% endif %}"
)
NO_SYSTEM = (
    "<|begin|>{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "<|head|>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<|eot|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|head|>model\n{% endif %}"
)
INSTRUCTION = (
    "<|begin|>{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{% else %}{{ m.content }}<|eot|>{% endif %}{% endfor %}"
)
EXTRA = ["<|begin|>", "<|head|>", "<|/head|>", "<|eot|>", "[INST]", "[/INST]"]


@pytest.fixture(scope="module")
def with_template(tiny_tokenizer):
    """The function that makes a tokenizer with a template; None: the usual one."""

    def make(template: str | None):
        if template is None:
            return tiny_tokenizer
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>", *EXTRA]})
        tokenizer.chat_template = template
        return tokenizer

    return make


def stripped(tokenizer, ids) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True)


CHATS = [[ASK], [SYSTEM, ASK], [ASK, ANSWER, MORE], [SYSTEM, ASK, ANSWER, MORE]]


@pytest.mark.parametrize(
    ("template", "messages"),
    [(template, chat) for template in (None, LLAMA, DEFAULT_SYSTEM) for chat in CHATS]
    + [(NO_SYSTEM, CHATS[0]), (NO_SYSTEM, CHATS[2])],
)
def test_a_prompt_comes_back_with_and_without_its_special_tokens(
    with_template, template, messages
) -> None:
    tokenizer = with_template(template)
    reader = ChatReader(tokenizer)
    ids = encode_prompt(tokenizer, messages)
    text = stripped(tokenizer, ids)
    assert not any(token in text for token in reader.markers)
    restored = reader.restore(text)
    assert restored.token_ids == ids
    assert reader.looks_stripped(text)
    whole = reader.read(render_chat(tokenizer, messages))
    assert whole.token_ids == ids
    contents = [m["content"] for m in whole.messages if m["role"] != "system"]
    assert contents == [m["content"] for m in messages if m["role"] != "system"]


def test_an_answer_that_is_begun_goes_on(with_template) -> None:
    tokenizer = with_template(None)
    ids = encode_prompt(tokenizer, [ASK, ANSWER])
    restored = ChatReader(tokenizer).restore(stripped(tokenizer, ids))
    assert restored.token_ids == ids
    assert restored.messages == [ASK, ANSWER]


def test_options_of_the_template_are_found(with_template) -> None:
    tokenizer = with_template(DEFAULT_SYSTEM)
    text = render_chat(tokenizer, [SYSTEM, ASK], enable_thinking=False)
    ids = encode_text(tokenizer, text)
    reader = ChatReader(tokenizer)
    for chat in (reader.read(text), reader.restore(stripped(tokenizer, ids))):
        assert chat.token_ids == ids
        assert chat.messages == [SYSTEM, ASK]
        assert chat.options == {"enable_thinking": False}


def test_where_only_contents_are_left_a_chat_has_to_be_known_as_one(with_template) -> None:
    tokenizer = with_template(INSTRUCTION)
    reader = ChatReader(tokenizer)
    assert reader.restore("add 3") is None
    assert not reader.looks_stripped("add 3")
    restored = reader.restore("add 3", bare=True)
    assert restored.token_ids == encode_prompt(tokenizer, "add 3")


@pytest.mark.parametrize(
    "text", ["add 3", "user\nadd 3", "x\nuser\nadd 3\nassistant\n", "assistant\n", ""]
)
def test_what_the_template_does_not_give_back_is_not_restored(tiny_tokenizer, text) -> None:
    assert ChatReader(tiny_tokenizer).restore(text) is None


@pytest.mark.parametrize(
    "text", ["<|start|>user\nadd 3<|end|>\n", "<|start|>user\nadd 3<|end|>\n<|start|>model\n", ""]
)
def test_what_the_template_does_not_write_is_not_read(tiny_tokenizer, text) -> None:
    assert ChatReader(tiny_tokenizer).read(text) is None


def test_markers_are_the_special_tokens_that_the_template_writes(with_template) -> None:
    assert ChatReader(with_template(None)).markers == ("<|start|>", "<|end|>")
    reader = ChatReader(with_template(LLAMA))
    assert set(reader.markers) == {"<|begin|>", "<|head|>", "<|/head|>", "<|eot|>"}
    assert reader.marker_in("a<|eot|>") == "<|eot|>"
    assert reader.marker_in("a<|end|>") is None


def test_without_a_template_every_special_token_is_a_marker(metaspace_tokenizer) -> None:
    reader = ChatReader(metaspace_tokenizer)
    assert "</s>" in reader.markers
    assert reader.restore("user\nadd 3\nassistant\n") is None
    assert reader.looks_stripped("user\nadd 3\nassistant\n")


def test_a_system_turn_takes_the_place_of_another() -> None:
    other = {"role": "system", "content": "Know: 7."}
    assert with_system([SYSTEM, ASK], "Know: 7.") == [other, ASK]
    assert with_system([ASK], "Know: 7.") == [other, ASK]
