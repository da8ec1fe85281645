"""How much longer a tokenizer.json may make a text: each step can double what the one before it left.

The steps are those of tokenizers' normalizers and pre-tokenizers that put more there than they take.
"""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from pydantic import JsonValue
from pydantic_core import from_json

from homoexport.errors import UserError

MOST = 1000  # times as long; real ones stay below 20
_Step: TypeAlias = Mapping[str, JsonValue]
_ANYTHING = None  # of characters


def refuse_growth(path: Path, kind: type[UserError]) -> None:
    """Refuse a tokenizer.json whose steps may make a text more than 1,000 times as long, not one that is none."""
    content = None
    with suppress(ValueError, OSError):
        content = from_json(path.read_bytes())
    parts = [content.get(name) for name in ("normalizer", "pre_tokenizer")] if isinstance(content, dict) else []
    found: list[tuple[float, set[str] | None]] = []  # how much longer by the step at most, and what it then holds
    for step in (step for part in parts for step in _steps(part)):
        taken, times, left = _effect(step)
        before = (so_far for so_far, held in found if taken is None or held is None or taken & held)
        found.append((max(1.0, times) * max(before, default=1.0), left))
    if max((so_far for so_far, _ in found), default=1.0) > MOST:
        raise kind(f"may make a text more than {MOST} times as long", where=str(path), hint="do not use it")


def _steps(part: JsonValue) -> Iterator[_Step]:
    """The steps of a normalizer or pre-tokenizer, in their order; its depth is from_json's."""
    for step in part if isinstance(part, list) else [part]:
        if isinstance(step, dict) and step.get("type") == "Sequence":
            for name in ("normalizers", "pretokenizers"):
                yield from _steps(step.get(name))
        elif isinstance(step, dict):
            yield step


def _effect(step: _Step) -> tuple[set[str] | None, float, set[str] | None]:
    """Which characters a step takes, how many times as many it puts there at most, and which."""
    kind, pattern, put = step.get("type"), step.get("pattern"), step.get("content")
    if kind == "Replace" and isinstance(put, str) and isinstance(pattern, dict):
        if text := pattern.get("String"):
            return _letters(str(text)), len(put) / len(str(text)), _letters(put)
        return _ANYTHING, len(put) + _matches_nothing(str(pattern.get("Regex", ""))), _letters(put)
    if kind == "Precompiled":
        with suppress(ValueError):
            blob = base64.b64decode(str(step.get("precompiled_charsmap")))
            texts = blob[4 + int.from_bytes(blob[:4], "little") :]
            return _ANYTHING, max(map(len, texts.split(b"\0"))), _ANYTHING
    return _ANYTHING, 2 if kind == "ByteLevel" else 1, _ANYTHING


def _letters(text: str) -> set[str]:
    """Its characters, as the steps between may change them."""
    return set(unicodedata.normalize("NFKD", text.casefold()))


def _matches_nothing(regex: str) -> bool:
    """Whether a pattern has matches without a character: then what is put there comes on top."""
    from tokenizers import Regex
    from tokenizers.normalizers import Replace

    sample = "".join(map(chr, range(32, 127))) + "éß中 \n"
    with suppress(Exception):  # of a pattern that tokenizers will refuse
        return len(Replace(Regex(regex), "\0").normalize_str(sample)) > len(sample)
    return True
