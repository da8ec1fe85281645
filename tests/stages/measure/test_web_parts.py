"""The parts of the `web` target that need no browser: options, the runtime's set-up, the site, the inputs."""

from __future__ import annotations

import base64
import http.client
import os
import re
import stat
from collections.abc import Callable
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import onnx
import pytest

from homoexport.documents.package import BrowserChoice
from homoexport.errors import DeviceError
from homoexport.host import available_cores
from homoexport.runtime.worker.by_onnxruntime import OnnxModel
from homoexport.runtime.worker.inputs import make_batches
from homoexport.runtime.worker.protocol import InputsRequest, LoadRequest
from homoexport.stages.measure import as_chosen, browsers, left_open, targets
from homoexport.stages.measure.targets import web
from homoexport.stages.measure.targets.web import (
    RUNTIME_VERSION,
    WebOptions,
    WebTarget,
    find_browser,
    parse_web,
    runtime_folder,
    set_up_web,
)
from homoexport.stages.measure.web import BridgeSettings
from homoexport.stages.measure.web import site as site_module
from homoexport.stages.measure.web.bridge import page_inputs
from homoexport.stages.measure.web.browser import Browser
from homoexport.stages.measure.web.site import Site
from tests.stages.measure.sshd import until
from tests.stages.measure.tiny_onnx import weights, write_encoder

WORKER_JS = Path(site_module.__file__).parent / "worker.js"


@pytest.fixture(autouse=True)
def kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(targets.KINDS, "web", (parse_web, "web"))


def test_missing_browser_is_told_with_the_command() -> None:
    target = WebTarget("web:browser=/nowhere/chrome", WebOptions(browser="/nowhere/chrome"))
    with pytest.raises(DeviceError) as raised:
        target.open()
    assert str(raised.value) == "web:browser=/nowhere/chrome: /nowhere/chrome is missing; apt-get install chromium"


def test_missing_runtime_is_told_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMOEXPORT_CACHE", str(tmp_path))
    needs = {need.what: need.command for need in WebTarget().needs()}
    assert needs[f"onnxruntime-web {RUNTIME_VERSION}"] == "homoexport doctor --set-up web"


@pytest.mark.parametrize(
    "options", ["threads=0", "threads=two", "threads=", "backend=webgl", "isolation=maybe", "colour=red"]
)
def test_unknown_options_are_refused(options: str) -> None:
    with pytest.raises(DeviceError) as raised:
        parse_web(f"web:{options}", options)
    assert options in str(raised.value)


def test_options_are_read() -> None:
    target = parse_web("web:threads=1,backend=webgpu,browser=sh", "threads=1,backend=webgpu,browser=sh")
    assert (target.cores(), target.providers, target.emulated) == (1, ("webgpu",), False)
    assert find_browser("sh") is not None
    assert parse_web("web", "").cores() == available_cores()
    assert parse_web("web:isolation=off", "isolation=off").cores() == 1


def test_more_threads_than_can_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WebTarget, "needs", lambda self: [])
    with pytest.raises(DeviceError, match="threads of 1000 where"):
        WebTarget("web", WebOptions(threads=1000)).open()
    with pytest.raises(DeviceError, match="threads of 2 where 1 core can be used without isolation"):
        WebTarget("web", WebOptions(threads=2, isolation="off")).open()


def test_what_a_browser_leaves_open_is_named_by_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"wasm": "web:threads=2,backend=wasm", "webgpu": "web:threads=2,backend=webgpu"}
    assert parse_web("web:threads=2", "threads=2").by_provider() == both
    assert parse_web("web", "").by_provider() == {"wasm": "web:backend=wasm", "webgpu": "web:backend=webgpu"}
    assert parse_web("web:backend=webgpu", "backend=webgpu").by_provider() == {"webgpu": "web:backend=webgpu"}
    monkeypatch.setattr(web, "available_cores", lambda: 6)
    assert parse_web("web", "").thread_counts(None) == (1, 2, 4, 6)
    assert parse_web("web", "").thread_counts(3) == (3,)
    assert parse_web("web:threads=2", "threads=2").thread_counts(None) == (2,)
    assert parse_web("web:isolation=off", "isolation=off").thread_counts(None) == (1,)


class NoGpu:
    """A worker whose browser has no WebGPU."""

    def __init__(self, target: WebTarget, *, subject: str) -> None:
        if target.providers == ("webgpu",):
            raise target.error("this browser offers no WebGPU adapter here")

    def __enter__(self) -> NoGpu:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_missing_webgpu_is_not_tried_and_refused_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browsers, "Worker", NoGpu)
    monkeypatch.setattr(WebTarget, "open", lambda self: None)
    found = left_open("web", threads=1)
    assert found is not None
    assert (found.devices, found.threads) == ({"wasm": "web:backend=wasm"}, (1,))
    assert found.not_tried == {"webgpu": "this browser offers no WebGPU adapter here"}
    with pytest.raises(DeviceError, match="no WebGPU adapter"):
        left_open("web:backend=webgpu", threads=None)
    assert left_open("cpu", threads=None) is None


def test_packages_are_measured_as_they_were_exported_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "available_cores", lambda: 4)
    chosen = BrowserChoice(provider="webgpu", threads=2, runs=(), not_tried={})
    assert as_chosen("web", chosen) == ("web:backend=webgpu", 2)
    assert as_chosen("web", chosen.model_copy(update={"threads": 16})) == ("web:backend=webgpu", 4)
    assert as_chosen("web:threads=1", chosen) == ("web:threads=1,backend=webgpu", None)
    assert as_chosen("web:backend=wasm", chosen) == ("web:backend=wasm", 2)


FAKE_NPM = """#!/bin/sh
echo "$@" >> "$LOG"
{}
while [ "$1" != --prefix ]; do shift; done
mkdir -p "$2/node_modules/onnxruntime-web/dist"
touch "$2/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs"
"""


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts an npm of one's own on PATH, which notes its arguments in the file returned."""

    def write(does: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "npm").write_text(FAKE_NPM.format(does))
        (folder / "npm").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        monkeypatch.setenv("HOMOEXPORT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("LOG", str(tmp_path / "log"))
        return tmp_path / "log"

    return write


def test_runtime_is_installed_once_and_no_script_is_run(npm: Callable[[str], Path]) -> None:
    log, told = npm(""), list[str]()
    folder = set_up_web(told.append)
    assert folder == runtime_folder()
    assert set_up_web(told.append) == folder
    (arguments,) = log.read_text().splitlines()
    assert "--ignore-scripts" in arguments
    assert arguments.endswith(f"onnxruntime-web@{RUNTIME_VERSION}")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert len(told) == 2
    assert "onnxruntime-web" not in "".join(need.what for need in WebTarget().needs())


@pytest.mark.parametrize("does", ["echo 'npm error 404 Not Found' >&2; exit 1", "exit 0"], ids=["failing", "idle"])
def test_failing_npm_is_told_in_one_line_and_leaves_nothing(npm: Callable[[str], Path], does: str) -> None:
    npm(does)
    with pytest.raises(DeviceError, match="web: npm cannot install onnxruntime-web") as raised:
        set_up_web(lambda _: None)
    assert "\n" not in str(raised.value)
    assert ("404 Not Found" in str(raised.value)) == ("404" in does)
    assert list(runtime_folder().parent.iterdir()) == []


def test_missing_npm_is_told_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMOEXPORT_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError) as raised:
        set_up_web(lambda _: None)
    assert str(raised.value) == "web: npm is missing; apt-get install npm"


def status_of(url: str, path: str, method: str = "GET") -> int:
    connection = http.client.HTTPConnection(str(urlsplit(url).netloc), timeout=10)
    connection.request(method, path, body="null" if method == "POST" else None)
    status = connection.getresponse().status
    connection.close()
    return status


def test_only_the_present_pages_files_are_served(tmp_path: Path) -> None:
    for name in ("page.html", "model.onnx", "secret.txt"):
        (tmp_path / name).write_text(name)
    site = Site({"page.html": tmp_path / "page.html"}, isolated=True, on_reply=lambda _: None)
    old = urlsplit(site.open_page("127.0.0.1", {})).path
    assert status_of(f"http://127.0.0.1:{site.port}", old) == 200
    url = site.open_page("127.0.0.1", {"model/model.onnx": tmp_path / "model.onnx"})
    page = urlsplit(url).path.removesuffix("page.html")
    _, secret, number, _ = page.split("/")
    served = {
        f"{page}page.html": 200,
        f"{page}model/model.onnx": 200,
        f"{page}model/secret.txt": 404,
        f"{page}model/../secret.txt": 404,
        f"{page}model/%2e%2e/secret.txt": 404,
        f"{page}{tmp_path}/secret.txt": 404,
        f"{page}/etc/hostname": 404,
        f"{page}model/": 404,
        old: 404,
        f"/{'x' * len(secret)}/{number}/page.html": 404,
        f"/{secret}/page.html": 404,
        f"/{secret}%C3%A9/{number}/page.html": 404,
        "/page.html": 404,
        "/": 404,
    }
    assert {path: status_of(url, path) for path in served} == served
    assert status_of(url, f"/{'x' * len(secret)}/{number}/next", "POST") == 404
    assert site.fetched_bytes() == len("page.html") + len("model.onnx")


def test_token_ids_are_those_of_every_other_target(tmp_path: Path) -> None:
    file = write_encoder(tmp_path / "model.onnx", "sentence-similarity", weights())
    model = OnnxModel(LoadRequest(str(file), threads=1))
    numbers = count(5)
    rows = tuple(tuple(next(numbers) % 64 for _ in range(length)) for length in (3, 5, 1, 4, 2))
    for request in (InputsRequest(3, 7, 64), InputsRequest(2, rows=rows, pad_token_id=9)):
        model.use(make_batches(request))
        for feeds, given in zip(model.batches, page_inputs(request), strict=True):
            assert feeds.keys() == {"input_ids", "attention_mask"}
            assert {name: values.tolist() for name, values in feeds.items()} == {name: given[name] for name in feeds}


def test_graph_that_starts_the_runtime_is_one_identity() -> None:
    match = re.search(r'IDENTITY = "([^"]+)"', WORKER_JS.read_text())
    assert match is not None
    model = onnx.load_from_string(base64.b64decode(match[1]))
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Identity"]


FAKE_BROWSER = """#!/bin/sh
tr '\\0' ' ' < /proc/$PPID/cmdline > "$LOG"
echo "$@" >> "$LOG"
for last; do :; done
cat "${last#file://}" >> "$LOG"
sleep 60
"""


def test_the_pages_secret_is_in_nobodys_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, fake = tmp_path / "log", tmp_path / "browser"
    fake.write_text(FAKE_BROWSER)
    fake.chmod(0o755)
    monkeypatch.setenv("LOG", str(log))
    lifeline = os.pipe()
    settings = BridgeSettings(str(WORKER_JS.parent), "", str(fake), "wasm", isolated=True, lifeline=lifeline[1])
    browser = Browser(settings, "http://127.0.0.1:1/SECRET/1/page.html?a=1&b=2", on_end=lambda _: None)
    try:
        assert until(lambda: log.exists() and "SECRET" in log.read_text())
        arguments, page = log.read_text().split("<script>")
        assert "keeper.py" in arguments
        assert "SECRET" not in arguments
        assert page.startswith('location.replace("http://127.0.0.1:1/SECRET/1/page.html?a=1&b=2")')
        found = re.search(r"--user-data-dir=(\S+)", arguments)
        assert found is not None
        assert stat.S_IMODE(Path(found[1]).stat().st_mode) == 0o700
    finally:
        browser.close()
        for end in lifeline:
            os.close(end)
    assert not Path(found[1]).exists()
