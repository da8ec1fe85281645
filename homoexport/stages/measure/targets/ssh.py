"""Another machine, by the plain `ssh` client, so that the user's own configuration, agent and jump hosts count.

One connection is opened and shared by everything else (ssh_config(5), ControlMaster). Its remote command
waits for the end of its input, so that nothing outlives this process, however this process ends.

A Python of that machine does the work there. What it runs is `ssh_there.py`, sent as source
over the connection; it ends, and takes away what it has not finished, when the connection does.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import onnxruntime as ort
from pydantic import Field

from homoexport.choices import Runtime
from homoexport.documents.measurement import Need
from homoexport.errors import DeviceError, HomoexportError
from homoexport.lock import scratch_folder
from homoexport.stages.measure.targets.protocol import (
    Options,
    OutOfMemory,
    Target,
    build_worker,
    read_options,
    refuse_needs,
)
from homoexport.stages.measure.targets.ssh_failures import OTHER_CACHE, is_full, last_line, no_connection, no_runtime
from homoexport.stages.measure.targets.ssh_there import Outcome, digest_of

# Read at once, for the files may be replaced by an upgrade while this runs.
PROGRAM = Path(__file__).with_name("ssh_there.py").read_bytes() + b"\n\nanswer_one()\n"
_FIND_PYTHON = """
expand() { case $1 in '~/'*) echo "$HOME/${1#??}" ;; *) echo "$1" ;; esac; }
echo "system=$(uname -s)"; echo "machine=$(uname -m)"; echo "cache=$(expand "$2")"
for name in ${1:-python3 python3.14 python3.13 python3.12 python3.11 python3.10}; do
    python=$(command -v "$(expand "$name")") || continue
    ask='import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 10))'
    if version=$("$python" -c "$ask" 2>/dev/null </dev/null); then
        echo "python=$python"; echo "version=$version"; exit 0
    fi
    if [ -n "$version" ]; then echo "old=$version"; fi
done
"""
_READY = "homoexport"
_CONNECT_SECONDS, _ALIVE_SECONDS, _ALIVE_COUNT, _OPEN_SECONDS, _PATIENCE_SECONDS = 10, 5, 3, 60, 60
_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": str(_CONNECT_SECONDS),
    "ServerAliveInterval": str(_ALIVE_SECONDS),
    "ServerAliveCountMax": str(_ALIVE_COUNT),
    "ClearAllForwardings": "yes",
    "ControlMaster": "no",
    "ControlPersist": "no",
    "ForwardX11": "no",
    "LogLevel": "INFO",  # what it says of a failure is read
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "StrictHostKeyChecking": "yes",  # always: what decides it in a configuration may change between two calls
}
_SOCKET_BYTES = 70  # a socket's path may have some 100, of which its folder's and file's names take 30
_GIVE_PATH = "give a path there, from / or ~/ on"
_OUT_OF_MEMORY = ("bad_alloc", "MemoryError", "Cannot allocate memory")
_LOGIN = (
    r"//(?:(?P<user>[\w.][\w.+-]*)@)?"
    r"(?:\[(?P<address>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>\w[\w.-]*))"
    r"(?::(?P<port>\d{1,5}))?"
)


class SshOptions(Options):
    """Paths there: a Python, with onnxruntime or to make a virtual environment with; and a folder to keep things in."""

    python: str = Field("", pattern=r"^(~/)?[\w/.][\w/.+-]*$", description=_GIVE_PATH)
    cache: str = Field("~/.cache/homoexport", pattern=r"^~?/[\w/.+-]*$", description=_GIVE_PATH)


def parse_ssh(device: str, options: str) -> Ssh:
    """`ssh://[user@]host[:port]`, and `?python=PATH,cache=FOLDER` behind it.

    The environment variable HOMOEXPORT_SSH may name the client with arguments: `ssh -F my_config`.
    """
    login, _, rest = options.partition("?")
    match = re.fullmatch(_LOGIN, login, re.ASCII)
    if match is None or not 0 < int(match["port"] or 22) < 1 << 16:
        hint = "write it as ssh://[user@]host[:port]"
        raise DeviceError("cannot read the host", where=f"device {device}", hint=hint)
    try:
        client = shlex.split(os.environ.get("HOMOEXPORT_SSH", "")) or ["ssh"]
    except ValueError as error:
        hint = "quote it as a shell wants"
        raise DeviceError(f"cannot read it ({error})", where="HOMOEXPORT_SSH", hint=hint) from None
    return Ssh(
        device,
        match["address"] or match["host"],
        user=match["user"],
        port=match["port"],
        options=read_options(rest, SshOptions, device=device),
        client=client,
    )


class Ssh(Target):
    """A machine that the user can log in to; what is not named is as the user's ssh configuration says."""

    emulated = False
    providers: tuple[str, ...] = ("CPUExecutionProvider",)

    def __init__(
        self,
        name: str,
        host: str,
        *,
        user: str | None,
        port: str | None,
        options: SshOptions,
        client: Sequence[str],
    ) -> None:
        self.name = name
        self._host, self._python, self._cache = host, options.python, options.cache
        self._login = [*(["-l", user] if user else []), *(["-p", port] if port else []), "--", host]
        self._by_hand = shlex.join([*(["-p", port] if port else []), f"{user}@{host}" if user else host])
        self._ssh = list(client)
        self._known_as = host
        self._connected = False
        self._stack = contextlib.ExitStack()
        self._placed: dict[tuple[object, ...], list[str]] = {}

    def needs(self) -> list[Need]:
        """The client."""
        there = shutil.which(self._ssh[0])
        return [] if there else [Need(what=f"the SSH client '{self._ssh[0]}'", command="apt install openssh-client")]

    def open(self) -> None:
        """Connect, and have a Python with onnxruntime and the worker there."""
        refuse_needs(self.needs(), where=self.name)
        roomy = len(tempfile.gettempdir()) < _SOCKET_BYTES
        folder = self._stack.enter_context(scratch_folder("hx-", parent=None if roomy else Path("/tmp")))
        self._connect(folder)
        self._find_python()
        [self._worker] = self.place([build_worker(folder)])
        self._cores: int = self._ask("_count_cores", worker=self._worker)["cores"]

    def cores(self) -> int:
        """Cores that the scheduler and the cgroup there give to what logs in."""
        return self._cores

    def place(self, files: Sequence[Path]) -> list[str]:
        """Ship the files into a folder named by their digest, unless they are there."""
        key = tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
        if key not in self._placed:
            digest = digest_of(files)
            folder = f"{self._cache}/packages/{digest}"
            sizes = {file.name: file.stat().st_size for file in files}
            self._ask("_receive", files, folder=folder, digest=digest, sizes=sizes, patience_s=_PATIENCE_SECONDS)
            self._placed[key] = [f"{folder}/{file.name}" for file in files]
        return self._placed[key]

    # any target is told a runtime, and this one has onnxruntime alone
    def start(self, stderr: IO[bytes], runtime: Runtime = "onnxruntime") -> subprocess.Popen[bytes]:  # noqa: ARG002
        """A worker there, which ends when this client does: its stdin ends then."""
        # By a shell that stays: ssh tells an exit status, but not the signal that ended a command.
        words = shlex.join([self._python, "-I", self._worker])
        return self._client(f"sh -c '\"$@\"; exit $?' sh {words}", stderr)

    def explain(self, status: int, said: str) -> HomoexportError | None:
        """The client's own failures; SIGKILL there, which is the kernel's for want of memory; a runtime that breaks."""
        if status == 255:
            return self._lost(said)
        if status == 128 + signal.SIGKILL or any(sign in said for sign in _OUT_OF_MEMORY):
            return OutOfMemory("the worker was killed there, most likely for want of memory", where=self.name)
        if status == 128 + signal.SIGILL:
            hint = "give a Python with one that was built for it: ?python=PATH"
            return self.error("onnxruntime there uses instructions that its processor lacks", hint)
        if status in (126, 127):
            return self.error("its Python is gone", "measure again")
        return None

    def close(self) -> None:
        """End the connection. Packages and the virtual environment stay there to be found again."""
        self._stack.close()

    def _connect(self, folder: Path) -> None:
        """Open the connection that everything shares."""
        config = self._settings()
        port, address = config.get("port", "22"), config.get("hostkeyalias") or config.get("hostname", self._host)
        self._known_as = shlex.quote(address if port == "22" else f"[{address}]:{port}")
        options = _OPTIONS | {"ControlPath": str(folder / "s").replace("%", "%%")}
        if config.get("stricthostkeychecking") not in ("true", "yes", "ask"):  # the client's first argument counts
            hint = "leave StrictHostKeyChecking out of HOMOEXPORT_SSH"
            raise self.error("the SSH client is told to take unknown host keys", hint)
        self._options = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        self._master_said = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
        master = self._client(f"echo {_READY}; exec cat", self._master_said, "-o", "ControlMaster=yes")
        self._stack.callback(_end, master)
        assert master.stdout is not None
        if not select.select([master.stdout], [], [], _OPEN_SECONDS)[0]:
            raise self._lost("timed out")
        first = master.stdout.readline().decode(errors="replace").strip()
        if not first:
            raise self._lost(f"it ended with status {master.wait()}")
        if first != _READY:
            hint = "have its start-up files say nothing where nobody is logged in by hand"
            raise self.error(f"its login shell says '{first[:60]}' before it runs a command", hint)
        self._connected = True

    def _settings(self) -> dict[str, str]:
        """What the client makes of the user's configuration and its own arguments; keys are in small letters."""
        strict = f"StrictHostKeyChecking={_OPTIONS['StrictHostKeyChecking']}"
        command = [*self._ssh, "-G", "-o", strict, "-T", *self._login]
        settings = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if settings.returncode:
            raise self.error(f"the SSH client refuses it ({last_line(settings.stderr)})", "correct its configuration")
        return dict(line.split(" ", 1) for line in settings.stdout.splitlines() if " " in line)

    def _find_python(self) -> None:
        """Find a Python there, and from it the one with onnxruntime that runs the worker."""
        out, _, said = self._call(
            f"exec sh -s {shlex.join([self._python, self._cache])}",
            lambda process: process.communicate(_FIND_PYTHON.encode())[0],
        )
        found = dict(line.split("=", 1) for line in out.decode(errors="replace").splitlines() if "=" in line)
        if "cache" not in found:
            raise self.error(f"no POSIX shell there ({last_line(said)})", "measure on Linux or macOS")
        if "python" not in found:
            asked = f" as '{self._python}'" if self._python else ""
            what = f"the Python there is too old ({found['old']})" if found.get("old") else f"no Python there{asked}"
            raise self.error(what, "give one of 3.10 or later: ?python=PATH")
        version, machine = ort.__version__, found["machine"]
        any_version, self._python, self._cache = bool(self._python), found["python"], found["cache"].rstrip("/")
        folder = f"{self._cache}/venv-{version}-py{found['version']}-{machine}"
        reply = self._ask("_find_runtime", any_version=any_version, version=version, folder=folder)
        if reply["failed"]:
            if reply["failed"] == "full" or is_full(reply["said"]):
                raise self._full()
            python = f"Python {found['version']} on {found['system']} {machine}"
            what, hint = no_runtime(reply["failed"], reply["said"], python=python, runtime=f"onnxruntime {version}")
            raise self.error(what, hint)
        self._python = reply["python"]

    def _ask(self, function: str, files: Sequence[Path] = (), **request: object) -> Outcome:
        """What a function of `ssh_there.py` answers there; the files follow where it asks for them."""
        read_it = f"import sys; exec(sys.stdin.buffer.read({len(PROGRAM)}))"
        opening = PROGRAM + json.dumps({"function": function, **request}).encode() + b"\n"
        answer, status, said = self._call(
            f"exec {shlex.join([self._python, '-I', '-c', read_it])}",
            lambda process: _converse(process, opening, files),
        )
        if not answer:
            raise self.error(f"its Python ended with status {status} ({last_line(said)})")
        reply: Outcome = json.loads(answer)
        if reply["failed"] == "full":
            raise self._full()
        if reply["failed"] == "error":
            raise self.error(f"cannot use {self._cache} there ({last_line(reply['said'])})", OTHER_CACHE)
        return reply

    def _call(self, remote: str, talk: Callable[[subprocess.Popen[bytes]], bytes]) -> tuple[bytes, int, str]:
        """What a command there answers, its exit status where it answers nothing, and what is said besides."""
        with tempfile.TemporaryFile() as stderr:
            process = self._client(remote, stderr)
            try:
                answer = talk(process)
                status = 0 if answer else process.wait()
            finally:
                _end(process, seconds=0)
            said = _said(stderr)
        if status == 255:
            raise self._lost(said)
        return answer, status, said

    def _client(self, remote: str, stderr: IO[bytes], *options: str) -> subprocess.Popen[bytes]:
        """A client that runs a command there."""
        command = [*self._ssh, *options, *self._options, "-T", *self._login, remote]
        pipe = subprocess.PIPE
        environment = {**os.environ, "LC_ALL": "C"}  # its words are read
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, env=environment)

    def _lost(self, said: str) -> DeviceError:
        """Why there is no connection, or no more, by what the clients said."""
        said = f"{said}\n{_said(self._master_said)}"
        if self._connected:
            return self.error(f"the connection is lost ({last_line(said)})", "measure again")
        what, hint = no_connection(said, login=self._by_hand, known_as=self._known_as)
        return self.error(what, hint)

    def _full(self) -> DeviceError:
        return self.error(f"no room in {self._cache} there", f"free some, or {OTHER_CACHE}")


def _converse(process: subprocess.Popen[bytes], opening: bytes, files: Sequence[Path]) -> bytes:
    """The last line of an answer; empty where there is none."""
    assert process.stdin is not None
    assert process.stdout is not None
    answer = b""
    try:
        process.stdin.write(opening)
        process.stdin.flush()
        answer = process.stdout.readline()
        if answer.endswith(b"\n") and "send" in json.loads(answer):
            answer = b""
            for file in files:
                with file.open("rb") as opened:
                    shutil.copyfileobj(opened, process.stdin, 1 << 20)
            process.stdin.flush()
            answer = process.stdout.readline()
    except BrokenPipeError:  # it may have said why
        answer = process.stdout.readline()
    return answer if answer.endswith(b"\n") else b""


def _end(process: subprocess.Popen[bytes], seconds: float = 5.0) -> None:
    """Close a client's input, and end the client where that does not end it in time."""
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _said(stderr: IO[bytes]) -> str:
    stderr.seek(0)
    return stderr.read().decode(errors="replace").strip()
