"""Text of others, such as ids, prompts, tokens and paths, made safe to show.

Such text may hold codes that move the cursor, turn the direction of writing, begin a line that
looks like another message, or end an element of a page.
"""

import html
import re

LONGEST_FILE_NAME = 80  # characters that a text adds to a file's name


def for_terminal(text: str, *, lines: bool = False) -> str:
    r"""Write every character that does not print as an escape, such as `\x1b` or `\u202e`.

    Args:
        text: Any text, also with lone surrogates.
        lines: Whether ends of lines stay that two spaces follow, as in a list of faults.
    """
    parts = text.split("\n  ") if lines else [text]
    return "\n  ".join(map(_escaped, parts))


def for_page_text(text: str) -> str:
    """Write text that stands in a page as text, where ends of lines and tabs are drawn as such."""
    return _escaped(text, keep="\n\t")


def for_html(text: str) -> str:
    """Write text so that it stands in a page, in an element or a quoted attribute, as it is."""
    return html.escape(for_terminal(text), quote=True)


def for_file_name(text: str) -> str:
    """Write text so that it can be part of a file's name, and leads to no other folder."""
    safe = re.sub(r"[^A-Za-z0-9._=-]+", "_", text).strip("._")
    return safe[:LONGEST_FILE_NAME] or "_"


def _escaped(text: str, keep: str = "") -> str:
    return "".join(
        char if char.isprintable() or char in keep else escape_character(char) for char in text
    )


def escape_character(char: str) -> str:
    r"""Write one character by its number, such as `\x1b` or `\u202e`."""
    code = ord(char)
    if char in "\n\r\t":
        return {"\n": r"\n", "\r": r"\r", "\t": r"\t"}[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
