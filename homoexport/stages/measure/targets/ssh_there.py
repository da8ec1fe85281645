"""What runs on the other machine: sent there as source, the standard library alone, in Python 3.10 or later.

It answers one request, and ends, taking away what it has not finished, when the connection does.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict


class Outcome(TypedDict, total=False):
    """The answer to a request. `failed` is empty, or says where it failed; `said` are the words of what failed."""

    failed: str
    said: str
    python: str
    cores: int


def digest_of(files: Sequence[Path]) -> str:
    """One digest of files' names and contents, in hexadecimal."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as opened:
            while chunk := opened.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _scratch_in(folder: Path) -> Iterator[Path]:
    """A new folder in `folder`; it goes unless it was renamed, and so do the folders that had to be made for it."""
    missing = [above for above in (folder, *folder.parents) if not above.is_dir()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    finally:
        for made in missing:
            with contextlib.suppress(OSError):  # it holds what is to stay
                made.rmdir()


def _settle(scratch: Path, folder: Path) -> None:
    """Give the finished folder its name; one that another caller has put there meanwhile is as good."""
    try:
        scratch.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _run(command: list[str], **environment: str) -> tuple[int, str]:
    """A command's status and output. Where the connection ends, so does the command, with all that it started."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    assert process.stdout is not None
    output = process.stdout.fileno()
    said = b""
    try:
        while True:
            if 0 in select.select([0, output], [], [])[0]:  # nothing is sent now: it is the end
                raise EOFError("the connection has ended")
            chunk = os.read(output, 1 << 16)
            if not chunk:
                return process.wait(), said.decode(errors="replace").strip()
            said += chunk
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _starts(python: str) -> tuple[str, str]:
    """The version of the onnxruntime that a Python can use, or an empty one; and what the Python says."""
    code = "import numpy, onnxruntime; print('found', onnxruntime.__version__)"
    status, said = _run([python, "-I", "-c", code], ORT_DISABLE_TELEMETRY="1")  # which would keep a database there
    last = said.splitlines()[-1] if said else f"it ended with status {status}"
    return (last.split()[1] if status == 0 and last.startswith("found ") else ""), last


def _find_runtime(any_version: bool, version: str, folder: str) -> Outcome:
    """This Python if it has an onnxruntime that will do, else the virtual environment, made if it is not there."""
    found, _ = _starts(sys.executable)
    if found == version or (found and any_version):
        return {"python": sys.executable}
    venv = Path(folder)
    python: Outcome = {"python": str(venv / "bin/python")}
    if venv.is_dir():
        with contextlib.suppress(OSError):
            if _starts(python["python"])[0] == version:
                return python
        shutil.rmtree(venv)  # such as one whose Python was upgraded
    with _scratch_in(venv.parent) as scratch:
        inside = str(scratch / "bin/python")
        make = [sys.executable, "-I", "-m", "venv", "--without-pip", str(scratch)]
        for command in (make, [inside, "-I", "-m", "ensurepip"]):  # by itself, for venv would not tell what it says
            status, said = _run(command, TMPDIR=str(scratch))
            if status:
                return {"failed": "venv", "said": said}
        install = [inside, "-I", "-m", "pip", "install", "-q", "--no-input", "--no-cache-dir", "--only-binary=:all:"]
        status, said = _run([*install, f"onnxruntime=={version}", "numpy"], TMPDIR=str(scratch))
        if status:
            return {"failed": "pip", "said": said}
        _run([*install, "tokenizers"], TMPDIR=str(scratch))  # without it, tokenizing is not timed
        found, said = _starts(inside)
        if found != version:
            return {"failed": "import", "said": said}
        _settle(scratch, venv)
    return python


def _receive(folder: str, digest: str, sizes: dict[str, int], patience_s: int) -> Outcome:
    """Have the files in `folder`: they are asked for where they are not there, or not what they were."""
    place = Path(folder)
    if place.is_dir():
        with contextlib.suppress(OSError):
            if digest_of([place / name for name in sizes]) == digest:
                return {}
        shutil.rmtree(place)
    with _scratch_in(place.parent) as scratch:
        if shutil.disk_usage(scratch).free < sum(sizes.values()):
            raise OSError(errno.ENOSPC, "No space left on device")
        print(json.dumps({"send": True}), flush=True)
        for name, size in sizes.items():
            with (scratch / name).open("wb") as file:
                while left := size - file.tell():
                    signal.alarm(patience_s)  # a connection may be gone without a word
                    chunk = os.read(0, min(left, 1 << 20))
                    if not chunk:
                        raise EOFError("the connection has ended")
                    file.write(chunk)
        signal.alarm(0)
        if digest_of([scratch / name for name in sizes]) != digest:
            raise ValueError("the files did not arrive as they were sent")
        _settle(scratch, place)
    return {}


def _count_cores(worker: str) -> Outcome:
    """Cores that a worker may use."""
    sys.path.insert(0, worker)
    from homoexport.host import available_cores

    return {"cores": available_cores()}


def answer_one() -> None:
    """Do what the line on stdin asks for, and answer with a line on stdout."""
    for number in (signal.SIGALRM, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(1))  # by way of everything that cleans up
    request = json.loads(sys.stdin.buffer.readline())
    try:
        reply = {"failed": "", **globals()[request.pop("function")](**request)}
    except Exception as error:  # whatever it is, the other end must hear of it
        code = getattr(error, "errno", None)
        full = code in (errno.ENOSPC, errno.EDQUOT)
        reply = {"failed": "full" if full else "error", "said": f"{type(error).__name__}: {error}"}
    print(json.dumps(reply), flush=True)
