"""The browser that the bridge drives: starting it, and what the kernel says of its processes (Linux's /proc).

Chromium has a process for each thing: the browser itself, its network and GPU services, and a renderer for
the page, in which the page's scripts, its workers and WebAssembly's memory are. The renderer is what is
measured; the others are the user's, whatever the page does.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from homoexport.stages.measure.web import BridgeSettings

_PROC = Path("/proc")
_KEEPER_SECONDS = 10.0

FLAGS = (
    "--headless=new",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-pings",
    "--password-store=basic",
    "--site-per-process",  # a page of another site gets a renderer of its own, whose memory starts from nothing
    "--mute-audio",
    # Nothing may be sent out, looked up or loaded that the page did not ask for.
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-client-side-phishing-detection",
    "--disable-component-extensions-with-background-pages",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-features=BackForwardCache,MediaRouter,OptimizationHints,SpareRendererForSitePerProcess,Translate",
    "--disable-quic",
    "--disable-sync",
    "--no-proxy-server",
    # A page that nobody looks at is slowed down otherwise.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--disable-dev-shm-usage",  # containers have little of it, and the page would crash
)
WASM_FLAGS = ("--disable-gpu",)
WEBGPU_FLAGS = ("--enable-unsafe-webgpu", "--enable-features=Vulkan", "--ignore-gpu-blocklist")


class Browser:
    """A running browser with one page; `on_end` gets its last words if it ends by itself."""

    def __init__(self, settings: BridgeSettings, url: str, *, on_end: Callable[[str], None]) -> None:
        flags = [*FLAGS, *(WEBGPU_FLAGS if settings.backend == "webgpu" else WASM_FLAGS)]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # Chromium does not start as root otherwise
        keeper = str(Path(settings.folder) / "keeper.py")
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", keeper, settings.browser, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(settings.lifeline,),
            start_new_session=True,
        )
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(f"{url}\n".encode())  # no argument, for all users of a machine can read those
        self._keeper.stdin.flush()
        threading.Thread(target=self._listen, args=(on_end,), daemon=True).start()

    def _listen(self, on_end: Callable[[str], None]) -> None:
        assert self._keeper.stdout is not None
        with self._keeper.stdout as lines:
            for said in lines:
                on_end(json.loads(said))

    def close(self) -> None:
        """End it and wait until its profile is gone."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait(_KEEPER_SECONDS)

    def processes(self, kind: str | None = None) -> list[int]:
        """Ids of its processes, or of those of one kind (`renderer`, `gpu-process`)."""
        mark = f"--type={kind}".encode()
        return [process for process in _below(self._keeper.pid) if kind is None or mark in _read(process, "cmdline")]

    def largest_renderer(self, but: int | None) -> int | None:
        """The renderer with the largest memory, leaving one out: a spare one, without a page, is smaller."""
        renderers = [process for process in self.processes("renderer") if process != but]
        return max(renderers, key=peak_bytes, default=None)

    def cpu_ns(self) -> int:
        """Processor time of all its processes, in the kernel's ticks."""
        tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        return sum(sum(map(int, _stat(process)[11:13])) for process in self.processes()) * tick_ns


def _below(root: int) -> list[int]:
    """All descendants of a process."""
    parents = {}
    for folder in _PROC.glob("[0-9]*"):
        if fields := _stat(int(folder.name)):
            parents[int(folder.name)] = int(fields[1])
    found: list[int] = []
    level = [root]
    while level:
        level = [process for process, parent in parents.items() if parent in level]
        found += level
    return found


def _read(process: int, name: str) -> bytes:
    try:
        return (_PROC / str(process) / name).read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


def _stat(process: int) -> list[str]:
    """The fields of proc_pid_stat(5) from the third on; the second one may hold spaces."""
    return _read(process, "stat").decode(errors="replace").rpartition(")")[2].split()


def _status_bytes(process: int, key: str) -> int:
    _, _, rest = _read(process, "status").decode(errors="replace").partition(f"{key}:")
    return int(rest.split()[0]) * 1024 if rest else 0


def peak_bytes(process: int) -> int:
    """The most resident memory that a process has ever had; 0 of one that has ended."""
    return _status_bytes(process, "VmHWM")


def resident_bytes(process: int) -> int:
    """The resident memory of a process now; 0 of one that has ended."""
    return _status_bytes(process, "VmRSS")


def watch(process: int, on_end: Callable[[int], None]) -> None:
    """Have `on_end` called with the process id when the process ends."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        on_end(process)
        return

    def wait() -> None:
        select.select([descriptor], [], [])
        os.close(descriptor)
        on_end(process)

    threading.Thread(target=wait, daemon=True).start()
