from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from tokenizers import Regex, normalizers

from homoexport.errors import PackageError, UserError
from homoexport.growth import MOST_TIMES_LONGER, refuse_growth


def regex(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def string(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def in_turn(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def charsmap(longest: int) -> dict[str, Any]:
    blob = struct.pack("<I", 4) + b"trie" + b"a\0" + b"b" * longest + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(blob).decode()}


PLAIN = {
    "none": None,
    "of BERT": {"type": "BertNormalizer", "lowercase": True},
    "of XLM-R": in_turn(charsmap(18), regex(" {2,}", "▁")),
    "bytes": {"type": "ByteLevel"},
    "spaces around signs": in_turn(*(string(sign, f" {sign} ") for sign in ".,;:!?()[]{}<>")),
    "signs written out": in_turn(*(string(sign, "...") for sign in "…⋯⁝⁞")),
    "marks for what is taken out": in_turn(
        regex(r"https?://\S+", "[URL]"), regex(r"@\w+", "[USER]"), regex(r"\d+", "[NUM]"), regex(r"\S+@\S+", "[MAIL]")
    ),
    "forms of Unicode": in_turn({"type": "NFKC"}, {"type": "Lowercase"}, {"type": "NFD"}, {"type": "StripAccents"}),
    "one for many": in_turn(*([regex(r"\s+", " "), regex(r"\p{Cc}+", " ")] * 20)),
}
ENDLESS = {
    "any character": in_turn(*[regex(".", "aa")] * 34),
    "one character": in_turn(*[string("a", "aa")] * 34),
    "by way of another": in_turn(*[string("a", "bb"), string("b", "a")] * 34),
    "by way of lower case": in_turn(*[string("A", "aa"), {"type": "Lowercase"}, string("a", "AA")] * 17),
    "without a character": in_turn(*[regex("(?=a)", "a")] * 34),
    "before some": in_turn(*[regex("(?=aa)", "a")] * 34),
    "before what is not ASCII": in_turn(*[regex("(?=я)", "я")] * 34),
    "steps without a name": {"normalizers": [{"pattern": {"Regex": "."}, "content": "aa"}] * 34},
    "a form of Unicode": in_turn(*[string("ل", "ﷺ"), {"type": "NFKC"}] * 17),
    "another letter in lower case": in_turn(*[string("i", "İ"), {"type": "Lowercase"}, string("\u0307", "i")] * 17),
    "spaces around Chinese": in_turn(*[string(" ", "中"), {"type": "BertNormalizer"}] * 17),
    "in parts": in_turn(in_turn(*[string("a", "aab")] * 10), in_turn(*[regex("b|", "a")] * 10)),
    "bytes of bytes": in_turn(*[{"type": "ByteLevel"}] * 34),
    "a table": charsmap(MOST_TIMES_LONGER + 1),
}


def refuse(tmp_path, content: object, *, part: str = "normalizer") -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({part: content}))
    refuse_growth(path, PackageError)


@pytest.mark.parametrize("steps", PLAIN.values(), ids=PLAIN)
def test_what_tokenizers_have_is_taken(tmp_path, steps):
    refuse(tmp_path, steps)


@pytest.mark.parametrize("steps", ENDLESS.values(), ids=ENDLESS)
def test_what_would_make_a_text_endless_is_refused(tmp_path, steps):
    with pytest.raises(UserError, match="may make a text more than 10000 times as long"):
        refuse(tmp_path, steps)


def test_pre_tokenizers_count_too(tmp_path):
    with pytest.raises(PackageError, match="10000 times"):
        refuse(tmp_path, {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 34}, part="pre_tokenizer")


@pytest.mark.parametrize("content", [[], 1, {"type": "Sequence", "normalizers": 3}, {"type": 4}, regex("(", "aa")])
def test_what_is_no_tokenizer_is_left_to_its_library(tmp_path, content):
    refuse(tmp_path, content)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (normalizers.Replace(Regex("."), "aa"), "aaaaa"),
        (normalizers.Replace(Regex("(?=a)"), "a"), "aaaaa"),
        (normalizers.ByteLevel(), "ééééé"),
    ],
    ids=str,
)
def test_steps_double_a_text(step, text):
    assert len(step.normalize_str(text)) == 2 * len(text)
