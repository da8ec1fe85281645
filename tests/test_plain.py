"""Strangers' words at every door: a terminal shows and does not obey them, Markdown and YAML take them for text."""

from __future__ import annotations

import ast
import re
import unicodedata

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from homoexport.plain import code, front_matter, literal, markdown, visible
from tests.hostile import HOSTILE

ANY = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())


def is_obeyed(character: str) -> bool:
    """Whether a terminal does anything but to show it; the joiners are parts of words."""
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or (
        unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    )


@given(st.text(st.characters(), max_size=40))
@example("".join(map(chr, range(0x300))))
@example("".join(map(chr, range(0x2000, 0x2100))))
def test_what_is_visible_does_nothing_and_is_in_one_line(text):
    told = visible(text)
    assert not any(map(is_obeyed, told))
    told.encode()
    assert "\n" in visible(f"{text}\n", keep="\n")


@pytest.mark.parametrize("text", ["plain", "größer Ж 语 عربي", "می\u200cخواهم", "👩\u200d💻", "a\\x1b"])
def test_words_of_people_stay_as_they_are(text):
    assert visible(text) == text


@given(st.text(st.characters(), max_size=40))
def test_markdown_is_one_line_without_marks(text):
    told = markdown(text)
    assert not any(map(is_obeyed, told))
    assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", told)
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*\[\]|~$]", told)


@ANY
def test_markdown_shows_the_text(text):
    told = markdown(text)
    read = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", told)
    for name, character in {"&lt;": "<", "&gt;": ">", "&amp;": "&"}.items():
        read = read.replace(name, character)
    assert read == visible(re.sub(r"\s+", " ", text))


@ANY
def test_code_ends_where_it_should(text):
    told = code(text)
    fence = re.match("`+", told)[0]
    assert told.endswith(fence)
    assert fence not in re.findall("`+", told[len(fence) : -len(fence)])
    assert "\n" not in told


@ANY
def test_a_string_in_code_is_that_string(text):
    told = literal(text)
    assert ast.literal_eval(told) == text
    assert "\n" not in told


@ANY
def test_front_matter_holds_those_keys_and_no_others(text):
    told = front_matter({"base_model": text, "tags": ["onnx"]})
    assert yaml.safe_load(told) == {"base_model": visible(text), "tags": ["onnx"]}
    assert len(told.splitlines()) == 3
