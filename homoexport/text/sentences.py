"""Sentences out of English prose.

A boundary is `.`, `!` or `?` (with closing quotes or brackets) before white space and anything but
a lower-case letter. After an abbreviation or an initial ("Sen.", "U.S.", "J."), which may or may
not end its sentence, the next word decides: only a usual sentence opener makes a boundary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from homoexport.choices import TextUnit

_END = re.compile(r"""(?P<word>[^\s"'(\[“‘]*)(?P<mark>[.!?]+)(?P<close>["'’”)\]]*)\s+(?=["'‘“(\[]*(?P<next>\w+))""")
_ABBREVIATION = re.compile(
    r"(?:[a-z]\.)*[a-z]"  # initials, U.S, p.m
    r"|mr|mrs|ms|messrs|dr|prof|rev|hon|gen|maj|col|lt|sgt|capt|cmdr|adm|gov|sens?|reps?|pres|supt|atty|ph\.d"
    r"|sec|st|mt|ft|vs|viz|cf|vols?|figs?|pp|nos?|inc|co|corp|ltd|jr|sr|etc|bros|dept|al"
    r"|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec",
    re.IGNORECASE,
)
_OPENER = re.compile(
    "an|and|as|at|but|by|for|he|her|his|how|however|if|in|it|its|my|no|of|on|our|she|so|that|the|their|then|there"
    "|these|they|this|those|to|we|what|when|while|who|with|you",
    re.IGNORECASE,
)
_WORD = re.compile(r"\S*[^\W\d_]\S*")


def _ends_sentence(match: re.Match[str]) -> bool:
    if match["next"][0].islower():
        return False
    if match["mark"] == "." and not match["close"] and _ABBREVIATION.fullmatch(match["word"]):
        return _OPENER.fullmatch(match["next"]) is not None
    return True


def split_sentences(text: str) -> Iterator[str]:
    """The sentences of a text, in order, with their white space collapsed.

    >>> list(split_sentences('Mr. J. Adams left at 5 p.m. He said "Stay!" Nobody did.'))
    ['Mr. J. Adams left at 5 p.m.', 'He said "Stay!"', 'Nobody did.']
    """
    text = " ".join(text.split())
    start = 0
    for match in _END.finditer(text):
        if _ends_sentence(match):
            yield text[start : match.end()].rstrip()
            start = match.end()
    if start < len(text):
        yield text[start:]


def units_of(row: str, unit: TextUnit) -> Iterable[str]:
    """The texts that a row is made of, their white space collapsed: its sentences, or itself."""
    return split_sentences(row) if unit == "sentence" else (" ".join(row.split()),)


def count_words(sentence: str) -> int:
    """Words with at least one letter: rows of figures and rules are no prose."""
    return len(_WORD.findall(sentence))
