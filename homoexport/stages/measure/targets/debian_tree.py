"""A small arm64 Debian with Python and onnxruntime in a folder, for an emulator to run; no root rights needed.

apt resolves, downloads and verifies Debian's packages by a configuration of its own, so the host's lists
and packages stay as they are; `dpkg-deb` unpacks them, and nothing of theirs is run. pip adds the wheels.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime as ort
import tokenizers

from homoexport.documents.measurement import Need
from homoexport.errors import DeviceError
from homoexport.lock import scratch_folder
from homoexport.stages.measure.targets.protocol import cache_folder, refuse_needs

SET_UP = "homoexport doctor --set-up arm64"
PYTHON = "usr/bin/python3.11"

_RELEASE = "bookworm"
_MIRROR = "http://deb.debian.org/debian"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PACKAGES = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6")
_WHEELS = {"onnxruntime": ort.__version__, "numpy": np.__version__, "tokenizers": tokenizers.__version__}
_SITE = "usr/local/lib/python3.11/dist-packages"
_NEWEST_GLIBC = 36  # bookworm's is 2.36: it runs every wheel of manylinux_2_17 to manylinux_2_36
_NOT_NEEDED = ("usr/share", "usr/lib/aarch64-linux-gnu/gconv", "var")
_TOOLS = ("apt-get", "apt-config", "dpkg-deb")
_HOSTS_SETTINGS = ("Acquire::http", "Acquire::ftp", "Acquire::Force", "Acquire::Retries")  # proxies and the like
_WHERE = "arm64"

_APT_CONF = """\
#clear Acquire::Languages;
Acquire::Languages "none";
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Dir::Etc "{apt}/etc";
Dir::State "{apt}";
Dir::State::status "{apt}/status";
Dir::Cache "{apt}";
Dir::Log "{apt}";
"""


def tree_folder() -> Path:
    """Where `make_tree` puts the tree for the onnxruntime that is installed here."""
    return cache_folder().absolute() / "targets" / f"arm64-{ort.__version__}"


def tree_needs() -> list[Need]:
    """What is missing for the tree: the tree, and what makes it; nothing where it is there."""
    if tree_folder().is_dir():
        return []
    return [*_tool_needs(), Need(what=f"the arm64 tree {tree_folder()}", command=SET_UP)]


def _tool_needs() -> list[Need]:
    needs = [
        Need(what=tool, command="do it on Debian or Ubuntu, or install apt and dpkg")
        for tool in _TOOLS
        if not shutil.which(tool)
    ]
    if not _KEYRING.is_file():
        needs.append(Need(what=f"Debian's keyring {_KEYRING}", command="apt-get install debian-archive-keyring"))
    if importlib.util.find_spec("pip") is None:
        needs.append(Need(what="pip", command=f"{sys.executable} -m ensurepip"))
    return needs


def make_tree(report: Callable[[str], None], check: Callable[[Path], None]) -> Path:
    """Make the tree, unless it is there. Until it is whole it has another name, so nobody meets half of it.

    Before it gets its name, `check` is called with it; what that raises ends the making.
    """
    folder = tree_folder()
    if folder.is_dir():
        report(f"{folder} is there")
        return folder
    refuse_needs(_tool_needs(), where=_WHERE)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.parent, report):
            if not folder.is_dir():
                _make(folder, report, check)
    except OSError as error:
        raise _cannot_write(folder, error.strerror or str(error)) from None
    report(f"{folder} is ready")
    return folder


@contextmanager
def _alone(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """One maker at a time, so that what lies about from an older try is certainly nobody's."""
    import fcntl  # Unix has it, and so has every host with an apt; not so every one that imports this

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another process that makes it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _make(folder: Path, report: Callable[[str], None], check: Callable[[Path], None]) -> None:
    with scratch_folder(".arm64-", parent=folder.parent) as work:
        tree = work / "tree"
        tree.mkdir()
        for archive in _download(work / "apt", report):
            _run(["dpkg-deb", "--extract", str(archive), str(tree)], f"unpacking {archive.name}")
        for name in _NOT_NEEDED:
            shutil.rmtree(tree / name, ignore_errors=True)
        _install_wheels(tree / _SITE, report)
        report("trying it")
        check(tree)
        tree.rename(folder)


def _download(apt: Path, report: Callable[[str], None]) -> list[Path]:
    """Debian's packages with all that they depend on, verified by Debian's keys."""
    for name in ("etc", "lists/partial", "archives/partial"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()  # an empty system: everything is to be installed
    mirror = _mirror()
    (apt / "etc" / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {mirror} {_RELEASE} main\n")
    (apt / "apt.conf").write_text(_hosts_settings() + _APT_CONF.format(apt=apt))
    own = {"APT_CONFIG": str(apt / "apt.conf"), "LC_ALL": "C"}
    report(f"reading the list of Debian {_RELEASE}'s arm64 packages from {mirror}")
    _run(["apt-get", "--quiet", "update", "--error-on=any"], f"reading the package list of {mirror}", own)
    report("downloading Debian's Python (about 16 MB)")
    command = ["apt-get", "--quiet", "--assume-yes", "--download-only", "install", *_PACKAGES]
    _run(command, f"downloading packages from {mirror}", own)
    return sorted((apt / "archives").glob("*.deb"))


def _mirror() -> str:
    """The Debian mirror that this host uses; Debian's own where it uses none."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN)", "Created-By: Packages"]
    answer = _run(command, "reading apt's configuration")
    for line in answer.splitlines():
        address, _, origin = line.partition(" ")
        address = address.rstrip("/")
        if address.endswith("/debian") or (origin == "Debian" and "security" not in address):
            return address
    return _MIRROR


def _hosts_settings() -> str:
    """How the host's apt reaches the network."""
    answer = _run(["apt-config", "dump"], "reading apt's configuration")
    return "".join(f"{line}\n" for line in answer.splitlines() if line.startswith(_HOSTS_SETTINGS))


def _install_wheels(site: Path, report: Callable[[str], None]) -> None:
    wanted = [f"{name}=={version}" for name, version in _WHEELS.items()]
    report(f"installing {', '.join(wanted)} (about 30 MB)")
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(_NEWEST_GLIBC, 16, -1)] + ["manylinux2014_aarch64"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-compile", "--target", str(site), "--only-binary", ":all:"]
    command += ["--python-version", "3.11", "--implementation", "cp"]
    command += [f"--platform={platform}" for platform in platforms]
    _run([*command, *wanted], "installing aarch64 wheels with pip", {"PIP_USER": "0"})  # no --user with --target


def _run(command: Sequence[str], doing: str, environment: dict[str, str] | None = None) -> str:
    """What a tool prints; raises DeviceError where it fails."""
    env = os.environ | (environment or {})
    nothing = subprocess.DEVNULL
    done = subprocess.run(command, stdin=nothing, capture_output=True, text=True, errors="replace", env=env)
    if done.returncode == 0:
        return done.stdout
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()] or ["it said nothing"]
    if any("No space left on device" in line for line in said):
        raise _cannot_write(tree_folder(), "No space left on device")
    from_apt = [line for line in said if line.startswith("E: ")]  # the first one is the cause,
    from_pip = [line for line in said if line.startswith("ERROR: ")]  # and of these the last
    cause = (from_apt + from_pip[::-1] + said[::-1])[0]
    raise DeviceError(f"{doing} failed ({cause})", where=_WHERE, hint=f"when that is put right: {SET_UP}")


def _cannot_write(folder: Path, reason: str) -> DeviceError:
    hint = "make room, or set HOMOEXPORT_CACHE to a folder elsewhere"
    return DeviceError(f"cannot write {folder} ({reason})", where=_WHERE, hint=hint)
