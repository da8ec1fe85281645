"""How much longer a tokenizer.json may make a text: many small steps, each on what the one before it left, add up.

The steps are those of tokenizers' normalizers and pre-tokenizers that can put more there than they take.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from pydantic import JsonValue
from pydantic_core import from_json

from homoexport.errors import UserError

MOST_TIMES_LONGER = 10_000  # real tokenizers stay below 100
_Step: TypeAlias = Mapping[str, JsonValue]
_Letters: TypeAlias = "set[str] | None"  # None: any
_MAY_MATCH_NOTHING = re.compile(r"\(\?|[*?|^$]|\{0|\{,|\\[bBAzZGK]|^$")
# What one character can become, by steps that change nothing where they come again, unless another came between.
_BY_KIND = {"NFC": 4, "NFD": 4, "NFKC": 18, "NFKD": 18, "Lowercase": 3, "BertNormalizer": 3, "Metaspace": 2}
_LISTS = ("normalizers", "pretokenizers")


def refuse_growth(path: Path, kind: type[UserError]) -> None:
    """Refuse a tokenizer.json whose steps may make a text more than 10,000 times as long, not one that is none."""
    content = None
    with suppress(ValueError, OSError):
        content = from_json(path.read_bytes())
    parts = [content.get(name) for name in ("normalizer", "pre_tokenizer")] if isinstance(content, dict) else []
    seen: Counter[str] = Counter()
    longest: list[tuple[float, _Letters]] = []  # after each step, of what it put there; and its letters
    for step in (step for part in parts for step in _steps(part)):
        name = str(step.get("type") or _kind_of(step))
        taken, times, put = _effect(step, name, is_first=not seen[name])
        seen[name] += 1
        # It makes longer what a step before it put there only where it takes a letter of that.
        before = (so_far for so_far, letters in longest if taken is None or letters is None or taken & letters)
        longest.append((max(1.0, times) * max(before, default=1.0), put))
    if max((so_far for so_far, _ in longest), default=1.0) > MOST_TIMES_LONGER:
        what = f"may make a text more than {MOST_TIMES_LONGER} times as long"
        raise kind(what, where=str(path), hint="do not use it")


def _steps(part: JsonValue) -> Iterator[_Step]:
    """The steps of a normalizer or pre-tokenizer, in their order; its depth is from_json's."""
    for step in part if isinstance(part, list) else [part]:
        if isinstance(step, dict):
            inner = [step[name] for name in _LISTS if name in step]
            for steps in inner:
                yield from _steps(steps)
            if not inner:
                yield step


def _kind_of(step: _Step) -> str:
    """tokenizers knows steps by their fields, too."""
    return "Replace" if "content" in step else "Precompiled" if "precompiled_charsmap" in step else ""


def _effect(step: _Step, kind: str, *, is_first: bool) -> tuple[_Letters, float, _Letters]:
    """Which letters a step takes, how many times as many it puts there at most, and which."""
    pattern, put = step.get("pattern"), step.get("content")
    if kind == "Replace" and isinstance(put, str):
        text = pattern.get("String") if isinstance(pattern, dict) else pattern
        if text:
            return _letters(str(text)), len(put) / len(str(text)), _letters(put)
        regex = str(pattern.get("Regex", "")) if isinstance(pattern, dict) else ""
        return None, len(put) + bool(_MAY_MATCH_NOTHING.search(regex)), _letters(put)
    if kind == "Precompiled":
        with suppress(ValueError):
            blob = base64.b64decode(str(step.get("precompiled_charsmap")))
            texts = blob[4 + int.from_bytes(blob[:4], "little") :]
            return None, max(len(text.decode(errors="replace")) for text in texts.split(b"\0")), None
    return None, 2 if kind == "ByteLevel" else 1 if is_first else _BY_KIND.get(kind, 1), None


def _letters(text: str) -> set[str]:
    """Its letters, as the steps between may change them."""
    return set(unicodedata.normalize("NFKD", text.casefold()))
