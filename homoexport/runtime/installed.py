"""Whether a runtime is installed."""

from __future__ import annotations

import importlib.util

from homoexport.choices import Runtime


def install_hint(runtime: Runtime) -> str | None:
    """The command that installs a runtime; None where it is there."""
    return None if importlib.util.find_spec(runtime) else f"pip install 'homoexport[{runtime}]'"
