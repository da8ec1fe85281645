"""Panics of libraries in Rust: an exception like others to Python, but printed before it is raised."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unprinted_panics() -> Iterator[None]:
    """Nothing that is written to this process's stderr meanwhile is seen, whoever writes it."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
