"""SSH servers on loopback: one for the tests that are held against every target, and one that can be set up."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.stages.measure import sshd
from tests.stages.measure.sshd import Sshd, children_of, running


@pytest.fixture
def ssh_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A device that leads to a server of its own, which runs this interpreter."""
    if missing := sshd.missing():
        pytest.skip(missing)
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as short, sshd.running(tmp_path / "sshd") as server:
        monkeypatch.setattr(tempfile, "tempdir", short)  # paths of sockets are short
        monkeypatch.setenv("HOMOEXPORT_SSH", server.command)
        yield server.device()


@pytest.fixture
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
