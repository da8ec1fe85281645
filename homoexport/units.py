"""Quantities as people write them: `256MB`, `8ms`, `10M`, `200/s`, `5%`, `4x`, parsed strictly; and times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import SupportsIndex

from homoexport.errors import UserError

_BYTES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_COUNTS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


def parse_bytes(text: str, *, where: str) -> int:
    """Bytes of `256MB` (10**6), `1GiB` (2**30) and the like.

    Raises:
        UserError: no positive number with one of the units.
    """
    found = _in_units(text, _BYTES)
    if not found:
        raise UserError(f"'{text}' is no size", where=where, hint=f"give a number and one of {', '.join(_BYTES)}")
    return round(found)


def parse_percent(text: str, *, where: str) -> float:
    """The share that `5%` is: 0.05.

    Raises:
        UserError: no positive number with a percent sign.
    """
    found = _in_units(text, {"%": 1})
    if not found:
        raise UserError(f"'{text}' is no percentage", where=where, hint="write it as 5%")
    return found / 100


def parse_milliseconds(text: str, *, where: str) -> float:
    """Milliseconds of `8ms`, `500us`, `0.5s`.

    Raises:
        UserError: no positive number with one of the units.
    """
    found = _in_units(text, _MILLISECONDS)
    if not found:
        hint = f"give a number and one of {', '.join(_MILLISECONDS)}"
        raise UserError(f"'{text}' is no time", where=where, hint=hint)
    return found


def parse_count(text: str, *, where: str) -> int:
    """The number that `10M` is: 10 million; k thousand, B billion.

    Raises:
        UserError: no positive number, alone or with one of the letters.
    """
    found = round(_in_units(text, _COUNTS) or 0)
    if not found:
        raise UserError(f"'{text}' is no count", where=where, hint="write it as 12000, 12k or 10M; 1 or more")
    return found


def parse_rate(text: str, *, where: str) -> float:
    """The rate per second that `200/s` is.

    Raises:
        UserError: no positive number followed by /s.
    """
    found = _in_units(text, {"/s": 1})
    if not found:
        raise UserError(f"'{text}' is no rate", where=where, hint="write it as 200/s")
    return found


def parse_share(text: str) -> float | None:
    """How a quantity relates to another's: `4x` is 4, `25%` is 0.25; None of anything else."""
    if found := _in_units(text, {"%": 1}):
        return found / 100
    return _in_units(text, {"x": 1}) or None


def check_count(value: object, what: str, *, where: str) -> None:
    """Refuse (UserError) what is no whole number of 1 or more; `what` says what it would be."""
    if not isinstance(value, SupportsIndex) or value.__index__() < 1:
        raise UserError(what, where=where, hint="give a whole number, 1 or more")


def _in_units(text: str, units: Mapping[str, float]) -> float | None:
    """A number times its unit; None of anything else."""
    match = re.fullmatch(r"(?P<number>\d+(?:\.\d+)?) ?(?P<unit>[A-Za-z%]*|/ ?s)", text.strip())
    unit = "" if match is None else match["unit"].replace(" ", "")
    return None if match is None or unit not in units else float(match["number"]) * units[unit]


def duration(seconds: float) -> str:
    """A time as people say it.

    >>> duration(1.2), duration(41.3), duration(345), duration(7000)
    ('1 s', '41 s', '6 min', '1.9 h')
    """
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
