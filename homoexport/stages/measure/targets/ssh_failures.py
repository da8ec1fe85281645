"""What it means when a host cannot be connected to, or cannot have onnxruntime, and what to do about it."""

from __future__ import annotations

import re

OTHER_CACHE = "name another folder: ?cache=FOLDER"
_FAILURES = (  # what the client says, what it means, and the hint
    (
        "HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the one that is known",
        "find out why; if the machine was set up anew, forget the old key: ssh-keygen -R {known_as}",
    ),
    (
        "host key is known for|Host key verification failed",
        "its host key is not known here",
        "connect once by hand and compare its fingerprint: ssh {login}",
    ),
    ("Could not resolve hostname", "its name cannot be resolved", "check the name, or give its address"),
    ("Connection refused", "nothing listens at its port", "start its SSH server, or give the port: ssh://HOST:PORT"),
    (
        "Permission denied",
        "it takes none of the keys",
        "have yours there: ssh-copy-id {login}; one with a passphrase must be in the agent",
    ),
    (
        "[Tt]imed out|Timeout, server|No route to host|Network is unreachable|Host is down",
        "it does not answer",
        "check that it is on and can be reached: ssh {login}",
    ),
)
_NO_INDEX = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ProxyError", "SSLError")


def no_connection(said: str, *, login: str, known_as: str) -> tuple[str, str]:
    """What keeps the client from connecting, by what it said, and the hint.

    `login` is how the client would be called by hand, `known_as` the host's name among the known ones.
    """
    for sign, what, hint in _FAILURES:
        if re.search(sign, said):
            return what, hint.format(login=login, known_as=known_as)
    return f"no connection ({last_line(said)})", f"try it by hand: ssh {login}"


def is_full(said: str) -> bool:
    """Whether a command there ended for want of room."""
    return "No space left" in said or "quota exceeded" in said


def no_runtime(stage: str, said: str, *, python: str, runtime: str) -> tuple[str, str]:
    """Why there is no virtual environment with the runtime, by where it failed (`venv`, `pip`, `import`); the hint."""
    hint = "name a Python there that has one: ?python=PATH"
    if stage == "venv":
        what = f"{python} cannot make a virtual environment ({last_line(said)})"
        return what, f"apt install python3-venv there, or {hint}"
    if any(sign in said for sign in _NO_INDEX):
        return f"{runtime} is not there, and pip there reaches no package index", hint
    if "No matching distribution" in said:
        return f"pip there finds no {runtime} for {python}", "name another Python there: ?python=PATH"
    done = "started" if stage == "import" else "installed"
    return f"{runtime} cannot be {done} with {python} ({last_line(said)})", hint


def last_line(said: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
