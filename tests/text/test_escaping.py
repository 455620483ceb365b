"""Text of others on a terminal, in a page and in a file's name."""

import html.parser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd_diag.text.escaping import for_file_name, for_html, for_terminal

ODD = "a\x1b[31mred\x1b[0m\nerror: b\u202egnihton\u2069\x00\ud83d\u2028c\r\x07"


def test_what_prints_stays_and_what_does_not_is_named() -> None:
    assert for_terminal("naïve 中文 שלום é") == "naïve 中文 שלום é"
    assert for_terminal("\x1b[2J\n\u202e\ud83d\U000e0001") == r"\x1b[2J\n\u202e\ud83d\U000e0001"
    assert for_terminal("2 faults\n  one\n  two\nno\r", lines=True) == (
        "2 faults\n  one\n  two\\nno\\r"
    )


@given(st.text() | st.just(ODD))
def test_no_text_moves_the_cursor_or_begins_a_line(text: str) -> None:
    safe = for_terminal(text)
    assert safe.isprintable()
    assert safe.encode().decode() == safe


@given(st.text() | st.sampled_from(["<script>x</script>", '" onload="x', "&lt;", ODD]))
def test_a_page_shows_the_text_and_nothing_else(text: str) -> None:
    seen: list[str] = []
    tags: list[str] = []

    class Reader(html.parser.HTMLParser):
        def handle_data(self, data: str) -> None:
            seen.append(data)

        def handle_starttag(self, tag: str, attrs: object) -> None:
            tags.append(tag)

    reader = Reader()
    reader.feed(f'<p title="{for_html(text)}">{for_html(text)}</p>')
    reader.close()
    assert tags == ["p"]
    assert "".join(seen) == for_terminal(text)


@pytest.mark.parametrize("text", ["../../etc/passwd", "/x", "..", "", "\x00", "a" * 999, ODD])
def test_a_file_name_leads_to_no_other_folder(text: str, tmp_path: Path) -> None:
    name = for_file_name(text)
    (tmp_path / name).write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(name) <= 80
