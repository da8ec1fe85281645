"""Starts the browser, and ends it with everything that it started when the bridge is gone.

Run as a script: `python -I keeper.py BROWSER ARGUMENT...`. The first line on stdin is the page's address. It has a
secret in it, so the browser finds it in a file of its profile, which no other user may read. The bridge may be killed
at any time, so it cannot clean up itself: its end shows as the end of stdin here. Where this process is killed, too,
the kernel ends the browser (PR_SET_PDEATHSIG), and only the profile stays behind.

Says the browser's last words on stdout, as a line of JSON, if it ends by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_LONG = 48  # the path of the browser's socket, which is in the profile, may have 107 characters

_libc = ctypes.CDLL(None)


def main() -> None:
    """Run the browser in a profile of its own until stdin ends, or until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # Ctrl-C is the parent's, which ends us through the bridge
    # Orphans of the browser become children of this process, so that none is missed.
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    folder = tempfile.gettempdir()
    profile = Path(tempfile.mkdtemp(prefix="homoexport-browser-", dir=folder if len(folder) < _LONG else "/tmp"))
    try:
        _run(sys.argv[1:], profile, sys.stdin.readline().strip())
    finally:
        _end_children()
        shutil.rmtree(profile, ignore_errors=True)


def _run(command: list[str], profile: Path, url: str) -> None:
    first = profile / "first.html"
    first.write_text(f"<script>location.replace({json.dumps(url)})</script>")
    log = profile / "log"
    # Sockets, certificates and caches go where they are removed with the rest; no bus of the desktop's is looked for.
    own = {name: str(profile) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")}
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", first.as_uri()],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd=profile,
            env={**os.environ, **own, "DBUS_SESSION_BUS_ADDRESS": "disabled:"},
            start_new_session=True,
            preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
        )
    browser = os.pidfd_open(process.pid)
    ready, _, _ = select.select([sys.stdin, browser], [], [])
    if browser in ready:
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(json.dumps(_last_words(log.read_text(errors="replace"))) + "\n")
            sys.stdout.flush()


def _last_words(log: str) -> str:
    """The line that says most likely why it ended; its crash handler has words of its own after that."""
    lines = [line for line in log.splitlines() if line.strip() and "crashpad" not in line] or ["it said nothing"]
    return next((line for line in lines if ":FATAL:" in line), lines[-1])


def _end_children() -> None:
    """Kill until none is left; what a dead one had started comes up as ours."""
    while True:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, ValueError):
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                if parent == os.getpid():
                    os.kill(int(stat.parent.name), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


if __name__ == "__main__":
    main()
