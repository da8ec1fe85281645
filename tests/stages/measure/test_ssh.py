"""The `ssh` target against a real OpenSSH server on loopback."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from homoexport.host import available_cores
from homoexport.stages.measure import measure_packages
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets.ssh import parse_ssh
from tests.stages.measure.sshd import Sshd, bare_python, big_file, files_in, missing, opened, refused, until
from tests.stages.measure.tiny_onnx import weights, write_package

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


@pytest.mark.parametrize("device", RIGHT)
def test_hosts_that_can_be_named(device: str) -> None:
    assert parse_ssh(device, device.partition(":")[2] + "?python=~/py/bin/python,cache=/var/tmp/x").name == device


@pytest.mark.parametrize("device", WRONG)
def test_hosts_that_could_be_something_else_are_refused(device: str) -> None:
    with refused(f"device {device}", "cannot read the host; write it as"):
        parse_ssh(device, device.partition(":")[2])


@pytest.mark.parametrize("options", WRONG_OPTIONS)
def test_options_that_could_be_something_else_are_refused(options: str) -> None:
    with refused(f"device ssh://pi?{options}", "cannot read '"):
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


@pytest.mark.parametrize(
    "name", ["a b", "$(touch PWNED)", "`touch PWNED`", "x;touch PWNED", "x'$(touch PWNED)'y", "*?~&|<>!{a,b}"]
)
def test_a_home_of_any_name_is_a_name_alone(serve: Callable[..., Sshd], tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    server = serve(environment={"HOME": str(home)})
    with opened(server.device(cache=None)) as target:
        (there,) = target.place([big_file(tmp_path / "file", 1)])
        assert Path(there).is_relative_to(home)
        assert Path(there).is_file()
    assert not list(tmp_path.rglob("PWNED*"))
    assert not list(server.home.rglob("PWNED*"))


def test_name_of_the_configuration_is_followed(server: Sshd) -> None:
    with opened(f"ssh://box?python={sys.executable}") as target:
        assert target.cores() == available_cores()
    assert (server.home / ".cache/homoexport/packages").is_dir()


def test_server_that_shares_no_connection_serves_too(serve: Callable[..., Sshd]) -> None:
    server = serve(settings="MaxSessions 1")
    with opened(server.device()) as target, Worker(target, subject="x") as worker:
        assert worker.memory().peak_rss_bytes > 10**7
    assert until(server.is_quiet)


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
