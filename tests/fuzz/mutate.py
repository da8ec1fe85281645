"""Mutations of good inputs: of their bytes, and of the values in JSON and YAML."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

_BYTES = [
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\r",
    b'"',
    b"[" * 3000,
    b"{",
    b"9" * 400,
    b"\n",
    b",",
    b":",
]
_VALUES: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**63, 10**30, 1e308, -0.5, "", "x", "\0", "../../x", "/etc/passwd", "\x1b[31m", "²",
    [], {}, [[]], {"": None}, ["x"] * 50, "a" * 5000, {"__type": "AddedToken", "content": 5}, [1, "x", None], "NaN",
]  # fmt: skip


def mutated_bytes(content: bytes, draw: random.Random) -> bytes:
    """One to four changes: bits, cuts, repeats, and what parsers stumble over."""
    found = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        start = draw.randrange(len(found) + 1)
        stop = min(len(found), start + draw.choice([1, 2, 8, 64, 1024]))
        kind = draw.randrange(6)
        if kind == 0 and found:
            found[min(start, len(found) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del found[start:stop]
        elif kind == 2:
            found[start:start] = found[start:stop] * draw.choice([1, 2, 30])
        elif kind == 3:
            found[start:start] = draw.choice(_BYTES)
        elif kind == 4:
            found[start:stop] = draw.randbytes(stop - start)
        else:
            del found[start:]
    return bytes(found)


def mutated_value(value: Any, draw: random.Random) -> Any:
    """A JSON value with one to three of its places changed, left out, doubled or renamed."""
    changed = json.loads(json.dumps(value))
    for _ in range(draw.randint(1, 3)):
        places = list(_places(changed))
        if not places:
            return copy.deepcopy(draw.choice(_VALUES))
        parent, key = draw.choice(places)
        kind = draw.randrange(6)
        if kind == 0:
            del parent[key]
        elif kind == 1:
            other, place = draw.choice(places)
            if place in (other if isinstance(other, dict) else range(len(other))):
                parent[key] = json.loads(json.dumps(other[place]))
        elif kind == 2 and isinstance(parent, dict):
            parent[draw.choice(["x", "", "²", str(key) + "_", "auto_map", "model_type"])] = parent.pop(key)
        else:
            parent[key] = copy.deepcopy(draw.choice(_VALUES))
    return changed


def mutated_json(content: bytes, draw: random.Random) -> bytes:
    """Mostly other values in JSON that is one, and sometimes other bytes."""
    if draw.random() < 0.3:
        return mutated_bytes(content, draw)
    return json.dumps(mutated_value(json.loads(content), draw)).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from _places(value[key])
