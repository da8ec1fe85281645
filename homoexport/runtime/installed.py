"""Whether a runtime is installed."""

from __future__ import annotations

import importlib.util

from homoexport.choices import Runtime


def install_hint(runtime: Runtime) -> str | None:
    """The command that installs a runtime; None where it is there.

    A package's own folder of that name, in the current folder, is no runtime: it has no origin.
    """
    found = importlib.util.find_spec(runtime)
    return f"pip install 'homoexport[{runtime}]'" if found is None or found.origin is None else None
