"""Quantities as people write them: `256MB`, `8ms`, `10M`, `200/s`, `5%`, `4x`. Parsed strictly."""

from __future__ import annotations

import re

from homoexport.errors import UserError

_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_COUNTS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}
_NUMBER = r"(?P<number>\d+(?:\.\d+)?)"


def parse_bytes(text: str, *, where: str) -> int:
    """Bytes of `256MB` (10**6), `1GiB` (2**30) and the like.

    Raises:
        UserError: no positive number with one of the units.
    """
    match = re.fullmatch(rf"{_NUMBER} ?(?P<unit>[A-Za-z]+)", text.strip())
    if match is None or match["unit"] not in _BYTES or float(match["number"]) == 0:
        raise UserError(f"'{text}' is no size", where=where, hint=f"give a number and one of {', '.join(_BYTES)}")
    return round(float(match["number"]) * _BYTES[match["unit"]])


def parse_percent(text: str, *, where: str) -> float:
    """The share that `5%` is: 0.05.

    Raises:
        UserError: no positive number with a percent sign.
    """
    match = re.fullmatch(rf"{_NUMBER} ?%", text.strip())
    if match is None or float(match["number"]) == 0:
        raise UserError(f"'{text}' is no percentage", where=where, hint="write it as 5%")
    return float(match["number"]) / 100


def parse_milliseconds(text: str, *, where: str) -> float:
    """Milliseconds of `8ms`, `500us`, `0.5s`.

    Raises:
        UserError: no positive number with one of the units.
    """
    match = re.fullmatch(rf"{_NUMBER} ?(?P<unit>[A-Za-z]+)", text.strip())
    if match is None or match["unit"] not in _MILLISECONDS or float(match["number"]) == 0:
        raise UserError(
            f"'{text}' is no time", where=where, hint=f"give a number and one of {', '.join(_MILLISECONDS)}"
        )
    return float(match["number"]) * _MILLISECONDS[match["unit"]]


def parse_count(text: str, *, where: str) -> int:
    """The number that `10M` is: 10 million; k thousand, B billion.

    Raises:
        UserError: no positive number, alone or with one of the letters.
    """
    match = re.fullmatch(rf"{_NUMBER} ?(?P<unit>[A-Za-z]*)", text.strip())
    if match is None or match["unit"] not in _COUNTS or round(float(match["number"]) * _COUNTS[match["unit"]]) == 0:
        raise UserError(f"'{text}' is no count", where=where, hint="write it as 10M (k, M or B), or as a plain number")
    return round(float(match["number"]) * _COUNTS[match["unit"]])


def parse_rate(text: str, *, where: str) -> float:
    """The rate per second that `200/s` is.

    Raises:
        UserError: no positive number followed by /s.
    """
    match = re.fullmatch(rf"{_NUMBER} ?/ ?s", text.strip())
    if match is None or float(match["number"]) == 0:
        raise UserError(f"'{text}' is no rate", where=where, hint="write it as 200/s")
    return float(match["number"])


def parse_share(text: str) -> float | None:
    """How a quantity relates to another's: `4x` is 4, `25%` is 0.25; None of anything else."""
    match = re.fullmatch(rf"{_NUMBER} ?(?P<unit>[x%])", text.strip())
    if match is None or float(match["number"]) == 0:
        return None
    return float(match["number"]) / (100 if match["unit"] == "%" else 1)
