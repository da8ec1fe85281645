"""A real OpenSSH server on loopback, with keys, configuration and a home folder of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from homoexport.errors import DeviceError
from homoexport.stages.measure import targets
from homoexport.stages.measure.targets.ssh import Ssh

SSHD = Path("/usr/sbin/sshd")
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_SECONDS = 20.0


def missing() -> str:
    """Why no server can be started here; empty where one can."""
    if not SSHD.exists() or shutil.which("ssh") is None:
        return "OpenSSH is not installed (apt install openssh-server openssh-client)"
    return "" if Path("/proc").is_dir() else "finding a server's processes needs /proc"


def until(condition: Callable[[], object], seconds: float = _SECONDS) -> bool:
    """Wait for something to come true; whether it did."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Sshd:
    """A running server.

    Args:
        folder: for its files.
        environment: variables of those who log in; HOME is the server's own folder unless it is named here.
        settings: more lines of sshd_config(5).
    """

    def __init__(self, folder: Path, *, environment: Mapping[str, str] | None = None, settings: str = "") -> None:
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir(parents=True)
        for name in ("host", "user"):
            new_key(folder / name)
        shutil.copy(folder / "user.pub", folder / "authorized")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        variables = {"HOME": str(self.home), "PATH": PATH, **(environment or {})}
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
            f"StrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            f"AuthorizedKeysFile {folder}/authorized\n{settings}\n"
            "SetEnv " + " ".join(f'"{name}={value}"' for name, value in variables.items()) + "\n"
        )
        self.know((folder / "host.pub").read_text())
        self.client_config = folder / "ssh_config"
        self.client_config.write_text(
            f"Host box\n  HostName 127.0.0.1\n  Port {self.port}\n"
            f"Host *\n  User {getpass.getuser()}\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n"
            f"  IdentityAgent none\n  UserKnownHostsFile {folder}/known\n  GlobalKnownHostsFile /dev/null\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # otherwise made by the service that starts it
        self._log = (folder / "log").open("wb")
        command = [str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=self._log)
        if not until(lambda: b"listening" in (folder / "log").read_bytes() or self._process.poll() is not None):
            self.stop()
        assert self._process.poll() is None, (folder / "log").read_text()

    @property
    def process_id(self) -> int:
        """The server's own; each connection is a child of it."""
        return self._process.pid

    @property
    def command(self) -> str:
        """The client that knows its way to the server."""
        return f"ssh -F {self.client_config}"

    def device(self, **options: object) -> str:
        """The server as a device, whose Python is the tests' own unless another is named."""
        options = {"python": sys.executable, "cache": self.home / "cache", **options}
        given = ",".join(f"{key}={value}" for key, value in options.items() if value)
        return f"ssh://127.0.0.1:{self.port}?{given}"

    def know(self, public_key: str) -> None:
        """Have the client know that public key, and no other, as the host's."""
        (self.folder / "known").write_text(f"[127.0.0.1]:{self.port} {public_key}")

    def processes(self) -> dict[int, str]:
        """Command lines of all that runs under the server, by process id."""
        found: dict[int, str] = {}
        parents = [self._process.pid]
        while parents:
            for child in children_of(parents.pop()):
                with contextlib.suppress(OSError):
                    found[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                parents.append(child)
        return found

    def is_quiet(self) -> bool:
        """Whether nobody is logged in, and nothing that they started runs."""
        return not self.processes()

    def cut(self) -> None:
        """End every connection at once, as a lost one does; what runs there is not told."""
        for child in children_of(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    @contextlib.contextmanager
    def cut_when(self, condition: Callable[[], object]) -> Iterator[None]:
        """Inside the block, every connection ends as soon as the condition holds."""
        held: list[bool] = []

        def watch() -> None:
            held.append(until(condition))
            self.cut()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            thread.join()
        assert held == [True]

    def left(self) -> list[str]:
        """Files and folders that are in its home."""
        # os.walk, unlike a glob, does not mind that they are being removed
        found = [Path(folder, name) for folder, *names in os.walk(self.home) for name in (*names[0], *names[1])]
        return sorted(str(path.relative_to(self.home)) for path in found)

    def stop(self) -> None:
        """End the server and everything under it."""
        if self._log.closed:
            return
        for child in [*self.processes(), self._process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._process.wait()
        self._log.close()


@contextlib.contextmanager
def running(folder: Path, *, environment: Mapping[str, str] | None = None, settings: str = "") -> Iterator[Sshd]:
    """A server inside the block."""
    server = Sshd(folder, environment=environment, settings=settings)
    try:
        yield server
    finally:
        server.stop()


def new_key(path: Path) -> None:
    """A key pair: `path` and `path.pub`, instead of any that are there."""
    path.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)


def children_of(process_id: int) -> list[int]:
    """Processes that a process has started and not yet seen the end of."""
    try:
        return [int(word) for word in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()]
    except OSError:
        return []


@contextmanager
def opened(device: str) -> Iterator[Ssh]:
    target = targets.find_target(device)
    assert isinstance(target, Ssh)
    try:
        target.open()
        yield target
    finally:
        target.close()


@contextmanager
def refused(device: str, message: str) -> Iterator[None]:
    """The block ends in one clear line that names the device."""
    with pytest.raises(DeviceError, match=message) as raised:
        yield
    assert str(raised.value).startswith(device)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


def refuses(device: str, message: str) -> None:
    with refused(device, message), opened(device):
        pass


def files_in(folder: Path) -> dict[str, tuple[int, int]]:
    """Which files there are: their names with inode and time of change."""
    found = {}
    for above, _, names in os.walk(folder):
        for path in (Path(above, name) for name in names):
            with suppress(FileNotFoundError):  # it is being removed
                found[str(path.relative_to(folder))] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


def big_file(path: Path, megabytes: int) -> Path:
    """Zeros that take no room here."""
    with path.open("wb") as file:
        file.truncate(megabytes * 10**6)
    return path


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def bare_python(folder: Path) -> Path:
    """A Python without onnxruntime."""
    base = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    subprocess.run([base, "-I", "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin/python"


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own in memory; skips where it may not be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "homoexport-test", str(folder)]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root alone, and not everywhere")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def is_running(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except OSError:
        return False
