"""A browser on this machine: onnxruntime-web in headless Chromium, by WebAssembly or WebGPU."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal

from pydantic import PositiveInt

from homoexport.choices import BROWSER_PROVIDERS, BrowserProvider, Runtime
from homoexport.documents.measurement import Need
from homoexport.errors import DeviceError, HomoexportError
from homoexport.host import available_cores
from homoexport.lock import scratch_folder
from homoexport.stages.measure.targets.protocol import (
    Options,
    OutOfMemory,
    TargetHere,
    build_worker,
    cache_folder,
    read_options,
    refuse_needs,
    refuse_too_many,
)
from homoexport.stages.measure.web import DEVICE_STATUS, MEMORY_SIGNS, BridgeSettings

RUNTIME_VERSION = "1.30.0"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_SET_UP = "homoexport doctor --set-up web"
_RUNTIME_MARK = "ort.wasm.min.mjs"
_ROOM = "homoexport.stages.measure.web"
_FOLDER = Path(__file__).parents[1] / "web"
_RUN_BRIDGE = f"import sys; sys.path.insert(0, sys.argv.pop(1)); from {_ROOM}.bridge import main; main()"
_END_SECONDS = 10.0


class WebOptions(Options):
    """`browser` is its file, instead of the one on PATH; without `backend` it is WebAssembly, or what an export chose.

    Without `isolation` the page is as on a host that sends no headers for it: one thread, and a clock in steps of
    100 us.
    """

    threads: PositiveInt | None = None
    backend: BrowserProvider | None = None
    browser: str | None = None
    isolation: Literal["on", "off"] = "on"


def parse_web(device: str, options: str) -> WebTarget:
    """`web`, or `web:threads=2`, `web:backend=webgpu`, `web:browser=/path/to/chrome`, `web:isolation=off`."""
    return WebTarget(device, read_options(options, WebOptions, device=device))


def runtime_folder() -> Path:
    return cache_folder() / "targets" / f"web-{RUNTIME_VERSION}"


def set_up_web(report: Callable[[str], None]) -> Path:
    """Install onnxruntime-web with npm, unless it is there; nothing of the package is run.

    Raises:
        DeviceError: npm is missing or fails, or the folder cannot be written.
    """
    folder, package = runtime_folder(), f"onnxruntime-web@{RUNTIME_VERSION}"
    if (_files_in(folder) / _RUNTIME_MARK).is_file():
        report(f"{package} is in {folder}")
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise DeviceError("npm is missing", where="web", hint="apt-get install npm")
    report(f"installing {package} with npm")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(".web-", parent=folder.parent) as work:
            fresh = work / "fresh"
            fresh.mkdir()
            _install(npm, package, fresh)
            shutil.rmtree(folder, ignore_errors=True)  # half of an older try
            fresh.rename(folder)
    except OSError as error:
        what = f"cannot write {folder} ({error.strerror})"
        raise DeviceError(what, where="web", hint="set HOMOEXPORT_CACHE") from None
    return folder


def _install(npm: str, package: str, folder: Path) -> None:
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    command = [npm, "install", *quiet, "--prefix", str(folder), package]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode or not (_files_in(folder) / _RUNTIME_MARK).is_file():
        said = [line for line in done.stderr.splitlines() if "npm error" in line and "complete log" not in line]
        why = said[-1].removeprefix("npm error").strip() if said else "it does not say why"
        hint = f"look into npm's registry and proxy settings, then {_SET_UP}"
        raise DeviceError(f"npm cannot install {package} ({why})", where="web", hint=hint)


def _files_in(folder: Path) -> Path:
    return folder / "node_modules" / "onnxruntime-web" / "dist"


def find_browser(wanted: str | None = None) -> str | None:
    """The browser to use: the one wanted, or the first of its kind on PATH; None where it is not there."""
    return next((path for name in ([wanted] if wanted else _BROWSERS) if (path := shutil.which(name))), None)


class WebTarget(TargetHere):
    """A page in headless Chromium on this machine."""

    def __init__(self, name: str = "web", options: WebOptions | None = None) -> None:
        super().__init__(name)
        self._options = options or WebOptions()
        self.providers = (self._options.backend or "wasm",)
        self._lifeline: tuple[int, int] | None = None

    def needs(self) -> list[Need]:
        """A browser, and onnxruntime-web."""
        needs, browser = [], self._options.browser
        if find_browser(browser) is None:
            needs.append(Need(what=browser or "a browser (chromium)", command="apt-get install chromium"))
        if not (_files_in(runtime_folder()) / _RUNTIME_MARK).is_file():
            needs.append(Need(what=f"onnxruntime-web {RUNTIME_VERSION}", command=_SET_UP))
        return needs

    def open(self) -> None:
        """Pack the bridge."""
        if not sys.platform.startswith("linux"):
            raise self.error("needs Linux, whose /proc tells the page's memory", "run it there")
        refuse_needs(self.needs(), where=self.name)
        why = "may be used" if self._options.isolation == "on" else "can be used without isolation"
        refuse_too_many("threads", self.cores(), self._most_threads(), where=self.name, why=why)
        self._archive = _build_bridge(self._new_folder())
        # Whatever a worker starts holds the writing end, so that its end can be waited for.
        self._lifeline = os.pipe()

    def by_provider(self) -> dict[BrowserProvider, str]:
        """What it is called with each of the providers that it leaves open, or the one that it names."""
        if self._options.backend is not None:
            return {self._options.backend: self.name}
        start = f"{self.name}{',' if ':' in self.name else ':'}"
        return {provider: f"{start}backend={provider}" for provider in BROWSER_PROVIDERS}

    def thread_counts(self, asked: int | None) -> tuple[int, ...]:
        """The numbers of threads to choose from: what was asked for, here or as an option, or doubled up to all."""
        most = asked or self.cores()
        if asked or self._options.threads:
            return (most,)
        return tuple(sorted({*(2**power for power in range(most.bit_length())), most}))

    def cores(self) -> int:
        """Threads that a page may take: the option's, else the cores here; one where it is not isolated."""
        return self._options.threads or self._most_threads()

    def _most_threads(self) -> int:
        return available_cores() if self._options.isolation == "on" else 1

    # any target is told a runtime, and this one has onnxruntime alone
    def start(self, stderr: IO[bytes], runtime: Runtime = "onnxruntime") -> subprocess.Popen[bytes]:  # noqa: ARG002
        """A bridge with a browser of its own."""
        browser = find_browser(self._options.browser)
        assert self._lifeline is not None
        assert browser is not None
        pipe, lifeline = subprocess.PIPE, self._lifeline[1]
        settings = BridgeSettings(
            folder=str(_FOLDER),
            runtime=str(_files_in(runtime_folder())),
            browser=browser,
            backend=self.providers[0],
            isolated=self._options.isolation == "on",
            lifeline=lifeline,
        )
        command = [sys.executable, "-I", "-c", _RUN_BRIDGE, str(self._archive), json.dumps(vars(settings))]
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, pass_fds=(lifeline,))

    def explain(self, status: int, said: str) -> HomoexportError | None:
        """A bridge says itself why its browser cannot be used."""
        if status != DEVICE_STATUS:
            return super().explain(status, said)
        last = said.splitlines()[-1]
        if any(sign in last for sign in MEMORY_SIGNS):
            return OutOfMemory(f"the browser has too little memory ({last})", where=self.name)
        return self.error(last)

    def close(self) -> None:
        """Wait until all browsers are gone with their profiles, then remove the packed bridge."""
        if self._lifeline is not None:
            reading, writing = self._lifeline
            self._lifeline = None
            os.close(writing)
            select.select([reading], [], [], _END_SECONDS)
            os.close(reading)
        super().close()


def _build_bridge(folder: Path) -> Path:
    """The worker's zip file with the bridge in it, whose imports thus find nothing else of this package."""
    path = build_worker(folder)
    with zipfile.ZipFile(path, "a") as archive:
        for above in ("stages", "stages/measure"):
            archive.writestr(f"homoexport/{above}/__init__.py", "")
        for source in sorted(_FOLDER.glob("*.py")):
            archive.writestr(f"homoexport/stages/measure/web/{source.name}", source.read_bytes())
    return path
