"""Quantities as people write them: `256MB`, `5%`. Parsed strictly."""

from __future__ import annotations

import re

from homoexport.errors import UserError

_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_NUMBER = r"(?P<number>\d+(?:\.\d+)?)"


def parse_bytes(text: str, *, where: str) -> int:
    """Bytes of `256MB` (10**6), `1GiB` (2**30) and the like.

    Raises:
        UserError: no positive number with one of the units.
    """
    match = re.fullmatch(rf"{_NUMBER} ?(?P<unit>[A-Za-z]+)", text.strip())
    if match is None or match["unit"] not in _BYTES or float(match["number"]) == 0:
        raise UserError(f"'{text}' is no size", where=where, mend=f"give a number and one of {', '.join(_BYTES)}")
    return round(float(match["number"]) * _BYTES[match["unit"]])


def parse_percent(text: str, *, where: str) -> float:
    """The share that `5%` is: 0.05.

    Raises:
        UserError: no positive number with a percent sign.
    """
    match = re.fullmatch(rf"{_NUMBER} ?%", text.strip())
    if match is None or float(match["number"]) == 0:
        raise UserError(f"'{text}' is no percentage", where=where, mend="write it as 5%")
    return float(match["number"]) / 100
