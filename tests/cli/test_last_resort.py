"""Whatever is raised, the user reads one line, and the traceback is kept for whoever mends it."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from homoexport.cli import screen
from homoexport.documents import artifact
from tests.hostile import HOSTILE


class Panic(BaseException):
    """As pyo3's, which is no Exception."""


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        ValueError("two\nlines \x1b]0;PWNED\x07"),
        RecursionError(),
        MemoryError(),
        OSError(5, "Input/output error"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        Panic("called `unwrap()` on a `None` value"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_last_resort_is_one_line_and_a_private_file(homoexport, monkeypatch, tmp_path, error):
    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(artifact, "verify", fail)
    outcome = homoexport("verify", "somewhere")
    assert (outcome.code, outcome.out) == (1, "")
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"error: unexpected {type(error).__name__} (")
    log = Path(re.search(r"the traceback in (\S+)$", line)[1])
    assert list(tmp_path.iterdir()) == [log]
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    kept = log.read_text()
    assert kept.startswith("homoexport verify somewhere\nTraceback")
    assert "in fail" in kept
    assert "\x1b" not in kept + line


def test_where_no_log_can_be_written_the_line_says_so(homoexport, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setattr(artifact, "verify", lambda *_: {}["x"])
    outcome = homoexport("verify", "somewhere")
    assert outcome.code == 1
    (line,) = outcome.err.splitlines()
    assert "its traceback cannot be written" in line


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_name_is_one_line_of_what_can_be_seen(homoexport, tmp_path, text):
    outcome = homoexport("verify", tmp_path / text.replace("/", "_"))
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert not set("\x1b\x07\x08\r\x9b\x9d\x9c\u202e\u2066\udcff\ud800") & set(line)


def test_json_is_ascii(capsys):
    screen.print_json(HOSTILE)
    out = capsys.readouterr().out
    assert out.isascii()
    assert set(filter(str.isspace, out)) == {" ", "\n"}
    assert "\x1b" not in out
    assert json.loads(out) == HOSTILE


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (OSError(28, "No space left on device"), 2, "error: cannot write (No space left on device); free some room"),
        (PermissionError(13, "Permission denied", "/a"), 2, "error: /a: Permission denied; name another"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_system_refuses_is_no_failure_of_ours(homoexport, monkeypatch, error, code, told):
    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(artifact, "verify", fail)
    outcome = homoexport("verify", "somewhere")
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (code, "", bool(told))
    assert outcome.err.startswith(told)


def test_a_stream_of_errors_that_is_full_changes_no_exit_code(homoexport, monkeypatch):
    def refuse(_text: str) -> int:
        raise OSError(28, "No space left on device")

    full = io.StringIO()
    full.write = refuse
    monkeypatch.setattr(screen.errors, "_file", full)
    assert homoexport("verify", "nowhere").code == 2


@pytest.mark.parametrize("command", [("verify",), ("embed",), ("export", "-o", "out"), ("eval", "--task", "sts")])
def test_paths_that_no_file_can_have_are_one_line(homoexport, monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    verb, *rest = command
    outcome = homoexport(verb, tmp_path / ("n" * 300), *rest)
    assert (outcome.code, outcome.err.count("error: ")) == (2, 1)


ENDED = """
import atexit, os, signal, sys, time
from homoexport import cli

for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)  # nohup's children ignore some

class TakenApart:
    def __del__(self):
        time.sleep(100)  # as an interpreter with torch in it, on a busy machine

kept = TakenApart()
atexit.register(print, "cleaned up")

def work(*_arguments, **_named):
    try:
        if {number}:
            os.kill(os.getpid(), {number})
            time.sleep(100)
        return 0
    finally:
        print("put away")

cli.app = work
cli.command()
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("number", "world", "code"),
    [(signal.SIGTERM, 1, 143), (signal.SIGHUP, 1, 129), (0, 2, 0), (signal.SIGTERM, 2, 143)],
)
def test_one_that_a_signal_ends_and_one_of_many_do_not_stay_to_be_taken_apart(number, world, code):
    environment = {**os.environ, "WORLD_SIZE": str(world)}
    command = [sys.executable, "-c", ENDED.format(number=int(number))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90, env=environment)
    assert (done.returncode, done.stdout.split("\n")) == (code, ["put away", "cleaned up", ""])
