"""The command line: parses, prints, sets the exit code; every command wraps a function.

Exit codes: 0 done; 1 a failure of ours; 2 wrong usage or bad input; 3 done, but a budget or an
accuracy gate is missed.
"""

from __future__ import annotations

import atexit
import errno
import os
import re
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import redirect_stderr, suppress
from difflib import get_close_matches
from types import FrameType
from typing import Any, TextIO, cast

import typer
from rich.text import Text

from homoexport.cli import screen
from homoexport.cli.app import app
from homoexport.errors import HomoexportError, first_line
from homoexport.plain import visible

_UsageError: Any = typer.BadParameter.__base__  # typer has no public name for it
_FULL = (errno.ENOSPC, errno.EDQUOT)
# What was named cannot be meant, or is not this user's.
_NO_PATHS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM)
_SHOWN = 200  # characters of it
_NEAR = 0.65  # of 1, the likeness of a name that may have been meant
_INTERRUPTED, _CUT_OFF = 128 + signal.SIGINT, 128 + signal.SIGPIPE
_ENDED = (_INTERRUPTED, *(128 + getattr(signal, name, signal.SIGTERM) for name in ("SIGTERM", "SIGHUP")))  # by others


def _end(number: int, _frame: FrameType | None) -> None:
    """Leave as by an error, so that half-written folders and temporary ones go."""
    sys.exit(128 + number)


def command() -> None:
    """Entry point of the `homoexport` command: `main`. A process that a signal ends is gone when all is cleaned up: to
    take its interpreter apart, with torch in it, can take seconds more. So is one of many, which would abort at times:
    threads of their connections still run meanwhile."""
    try:
        main()
    except SystemExit as end:
        is_one_of_many = os.environ.get("WORLD_SIZE", "1") != "1"
        if not isinstance(end.code, int) or not (is_one_of_many or end.code in _ENDED):
            raise
        try:
            atexit._run_exitfuncs()
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):  # that cannot be written to, or is closed
                    stream.flush()
        finally:
            os._exit(end.code)


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    # Libraries' own bars and advice would be mixed with ours.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    screen.errors.loudness = screen.Loudness.USUAL
    with redirect_stderr(cast(TextIO, screen.VisibleStream(sys.stderr))):
        sys.exit(_exit_code())


def _exit_code() -> int:
    """Run the command; whatever happens, the user reads one line of it."""
    try:
        code: int = app(sys.argv[1:] or ["--help"], prog_name="homoexport", standalone_mode=False)
    except HomoexportError as error:
        parts = {name: getattr(error, name) for name in ("what", "where", "hint") if getattr(error, name, "")}
        _say(str(error), code=error.exit_code, kind=type(error).__name__, parts=parts)
        return error.exit_code
    except _UsageError as error:
        parts = _parts_of(error)
        _say("; ".join(parts[name] for name in ("what", "hint") if name in parts), kind="UsageError", parts=parts)
        return 2
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # typer and rich make a plain 1 of it
            return _CUT_OFF
        raise
    except KeyboardInterrupt:
        raise
    except OSError as error:
        if error.errno in _FULL:  # stdout, for output folders say it themselves
            _say(f"cannot write ({error.strerror}); free some room, or write to another place")
            return 2
        if error.errno not in _NO_PATHS or error.filename is None:
            return _last_resort(error)
        _say(f"{str(error.filename)[:_SHOWN]}: {error.strerror}; name another file or folder")
        return 2
    except BaseException as error:  # a panic of tokenizers is no Exception
        return _last_resort(error)
    if code == _INTERRUPTED:  # what typer makes of a KeyboardInterrupt
        screen.say("interrupted", style="bold red")
    return code


def _last_resort(error: BaseException) -> int:
    if screen.errors.loudness is screen.Loudness.VERBOSE:
        screen.errors.print(visible("".join(traceback.format_exception(error)), keep="\n"), soft_wrap=True)
    line = f"unexpected {type(error).__name__} ({first_line(error)}); {_kept(error)}"
    _say(line, code=1, kind=type(error).__name__, always=True)
    return 1


def _parts_of(error: Any) -> dict[str, str]:
    """What is wrong with the words of a command, with which of them, and what to do: a near name, and its help.

    Of near names typer's own are taken without their dashes, which are alike in all of them.
    """
    option = getattr(error, "option_name", "")
    message = (error.message if option else error.format_message()).replace("Value error, ", "").removesuffix(".")
    known = {name.strip("-"): name for name in getattr(error, "possibilities", None) or ()}
    near = [known[name] for name in get_close_matches(option.strip("-"), known, n=1, cutoff=_NEAR)]
    hints = [f"did you mean {name}?" for name in near]
    hints += [f"see `{error.ctx.command_path} --help`"] if error.ctx else []
    where = option or next(iter(re.findall("'([^']+)'", message)), "")
    parts = {"what": message, "where": where, "hint": "; ".join(hints)}
    return {name: part for name, part in parts.items() if part}


def _kept(error: BaseException) -> str:
    """Write the traceback to a file that nobody else reads, and say where; the file can be shown on a terminal."""
    lines = [shlex.join(["homoexport", *sys.argv[1:]]), "\n", *traceback.format_exception(error)]
    try:
        descriptor, path = tempfile.mkstemp(prefix="homoexport-", suffix=".log")
        with open(descriptor, "w", encoding="utf-8") as log:  # noqa: PTH123 - it is open
            log.write(visible("".join(lines), keep="\n"))
    except OSError as refusal:
        return f"its traceback cannot be written ({refusal})"
    return f"please report it, with the traceback in {path}"


def _say(
    text: str,
    *,
    code: int = 2,
    kind: str = "OSError",
    parts: Mapping[str, str] | None = None,
    always: bool = False,
) -> None:
    """Print an error as a line on stderr, and with --json as JSON on stdout, too; of many processes, one does."""
    if not (always or screen.speaks()):
        return
    line = visible(" ".join(text.split()))
    screen.errors.print(Text.assemble(("error:", "bold red"), f" {line}"), soft_wrap=True)
    if "--json" in sys.argv[1:]:
        told = {name: visible(part) for name, part in (parts or {}).items()}
        with suppress(OSError):  # that cannot be written to may be what is told
            screen.print_json({"error": {"kind": kind, "message": line, **told, "exit_code": code}})
