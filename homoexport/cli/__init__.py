"""The command line: parses, prints, sets the exit code; every command wraps a function.

Exit codes: 0 done; 1 a failure of ours; 2 wrong usage or bad input; 3 done, but a budget or an
accuracy gate is missed.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

import typer

from homoexport.cli.app import app
from homoexport.errors import HomoexportError

_UsageError: Any = typer.BadParameter.__base__  # typer has no public name for it
_INTERRUPTED = 128 + signal.SIGINT


def _end(number: int, _frame: FrameType | None) -> None:
    """Leave as by an error, so that half-written folders and temporary ones go."""
    sys.exit(128 + number)


def main() -> None:
    """Entry point of the `homoexport` command."""
    # Libraries' own bars and advice would be mixed with ours.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="homoexport", standalone_mode=False)
    except HomoexportError as error:
        _say("error:", f" {error}")
        sys.exit(error.exit_code)
    except _UsageError as error:
        _say("error:", f" {_in_one_line(error)}")
        sys.exit(2)
    if code == _INTERRUPTED:  # what typer makes of a KeyboardInterrupt
        _say("interrupted")
    sys.exit(code)


def _in_one_line(error: Any) -> str:
    """What is wrong with the words of a command, and where its help is."""
    message = error.format_message().replace("Value error, ", "").removesuffix(".")
    return f"{message}; see `{error.ctx.command_path} --help`" if error.ctx else message


def _say(title: str, text: str = "") -> None:
    """Print a line on stderr; of many processes, one does."""
    from rich.text import Text

    from homoexport.cli import screen

    if screen.speaks():
        screen.errors.print(Text.assemble((title, "bold red"), text), soft_wrap=True)
