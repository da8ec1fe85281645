"""The HTTP server of the bridge: it serves one page with its files, and passes commands to it and answers back.

A page has a number and a prefix of its own in every address, so that nothing comes out of a cache, what it
fetched can be counted, and a page that has been replaced is not taken for its successor. The prefix begins
with a secret, so that other users of the machine can neither read the files nor answer.
"""

from __future__ import annotations

import json
import queue
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

_TYPES = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
_ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
_POLL_SECONDS = 60.0

JsonObject = dict[str, Any]
"""What a page is asked, or what it answers; the parent checks what it gets of that."""


class Site:
    """The page, what every page may fetch by its name in the address, and the command that waits for it.

    `isolated` pages are cross-origin isolated, which shared memory and thus threads need. `on_reply` gets each answer
    of the present page.
    """

    def __init__(self, files: Mapping[str, Path], *, isolated: bool, on_reply: Callable[[JsonObject], None]) -> None:
        self._isolated, self._on_reply = isolated, on_reply
        self._common, self._own = dict(files), dict[str, Path]()
        self._secret = secrets.token_urlsafe(16)
        self._page = 0
        self._commands: queue.SimpleQueue[JsonObject] = queue.SimpleQueue()
        self._fetched: dict[str, int] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return self._server.server_port

    def open_page(self, host: str, files: Mapping[str, Path], **parameters: object) -> str:
        """The address of a fresh page, the only one from now on; `files` it may fetch besides the common ones."""
        self._page += 1
        self._own = dict(files)
        self._commands = queue.SimpleQueue()
        self._fetched = {}
        query = urlencode(parameters)
        return f"http://{host}:{self.port}/{self._secret}/{self._page}/page.html?{query}"

    def replace_page(self, host: str, files: Mapping[str, Path], **parameters: object) -> None:
        """Have the present page make way for a fresh one; see `open_page`."""
        commands = self._commands
        commands.put({"command": "open", "url": self.open_page(host, files, **parameters)})

    def command(self, command: str, **request: Any) -> None:
        """What the page does next; its answer goes to `on_reply`."""
        self._commands.put({"command": command, **request})

    def fetched_bytes(self, under: str = "") -> int:
        """Bytes of the files that the page fetched, each counted once, uncompressed; of those `under` a name."""
        return sum(size for name, size in self._fetched.items() if name.startswith(under))

    def _find(self, address: str) -> tuple[str, Path] | None:
        """A name of the present page's and its file; nothing else on this machine has an address."""
        secret, _, rest = unquote(urlsplit(address).path).lstrip("/").partition("/")
        page, _, name = rest.partition("/")
        if not secrets.compare_digest(secret.encode(), self._secret.encode()) or page != str(self._page):
            return None
        path = self._own.get(name) or self._common.get(name)
        return (name, path) if path is not None else None

    def _is_question(self, address: str) -> bool:
        return urlsplit(address).path == f"/{self._secret}/{self._page}/next"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = 1 << 16

            def do_GET(self) -> None:
                found = site._find(self.path)
                if found is None or not found[1].is_file():
                    self._start(404, 0)
                    return
                name, path = found
                size = path.stat().st_size
                site._fetched[name] = size
                self._start(200, size, _TYPES.get(path.suffix, "application/octet-stream"))
                with path.open("rb") as file:
                    shutil.copyfileobj(file, self.wfile, 1 << 20)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if not site._is_question(self.path):
                    self._start(404, 0)
                    return
                commands = site._commands  # the page's own; a later page has another queue
                reply = json.loads(body)
                if reply is not None:
                    site._on_reply(reply)
                try:
                    command = json.dumps(commands.get(timeout=_POLL_SECONDS)).encode()
                except queue.Empty:
                    self._start(204, 0)
                    return
                self._start(200, len(command), "application/json")
                self.wfile.write(command)

            def _start(self, status: int, size: int, kind: str = "text/plain") -> None:
                self.send_response(status)
                if status != 204:
                    self.send_header("Content-Length", str(size))
                    self.send_header("Content-Type", kind)
                self.send_header("Cache-Control", "no-store")
                for name, value in _ISOLATION.items() if site._isolated else ():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: stderr is for what went wrong."""

        return Handler
