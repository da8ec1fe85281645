"""The command line: parses, prints, sets the exit code; every command wraps a function.

Exit codes: 0 done; 1 a failure of ours; 2 wrong usage or bad input; 3 done, but a budget or an
accuracy gate is missed.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from homoexport.cli.app import app
from homoexport.errors import HomoexportError

_INTERRUPTED = 128 + signal.SIGINT


def _end(_signal: int, _frame: FrameType | None) -> None:
    """Leave as by an error, so that half-written folders and temporary ones go."""
    sys.exit(128 + signal.SIGTERM)


def main() -> None:
    """Entry point of the `homoexport` command."""
    # Libraries' own bars and advice would be mixed with ours.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    signal.signal(signal.SIGTERM, _end)
    try:
        app(standalone_mode=True)
    except HomoexportError as error:
        _say("error:", f" {error}")
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            _say("interrupted")
        raise


def _say(title: str, text: str = "") -> None:
    """Print a line on stderr; of many processes, one does."""
    from rich.text import Text

    from homoexport.cli import screen

    if screen.speaks():
        screen.errors.print(Text.assemble((title, "bold red"), text), soft_wrap=True)
