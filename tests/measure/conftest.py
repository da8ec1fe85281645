"""An SSH server on loopback for the tests that are held against every target."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.measure import sshd


@pytest.fixture
def ssh_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A device that leads to a server of its own, which runs this interpreter."""
    if missing := sshd.missing():
        pytest.skip(missing)
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as short, sshd.running(tmp_path / "sshd") as server:
        monkeypatch.setattr(tempfile, "tempdir", short)  # paths of sockets are short
        monkeypatch.setenv("HOMOEXPORT_SSH", server.command)
        yield server.device()
