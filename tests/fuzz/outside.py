"""Targets in processes of their own, which are ended from here when they are silent: no alarm is heard inside C."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence

_SILENT = 120.0  # seconds: a start takes tens on a busy machine, and then there is a sign of life every five


def run_each(commands: Mapping[str, Sequence[str]], *, silent: float = _SILENT) -> int:
    """Run each command to its end, whatever becomes of the others; 1 where one failed, crashed or was silent."""
    fell = [name for name, command in commands.items() if not _ends_well(name, command, silent)]
    return int(bool(fell))


def _ends_well(name: str, command: Sequence[str], silent: float) -> bool:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        told = b"?"
        while told:
            if not select.select([process.stdout], [], [], silent)[0]:
                process.kill()
                print(f"FELL {name}: no sign of life for {silent:g} seconds; see the last number above", flush=True)
                break
            told = os.read(process.stdout.fileno(), 1 << 16)
            sys.stdout.write(told.decode(errors="replace"))
            sys.stdout.flush()
    if process.returncode < 0:
        print(f"FELL {name}: ended by signal {-process.returncode}; see the last number above", flush=True)
    return process.returncode == 0
