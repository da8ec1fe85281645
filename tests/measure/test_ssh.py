"""The `ssh` target against a real OpenSSH server on loopback."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from homoexport.errors import DeviceError
from homoexport.host import available_cores
from homoexport.measure import measure_packages, targets
from homoexport.measure.process import Worker
from homoexport.measure.targets import OutOfMemory
from homoexport.measure.targets import ssh as ssh_target
from homoexport.measure.targets.ssh import Ssh, parse_ssh
from tests.measure.sshd import PATH, Sshd, children_of, missing, new_key, running, until
from tests.measure.tiny_onnx import weights, write_package

pytestmark = [pytest.mark.ssh, pytest.mark.processes, pytest.mark.skipif(bool(missing()), reason=missing())]

RIGHT = ("ssh://pi.local", "ssh://me@pi.local:2222", "ssh://box_1", "ssh://10.0.0.7:22", "ssh://me@[fe80::1%eth0]:22")
WRONG = (
    "ssh",
    "ssh:pi.local",
    "ssh://",
    "ssh://-oProxyCommand=touch",
    "ssh://-x@pi.local",
    "ssh://a b",
    "ssh://pi.local;ls",
    "ssh://$(ls)@pi.local",
    "ssh://pi.local:port",
    "ssh://pi.local:0",
    "ssh://pi.local:70000",
    "ssh://pi.local/folder",
    "ssh://fe80::1",
    "ssh://[fe80::1]x",
)
WRONG_OPTIONS = ("threads=1", "python=", "python=-c", "python=a b", "cache=relative", "cache=/tmp/$(ls)", "cache=/a'b")


@pytest.fixture(autouse=True)
def short_tempdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Paths of sockets are short; nothing may be left there, and no client either."""
    clients = set(children_of(os.getpid()))
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)
        assert list(Path(folder).iterdir()) == []
    started = [child for child in children_of(os.getpid()) if child not in clients]
    assert not any(b"ssh" in Path(f"/proc/{child}/comm").read_bytes() for child in started)


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_tempdir: Path) -> Iterator[Callable[..., Sshd]]:
    """Starts a server, to which `ssh` then knows its way; arguments go to `Sshd`."""
    with ExitStack() as stack:

        def start(**arguments: object) -> Sshd:
            server = stack.enter_context(running(tmp_path / "sshd", **arguments))  # type: ignore[arg-type]
            monkeypatch.setenv("HOMOEXPORT_SSH", server.command)
            return server

        yield start


@pytest.fixture
def server(serve: Callable[..., Sshd]) -> Sshd:
    return serve()


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


@pytest.mark.parametrize("device", RIGHT)
def test_hosts_that_can_be_named(device: str) -> None:
    assert parse_ssh(device, device.partition(":")[2] + "?python=~/py/bin/python,cache=/var/tmp/x").name == device


@pytest.mark.parametrize("device", WRONG)
def test_hosts_that_could_be_something_else_are_refused(device: str) -> None:
    with refused(f"--device {device}", "cannot read the host; write it as"):
        parse_ssh(device, device.partition(":")[2])


@pytest.mark.parametrize("options", WRONG_OPTIONS)
def test_options_that_could_be_something_else_are_refused(options: str) -> None:
    with refused(f"--device ssh://pi?{options}", "cannot read '"):
        parse_ssh(f"ssh://pi?{options}", f"//pi?{options}")


def test_client_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMOEXPORT_SSH", "ssh -F 'x")
    with refused("HOMOEXPORT_SSH", "cannot read it"):
        parse_ssh("ssh://pi", "//pi")


def test_missing_client_is_a_need_with_the_command_that_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMOEXPORT_SSH", "no-such-client -F x")
    target = parse_ssh("ssh://pi", "//pi")
    assert [need.command for need in target.needs()] == ["apt install openssh-client"]
    with refused("ssh://pi", "the SSH client 'no-such-client' is missing; apt install"):
        target.open()
    target.close()


def test_package_answers_there_as_here_and_nothing_runs_afterwards(server: Sshd, tmp_path: Path) -> None:
    packages = [write_package(tmp_path / name, arrays=weights(seed=i)) for i, name in enumerate(("one", "two"))]
    measurement = measure_packages(packages, device=server.device(), length=16, min_seconds=0.1)
    assert measurement.threads == available_cores()
    assert not measurement.emulated
    for figures in measurement.results:
        assert figures.agreement is not None
        assert figures.agreement.within
        assert figures.latency_p50_ms > 0
        assert figures.peak_rss_mb > figures.runtime_rss_mb > 10
    assert until(server.is_quiet)
    kept = {path.split("/")[-1] for path in files_in(server.home)}
    assert kept == {"worker.pyz", "model.onnx", "tokenizer.json"}


def test_package_is_shipped_once_and_again_where_it_was_altered(server: Sshd, tmp_path: Path) -> None:
    files = [big_file(tmp_path / "model.onnx", 3), big_file(tmp_path / "model.onnx.data", 2)]
    with opened(server.device()) as target:
        placed = [Path(path) for path in target.place(files)]
        assert [path.read_bytes() for path in placed] == [path.read_bytes() for path in files]
        first = files_in(server.home)
    with opened(server.device()) as target:
        assert target.place(files) == [str(path) for path in placed]
        assert files_in(server.home) == first
    placed[1].write_bytes(b"something else")
    with opened(server.device()) as target:
        target.place(files)
        again = files_in(server.home)
    assert placed[1].read_bytes() == files[1].read_bytes()
    assert {name for name in again if again[name] != first[name]} == {
        str(path.relative_to(server.home)) for path in placed
    }


def test_connection_lost_halfway_through_shipping_leaves_no_part_of_the_file(server: Sshd, tmp_path: Path) -> None:
    file = big_file(tmp_path / "model.onnx", 150)
    with opened(server.device()) as target:
        before = files_in(server.home)

        def arrives() -> bool:
            return any(part.stat().st_size for part in server.home.rglob(".new-*/model.onnx"))

        with server.cut_when(arrives), refused(server.device(), "the connection is lost"):
            target.place([file])
    assert until(lambda: files_in(server.home) == before)
    assert until(lambda: not any(".new-" in path for path in server.left()))
    with opened(server.device()) as target:
        assert Path(target.place([file])[0]).stat().st_size == file.stat().st_size


def test_connection_lost_while_timing_leaves_no_process(server: Sshd, tmp_path: Path) -> None:
    package = write_package(tmp_path / "package")
    seen: list[int] = []

    def cut(stage: str, share: float) -> None:
        if stage == "timing" and not seen:
            seen.extend(server.processes())
            server.cut()

    with refused(server.device(), "the connection is lost"):
        measure_packages([package], device=server.device(), length=16, min_seconds=0.1, progress=cut)
    assert len(seen) >= 3  # the server's, a shell, and the worker at the least
    assert until(lambda: not any(map(is_running, seen)))


def test_host_that_falls_silent_is_noticed(server: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ssh_target._OPTIONS, "ServerAliveInterval", "1")
    with opened(server.device()) as target, Worker(target, subject="x") as worker:
        connections = children_of(server.process_id)
        for child in connections:
            os.kill(child, signal.SIGSTOP)
        try:
            with refused(server.device(), "the connection is lost .*not responding"):
                worker.ask("memory")
        finally:
            for child in connections:
                os.kill(child, signal.SIGCONT)
    assert until(server.is_quiet)


def test_killed_client_leaves_no_process_there_even_in_the_middle_of_work(server: Sshd) -> None:
    with opened(server.device()) as target, tempfile.TemporaryFile() as stderr:
        process = target.start(stderr)
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["ok"]
            process.stdin.write(b'{"command": "spin", "seconds": 1}\n')
            process.stdin.flush()
            workers = [child for child, command in server.processes().items() if "worker.pyz" in command]
            assert workers
            process.kill()
        assert until(lambda: not any(map(is_running, workers)))


def test_killed_parent_leaves_no_process_there(server: Sshd) -> None:
    code = (
        "import sys, tempfile, time\n"
        "from homoexport.measure.targets.ssh import parse_ssh\n"
        "target = parse_ssh('x', sys.argv[1])\n"
        "target.open()\n"
        "worker = target.start(tempfile.TemporaryFile())\n"
        "print(worker.stdout.readline()[:5], flush=True)\n"
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", code, server.device().partition(":")[2]]
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        parent = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": folder})
        with parent:
            assert parent.stdout is not None
            assert parent.stdout.readline()
            assert not server.is_quiet()
            parent.kill()
        assert until(server.is_quiet)


def test_worker_killed_there_is_told_as_want_of_memory(server: Sshd) -> None:
    with opened(server.device()) as target, Worker(target, subject="x") as worker:
        [process_id] = [
            child
            for child, command in server.processes().items()
            if "worker.pyz" in command and not command.startswith("sh ")
        ]
        os.kill(process_id, signal.SIGKILL)
        with pytest.raises(OutOfMemory, match="killed there, most likely for want of memory"):
            worker.ask("memory")


def test_unknown_host_is_refused_even_where_the_configuration_would_take_it(server: Sshd) -> None:
    (server.folder / "known").unlink()
    refuses(server.device(), f"its host key is not known here; connect once by hand .* ssh -p {server.port} 127.0.0.1")
    server.client_config.write_text("StrictHostKeyChecking no\n" + server.client_config.read_text())
    refuses(server.device(), "its host key is not known here")
    assert not (server.folder / "known").exists()
    assert server.left() == []


def test_changed_host_key_is_refused(server: Sshd, tmp_path: Path) -> None:
    new_key(tmp_path / "other")
    server.know((tmp_path / "other.pub").read_text())
    forget = rf"ssh-keygen -R '\[127.0.0.1\]:{server.port}'"
    refuses(server.device(), f"its host key is not the one that is known; .*{forget}")
    server.client_config.write_text("StrictHostKeyChecking no\n" + server.client_config.read_text())
    refuses(server.device(), "its host key is not the one that is known")


def test_wrong_key_is_refused(server: Sshd) -> None:
    new_key(server.folder / "user")
    refuses(server.device(), f"it takes none of the keys; .*ssh-copy-id -p {server.port} 127.0.0.1")


def test_nobody_there(server: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    server.stop()
    refuses(server.device(), "nothing listens at its port")
    refuses("ssh://no-such-host.invalid", "its name cannot be resolved")
    monkeypatch.setitem(ssh_target._OPTIONS, "ConnectTimeout", "1")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        refuses(f"ssh://127.0.0.1:{mute.getsockname()[1]}", "it does not answer")


def test_mistake_in_the_configuration_is_told(server: Sshd) -> None:
    server.client_config.write_text("NoSuchKey yes\n")
    refuses(server.device(), "the SSH client refuses it .*; mend its configuration")


def test_name_of_the_configuration_is_followed(server: Sshd) -> None:
    with opened(f"ssh://box?python={sys.executable}") as target:
        assert target.cores() == available_cores()
    assert (server.home / ".cache/homoexport/packages").is_dir()


def test_server_that_shares_no_connection_serves_too(serve: Callable[..., Sshd]) -> None:
    server = serve(settings="MaxSessions 1")
    with opened(server.device()) as target, Worker(target, subject="x") as worker:
        assert worker.ask("memory")["peak_rss_bytes"] > 10**7
    assert until(server.is_quiet)


def test_login_shell_that_talks_is_named(server: Sshd) -> None:
    if not Path("/bin/bash").exists() or "bash" not in os.environ.get("SHELL", "bash"):
        pytest.skip("the login shell is not bash")
    (server.home / ".bashrc").write_text("echo Welcome\n")
    refuses(server.device(), "its login shell says 'Welcome' before it runs a command")


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("echo 3.8; exit 1", r"the Python there is too old \(3.8\); give one of 3.10 or later"),
        ("exit 1", "no Python there as '/.*'; give one"),
    ],
)
def test_host_without_a_usable_python(server: Sshd, tmp_path: Path, says: str, message: str) -> None:
    refuses(server.device(python=script(tmp_path / "python", says)), message)
    refuses(server.device(python="/no/such/python"), "no Python there as '/no/such/python'")
    assert until(server.is_quiet)
    assert server.left() == []


NO_INDEX = {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1"}
DEAD_INDEX = {"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "1"}


@pytest.mark.parametrize(
    ("environment", "machine", "message"),
    [
        (
            NO_INDEX,
            "riscv64",
            "pip there finds no onnxruntime [0-9.]+ for Python 3.[0-9]+ on Linux riscv64; name another Python",
        ),
        (DEAD_INDEX, "", "pip there reaches no package index"),
    ],
    ids=["other architecture", "no index"],
)
def test_host_that_cannot_have_the_runtime(
    serve: Callable[..., Sshd], tmp_path: Path, environment: dict[str, str], machine: str, message: str
) -> None:
    if machine:
        script(tmp_path / "bin/uname", f"case $1 in -m) echo {machine} ;; *) echo Linux ;; esac")
    server = serve(environment={**environment, "PATH": f"{tmp_path}/bin:{PATH}"})
    refuses(server.device(python=bare_python(tmp_path / "bare")), message)
    assert until(server.is_quiet)
    assert server.left() == []


def test_python_that_makes_no_virtual_environments(server: Sshd, tmp_path: Path) -> None:
    python = bare_python(tmp_path / "bare")
    [packages] = (tmp_path / "bare").glob("lib/*/site-packages")
    (packages / "sitecustomize.py").write_text("import sys; sys.modules['venv'] = None")
    refuses(server.device(python=python), "cannot make a virtual environment .*apt install python3-venv")
    assert server.left() == []


def test_connection_lost_while_the_runtime_is_installed_leaves_nothing(server: Sshd, tmp_path: Path) -> None:
    python = bare_python(tmp_path / "bare")
    with server.cut_when(lambda: list(server.home.rglob(".new-*/bin/python"))):
        refuses(server.device(python=python), "the connection is lost")
    assert until(lambda: server.left() == [])


def test_full_disk_is_told_and_nothing_is_left(server: Sshd, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1000) as disk:
        with opened(server.device(cache=disk / "deep/cache")) as target:
            before = files_in(disk)
            with refused(target.name, "no room in .*/deep/cache there; free some, or name another folder"):
                target.place([big_file(tmp_path / "model.onnx", 5)])
            assert files_in(disk) == before
        shutil.rmtree(disk / "deep")
        refuses(server.device(cache=disk / "deep/cache", python=bare_python(tmp_path / "bare")), "no room in ")
        assert list(disk.iterdir()) == []


def test_disk_that_fills_up_halfway_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 3000) as disk:
        program = ssh_target.PROGRAM
        code = f"import sys; exec(sys.stdin.buffer.read({len(program)}))"
        request = {"function": "_receive", "folder": f"{disk}/packages/x", "digest": "", "patience_s": 60}
        request["sizes"] = {"model.onnx": 2_000_000}
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, "-I", "-c", code], stdin=pipe, stdout=pipe, bufsize=0) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(program + json.dumps(request).encode() + b"\n")
            assert json.loads(process.stdout.readline()) == {"send": True}
            (disk / "neighbour").write_bytes(bytes(2_000_000))
            with suppress(BrokenPipeError):  # it does not wait for all of it
                process.stdin.write(bytes(2_000_000))
            reply = json.loads(process.stdout.readline())
        assert reply["failed"] == "full"
        assert os.strerror(errno.ENOSPC) in reply["said"]
        assert [path.name for path in disk.iterdir()] == ["neighbour"]


def test_folder_that_may_not_be_written_is_told(server: Sshd) -> None:
    refuses(server.device(cache="/proc/homoexport"), r"cannot use /proc/homoexport there \(.*\); name another folder")


@pytest.mark.slow
def test_runtime_is_installed_once_and_answers_the_same(serve: Callable[..., Sshd], tmp_path: Path) -> None:
    network = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PIP_", "SSL_")) or "_proxy" in name.lower()
    }
    server = serve(environment=network)
    device = server.device(python=bare_python(tmp_path / "bare"))
    package = write_package(tmp_path / "package")
    measurement = measure_packages([package], device=device, length=16, min_seconds=0.1)
    [figures] = measurement.results
    assert figures.agreement is not None
    assert figures.agreement.within
    [venv] = (server.home / "cache").glob("venv-*")
    made = venv.stat()
    with opened(device) as target:
        assert target.cores() == available_cores()
    assert (venv.stat().st_ino, venv.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    (venv / "bin/python").unlink()  # as after an upgrade of what it was made from
    with opened(device) as target:
        assert target.cores() == available_cores()
    assert [path.name for path in (server.home / "cache").glob("venv-*")] == [venv.name]
    assert not any(".new-" in path for path in server.left())
