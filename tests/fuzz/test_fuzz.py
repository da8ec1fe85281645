"""The short form of `make fuzz`: the same inputs each time, some of each target."""

from __future__ import annotations

import random
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from homoexport.documents.document import Document
from homoexport.errors import TextError, refusing
from tests.fuzz.good import good_documents
from tests.fuzz.outside import run_each
from tests.fuzz.targets import TARGETS
from tests.fuzz.watch import Watch

INPUTS = {"models": 12, "packages": 40, "recipes": 40}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_mutated_inputs_are_read_or_refused(name, tmp_path, monkeypatch):
    monkeypatch.delenv("HOMOEXPORT_LIMITS", raising=False)
    make, watch = TARGETS[name](tmp_path), Watch(tmp_path)
    for number in range(INPUTS.get(name, 300)):
        watch.read(make(random.Random(f"short/{number}")))
    assert watch.inputs / 4 < watch.refused < watch.inputs


def test_documents_are_read_before_they_are_mutated(tmp_path):
    found = [read(path) for path, read in good_documents(tmp_path).values()]
    missing = [kind for kind in _kinds(Document) if not any(isinstance(each, kind) for each in found)]
    assert not missing


def _kinds(base: type[Document]) -> Iterator[type[Document]]:
    for kind in base.__subclasses__():
        if kind.__module__.startswith("homoexport."):
            yield kind
        yield from _kinds(kind)


def _hangs() -> None:
    for _ in range(2):  # the second would not end, if the alarm came only once
        with suppress(TextError), refusing(TextError, "cannot be read", where="x"):
            time.sleep(30)


def _sends() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as open_socket:
        open_socket.sendto(b"", ("127.0.0.1", 9))


FORBIDDEN = {
    "seconds": _hangs,
    "a file": lambda: Path("../outside").write_bytes(b""),
    "a file of a name that goes on": lambda: Path(f"{Path.cwd()}-more").touch(),
    "a file that leaves": lambda: Path("a").rename("../a"),
    "a link": lambda: Path("../a").symlink_to("a"),
    "a link to elsewhere": lambda: Path("a.link").symlink_to("/etc/passwd"),
    "a name of another host": lambda: socket.getaddrinfo("localhost", 80),
    "a datagram": _sends,
    "memory": lambda: b"1" * (200 << 20),
}


@pytest.mark.parametrize("reader", FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_no_input_may_do_is_seen(tmp_path, monkeypatch, reader):
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "a").touch()
    monkeypatch.chdir(inside)
    monkeypatch.setattr("tests.fuzz.watch.SECONDS", 0.2 if reader is _hangs else 10)
    monkeypatch.setattr("tests.fuzz.watch.MEGABYTES", 100)
    assert len(b"1" * (300 << 20))  # a peak before the watch, beyond which nothing would be seen
    watch = Watch(inside)
    watch.read(lambda: Path("b").touch())
    with pytest.raises(AssertionError):
        watch.read(reader)


@pytest.mark.parametrize(
    ("code", "fell"),
    [
        ("print('good')", False),
        ("exit(3)", True),
        (f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})", True),
        ("import signal, time; signal.pthread_sigmask(0, range(1, 32)); print('at 7'); time.sleep(60)", True),
    ],
)
def test_targets_that_fail_crash_or_hang_fall_and_the_next_are_run(capsys, code, fell):
    command = [sys.executable, "-u", "-c"]
    assert run_each({"a": [*command, code], "b": [*command, "print('next')"]}, silent=1.0) == fell
    assert "next" in capsys.readouterr().out
