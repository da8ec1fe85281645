"""A hub of models in memory, which speaks what huggingface_hub asks of one: pull, make a repository, push.

Small files are pushed inside the commit, those of `large_from` bytes on by Git LFS's batch protocol, as the real one
has it. Who writes needs `TOKEN`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_of_the_double"
NEVER = 10**9  # bytes that no file here has


class Hub:
    """What it holds: the files of each repository, by their paths."""

    def __init__(self, address: str, large_from: int) -> None:
        self.address, self.large_from = address, large_from
        self.files: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}  # by sha256
        self.commits: list[str] = []

    def add(self, repository: str, folder: Path) -> None:
        """A repository with a folder's files."""
        self.files[repository] = {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }

    def sha(self, repository: str) -> str:
        """What names the state of a repository."""
        return hashlib.sha1(repr(sorted(self.files[repository].items())).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/[^/]+)?", path):
            repository, kind = found.groups()
            if repository not in self.hub.files:
                return self._fail(404, "RepoNotFound")
            return self._answer(self._tree(repository) if kind == "tree" else self._info(repository))
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        if not found or found[1] not in self.hub.files:
            return self._fail(404, "RepoNotFound")
        content = self.hub.files[found[1]].get(found[2])
        if content is None:
            return self._fail(404, "EntryNotFound")
        return self._send(200, content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": self.hub.sha(found[1])})

    def do_PUT(self) -> None:
        content, oid = self._body(), self.path.removeprefix("/lfs/")
        if hashlib.sha256(content).hexdigest() != oid:
            return self._fail(400, "BadContent")
        self.hub.large[oid] = content
        return self._answer({})

    def do_POST(self) -> None:
        body, path = self._body(), unquote(urlsplit(self.path).path)
        if path == "/api/validate-yaml":
            _, front, _ = json.loads(body)["content"].split("---\n", 2)
            return self._answer({"errors": [], "warnings": []} if yaml.safe_load(front) else {"errors": ["empty"]})
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._fail(401, "")
        if path == "/api/repos/create":
            asked = json.loads(body)
            repository = f"{asked['organization'] or 'me'}/{asked['name']}"
            self.hub.files.setdefault(repository, {})
            return self._answer({"url": f"{self.hub.address}/{repository}"})
        if re.fullmatch(r"/[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
            return self._answer({"transfer": "basic", "objects": list(map(self._place, json.loads(body)["objects"]))})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if not found or found[1] not in self.hub.files:
            return self._fail(404, "RepoNotFound")
        if found[2] == "preupload":
            return self._answer({"files": list(map(self._mode, json.loads(body)["files"]))})
        return self._answer(self._commit(found[1], list(map(json.loads, body.splitlines()))))

    def _info(self, repository: str) -> dict[str, Any]:
        siblings = [{"rfilename": name} for name in self.hub.files[repository]]
        return {"_id": "1", "id": repository, "sha": self.hub.sha(repository), "siblings": siblings, "tags": []}

    def _tree(self, repository: str) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
            for name, content in self.hub.files[repository].items()
        ]

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if file["size"] >= self.hub.large_from else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}

    def _place(self, file: dict[str, Any]) -> dict[str, Any]:
        return {**file, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{file['oid']}"}}}

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.commits.append(value["summary"])
            elif line["key"] == "file":
                self.hub.files[repository][value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "lfsFile"
                self.hub.files[repository][value["path"]] = self.hub.large[value["oid"]]
        sha = self.hub.sha(repository)
        return {"commitUrl": f"{self.hub.address}/{repository}/commit/{sha}", "commitOid": sha}

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        content = b""
        while length := int(self.rfile.readline(), 16):
            content += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _answer(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _fail(self, code: int, what: str) -> None:
        self._send(code, b"{}", {"X-Error-Code": what, "Content-Type": "application/json"})

    def _send(self, code: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    """A blob's name, as Git has it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def hub_double(*, large_from: int) -> Iterator[Hub]:
    """A hub on this machine, as long as the block lasts."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.hub = hub = Hub(f"http://127.0.0.1:{server.server_port}", large_from)
        Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()
