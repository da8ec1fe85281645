"""Strangers' words, shown and not obeyed: on a terminal, in Markdown with its HTML, and in a card's YAML.

Who made a model chose the names of its files, nodes and labels, and what its config and its manifest say; libraries
quote them in their messages. Whatever is shown of that goes through one of these functions, at the door where it
leaves.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

# Control characters; what is invisible or turns the direction of text; halves of characters. The joiners U+200C and
# U+200D stay, for words of Persian and Hindi have them.
_UNSEEN = re.compile(
    "[\0-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_MARKS = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")  # an underscore inside a word is none
_FIRST = re.compile(r"^(\s*\d{0,9})([-+#=.)])(?=[-+#=]*(?:\s|$))")  # of a line: a heading, a rule, an item of a list
_NEWLINE = "\n"
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def visible(text: str, *, keep: str = "") -> str:
    r"""What a terminal shows and does not obey, in one line: other characters, but those to keep, as `\x1b` or `\n`."""
    return _UNSEEN.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text)


def markdown(text: str) -> Markdown:
    """Text that reads the same in Markdown, in one line, and is neither a mark of Markdown's nor HTML."""
    line = "".join(_HTML.get(character, character) for character in _in_one_line(text))
    return Markdown(_FIRST.sub(r"\1\\\2", _MARKS.sub(r"\\\g<0>", line)))


def code(text: str) -> Markdown:
    """Text as a code span of Markdown's; its fence is longer than any that is in it."""
    line = _in_one_line(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " * (line[:1] == "`" or line[-1:] == "`")
    return Markdown(f"{fence}{space}{line}{space}{fence}")


def block(text: str, language: str) -> Markdown:
    """Lines of code as a block of Markdown's; its fence is longer than any that is in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return Markdown(f"{fence}{language}\n{visible(text, keep=_NEWLINE).strip(_NEWLINE)}\n{fence}")


def literal(text: str) -> Markdown:
    """Text as a string of Python's, for a block of code; it can neither end the string nor the block."""
    return Markdown(visible(json.dumps(text, ensure_ascii=False)))


def line(text: str) -> Markdown:
    """Text as it stands, in one line, for a comment and the like."""
    return Markdown(visible(_in_one_line(text)))


def front_matter(values: Mapping[str, object]) -> Markdown:
    """YAML of plain values, a line each, however many their text has."""
    import yaml

    plain = {key: visible(value) if isinstance(value, str) else value for key, value in values.items()}
    return Markdown(yaml.safe_dump(plain, sort_keys=False, width=math.inf).strip())


def _in_one_line(text: str) -> str:
    return visible(re.sub(r"\s+", " ", text))
