"""Labels as files write them, as a model numbers them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from homoexport.errors import TextError


def names_of(labels: Iterable[str]) -> tuple[str, ...]:
    """The different labels there are: numbers by their size, then words by the alphabet."""
    return tuple(sorted(set(labels), key=lambda label: (not label.isdecimal(), label.zfill(9), label)))


def label_places(wanted: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """Where wanted labels, different ones in the order that models number them in, stand among a model's.

    By name; by that order where the model's names say nothing, LABEL_0 and up or 0 and up, and are as many. None where
    the model does not have them.
    """
    silent = all(name in (f"LABEL_{place}", str(place)) for place, name in enumerate(names))
    positions = list(range(len(names))) if silent and len(names) == len(wanted) else None
    return _named_places(wanted, names) or positions


def _named_places(wanted: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """By name, as it is written, else in any case and with `_`, `-` and blanks for one another."""
    for form in (str, _plain):
        places = {form(name): place for place, name in enumerate(names)}
        asked = [form(label) for label in wanted]
        if len(places) == len(names) and len(set(asked)) == len(asked) and places.keys() >= set(asked):
            return [places[label] for label in asked]
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).casefold()


def label_indices(
    labels: Sequence[str],
    names: Sequence[str],
    *,
    where: str,
    order: Sequence[str] | None = None,
    numbered: bool = False,
) -> NDArray[np.int64]:
    """Labels as the file `where` has them, at least one, as indices of a model's labels, [N].

    Args:
        order: all that the labels can be, in the order that models number them in, where it is known.
        numbered: whether numbers stand for the places of the model's labels, if none of these is a number itself.

    Raises:
        TextError: a label that the model does not have.
    """
    found = list(order) if order is not None else sorted(set(labels))
    places = label_places(found, names) if order is not None else _named_places(found, names)
    numbered = numbered and not any(name.isdecimal() for name in names)
    if places is None and numbered and all(label.isdecimal() and int(label) < len(names) for label in found):
        places = [int(label) for label in found]
    if places is None:
        raise _unknown(labels if order is None else order, names, where=where, numbered=numbered)
    place_of = dict(zip(found, places, strict=True))
    return np.array([place_of[label] for label in labels], dtype=np.int64)


def _unknown(labels: Sequence[str], names: Sequence[str], *, where: str, numbered: bool) -> TextError:
    named = {_plain(name) for name in names}
    numbers = {str(place) for place in range(len(names))} if numbered and _plain(labels[0]) not in named else set()
    odd = next((label for label in labels if _plain(label) not in named and label not in numbers), labels[0])
    ways = "name another --label-column or model, or write the labels as the model has them"
    hint = f"{ways}, or as numbers from 0" if numbered else ways
    return TextError(f"the label '{odd}' is none of the model's ({', '.join(names)})", where=where, hint=hint)
