"""Chat templates run in a child: the same text as in this process, and an end in any case."""

import os
import subprocess
import sys
import time

import pytest

from opd_diag.errors import ModelError
from opd_diag.text import chat_templates, template_process
from opd_diag.text.tokenizers import render_chat

TALKS = [
    [{"role": "user", "content": "Add 3 and 4."}],
    [{"role": "user", "content": "a", "name": None}, {"role": "assistant", "content": "The"}],
]
TEMPLATES = [
    None,
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m['content'] | trim }}{% endfor %}"
    "{% if add_generation_prompt %}[{{ eos_token }}]{% endif %}{{ thinking | default('no') }}",
    "{%- set ns = namespace(n=0) -%}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}"
    "{{ m.content }}{% endfor %}{{ messages | tojson | length }}",
]


@pytest.fixture
def tokenizer(train_bpe):
    return train_bpe()


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("talk", TALKS)
def test_the_child_writes_what_the_library_writes(tokenizer, template, talk):
    tokenizer.chat_template = template or tokenizer.chat_template
    begun = talk[-1]["role"] == "assistant"
    expected = tokenizer.apply_chat_template(
        talk, tokenize=False, add_generation_prompt=not begun, continue_final_message=begun,
        thinking=True,
    )  # fmt: skip
    assert render_chat(tokenizer, talk, thinking=True) == expected


NESTED = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (NESTED, "no end after 1 s"),
        ("{% set x = 'x' * 2000000000 %}{{ x }}", "more than 1024 MiB of memory"),
        ("{% for a in range(900) %}{{ 'x' * 10000 }}{% endfor %}", "9,000,000 characters of text"),
        ("{{ '\\ud83d' }}", "half a character"),
        ("{{ raise_exception('no system turn') }}", "no system turn"),
        ("{{ messages[7].content }}", "list object has no element 7"),
        ("{% if %}", "Expected an expression"),
        ("{{ ().__class__.__mro__ }}", "access to attribute '__class__'"),
    ],
)
def test_a_template_that_does_not_do_is_one_line(tokenizer, monkeypatch, template, message):
    chat_templates._close()
    monkeypatch.setattr(
        chat_templates, "_PROGRAM",
        "from opd_diag.text import template_process as p; p.SECONDS = 1; p.main()",
    )  # fmt: skip
    try:
        tokenizer.chat_template = template
        with pytest.raises(ModelError, match=f"^chat template: {message}") as caught:
            render_chat(tokenizer, TALKS[0])
        assert "\n" not in str(caught.value)
        tokenizer.chat_template = TEMPLATES[1]
        assert "Add 3 and 4." in render_chat(tokenizer, TALKS[0])
    finally:
        chat_templates._close()


def test_a_child_that_dies_or_sleeps_is_replaced(tokenizer, monkeypatch):
    render_chat(tokenizer, TALKS[0])
    first = chat_templates._renderers[0]._process
    first.kill()
    first.wait()
    with pytest.raises(ModelError, match="its process ended"):
        render_chat(tokenizer, TALKS[0])
    assert render_chat(tokenizer, TALKS[0])
    monkeypatch.setattr(chat_templates, "_SECONDS_TO_ANSWER", 0.2)
    os.kill(chat_templates._renderers[0]._process.pid, 19)  # SIGSTOP: a step that Python waits for
    begin = time.monotonic()
    with pytest.raises(ModelError, match="gave no answer"):
        render_chat(tokenizer, TALKS[0])
    assert time.monotonic() - begin < 10


def test_a_forked_process_has_a_child_of_its_own(tokenizer):
    expected = render_chat(tokenizer, TALKS[0])
    program = (
        "import os, sys\n"
        "from transformers import PreTrainedTokenizerFast\n"
        "from opd_diag.text.tokenizers import render_chat\n"
        "tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])\n"
        "talk = [{'role': 'user', 'content': 'Add 3 and 4.'}]\n"
        "one = render_chat(tokenizer, talk)\n"
        "child = os.fork()\n"
        "other = render_chat(tokenizer, talk)\n"
        "if not child:\n    os._exit(0 if one == other else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
        "assert one == other == render_chat(tokenizer, talk)\n"
        "sys.stdout.write(one)\n"
    )
    folder = os.environ["XDG_CACHE_HOME"] + "/forked"
    tokenizer.save_pretrained(folder)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == expected, done.stderr


def test_the_limits_are_those_that_are_told():
    assert (template_process.SECONDS, template_process.CHARACTERS) == (10, 8_388_608)
