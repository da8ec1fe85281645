"""What goes wrong over SSH: each is one clear line, and nothing is left behind."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from homoexport.stages.measure import measure_packages
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import OutOfMemory
from homoexport.stages.measure.targets import ssh as ssh_target
from tests.stages.measure.sshd import (
    PATH,
    Sshd,
    bare_python,
    big_file,
    children_of,
    files_in,
    is_running,
    missing,
    new_key,
    opened,
    refused,
    refuses,
    script,
    small_disk,
    until,
)
from tests.stages.measure.tiny_onnx import write_package

pytestmark = [pytest.mark.ssh, pytest.mark.processes, pytest.mark.skipif(bool(missing()), reason=missing())]


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
                worker.memory()
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
        "from homoexport.stages.measure.targets.ssh import parse_ssh\n"
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
            worker.memory()


def test_unknown_host_is_refused_even_where_the_configuration_would_take_it(server: Sshd) -> None:
    (server.folder / "known").unlink()
    refuses(server.device(), f"its host key is not known here; connect once by hand .* ssh -p {server.port} 127.0.0.1")
    config = server.client_config.read_text()
    seen = server.folder / "seen"
    at_the_second_call = f'Match exec "test -e {seen} || ! touch {seen}"\n'
    for when in ("", at_the_second_call):
        for lax in ("no", "accept-new"):
            seen.unlink(missing_ok=True)
            server.client_config.write_text(f"{when}StrictHostKeyChecking {lax}\nMatch all\n{config}")
            refuses(server.device(), "its host key is not known here")
            assert seen.exists() == bool(when)
            assert not (server.folder / "known").exists()
    assert server.left() == []


@pytest.mark.parametrize("lax", ["no", "accept-new"])
def test_client_told_to_take_unknown_hosts_is_refused(server: Sshd, monkeypatch: pytest.MonkeyPatch, lax: str) -> None:
    (server.folder / "known").unlink()
    monkeypatch.setenv("HOMOEXPORT_SSH", f"{server.command} -o StrictHostKeyChecking={lax}")
    refuses(server.device(), "the SSH client is told to take unknown host keys; leave StrictHostKeyChecking out of")
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
    refuses(server.device(), "the SSH client refuses it .*; correct its configuration")


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
