"""The bridge's loop: the worker's protocol on one side, a page in a browser on the other.

What the page can do is its own (`worker.js`); the token ids come from numpy, so that they are the ones that
every other target takes, and memory and processor time come from the kernel.

Commands beyond what a page can do are refused with the kind `unsupported`: `streams` and `arrivals` (a page
has one queue), while `tokenize` and `post` have no samples. `load` adds `download_bytes` and `runtime_bytes` to its
answer, and the first `warm` after it `time_to_first_result_ms`.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from homoexport.host import MeasuredHost, describe_host
from homoexport.runtime.worker import protocol
from homoexport.runtime.worker.inputs import make_batches
from homoexport.runtime.worker.machine import counters, rest, threads_run
from homoexport.stages.measure.web import DEVICE_STATUS, MEMORY_SIGNS, BridgeSettings
from homoexport.stages.measure.web.browser import Browser, peak_bytes, resident_bytes, watch
from homoexport.stages.measure.web.site import JsonObject, Site

_CRASHED = "the page crashed, most likely for want of memory"
_START_SECONDS = 60.0
_RUNTIME = "ort/"  # where the page finds onnxruntime-web, as `worker.js` has it
_STEADY = 0.98  # as in `homoexport.runtime.worker.model`
_HOSTS = ("localhost", "127.0.0.1")  # two names of one machine are two sites, so the next page gets a fresh process


class Unusable(Exception):
    """The browser cannot be used, or no more."""


class Refused(Exception):
    """A command that was not carried out: with the reply that says so."""

    def __init__(self, kind: protocol.RefusalKind, error: str) -> None:
        super().__init__(error)
        self.reply = protocol.Refusal(kind, " ".join(error.split()))


class Bridge:
    """A browser with one page, and the answers to requests.

    The parent's requests are read in a thread, so that its end is noticed in the midst of a command. Whatever waits
    raises `Unusable` where the browser has ended, and EOFError where the parent has.
    """

    def __init__(self, lines: Iterable[str], settings: BridgeSettings) -> None:
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(lines,), daemon=True).start()
        self._backend = settings.backend
        self._hosts = cycle(_HOSTS)
        self._renderer: int | None = None
        self._model = False
        self._spent_ns: int | None = None  # from the page's start to the loaded model
        folder, runtime = Path(settings.folder), Path(settings.runtime)
        files = {name: folder / name for name in ("page.html", "worker.js")}
        files |= {f"{_RUNTIME}{path.name}": path for path in runtime.iterdir() if path.suffix in (".mjs", ".wasm")}
        self._site = Site(files, isolated=settings.isolated, on_reply=lambda reply: self._put("reply", reply))
        url = self._site.open_page(next(self._hosts), {}, backend=self._backend, threads=1)
        self._browser = Browser(settings, url, on_end=lambda said: self._put("gone", said))
        ready = self._await_page()
        self.greeting = protocol.Greeting(
            protocol.PROTOCOL_VERSION,
            runtime_rss_bytes=self.do_memory().peak_rss_bytes,
            versions={"onnxruntime-web": ready["runtime"], "chromium": ready["browser"]},
            providers=[self._backend],
            host=MeasuredHost(
                **vars(describe_host()),
                cross_origin_isolated=ready["isolated"],
                clock_step_us=ready["clock_step_ns"] / 1000,
                gpu=ready["gpu"],
            ),
            cores=[],
        )

    def next_request(self) -> JsonObject:
        return self._await("request")

    def answer(self, command: str, **fields: Any) -> object:
        """The reply to one request; raises `Refused` where it cannot be carried out."""
        handler: Callable[..., object] | None = getattr(self, f"do_{command}", None)
        if handler is None:
            raise Refused("unsupported", f"'{command}' cannot be measured in a browser")
        return handler(**fields)

    def rest(self) -> None:
        """Sleep until the page's process does."""
        rest(lambda: self._renderer is not None and threads_run(self._renderer))

    def close(self) -> None:
        self._browser.close()

    def do_load(self, **fields: Any) -> protocol.LoadReply:
        request = protocol.LoadRequest(**fields)
        path = Path(request.model)
        if not path.is_file():
            raise Refused("model", f"{path} is not there")
        beside = {file.name: file for file in path.parent.iterdir() if file.name.startswith(path.name) and file != path}
        files = {f"model/{name}": file for name, file in {path.name: path, **beside}.items()}
        if self._renderer is None:
            raise Refused("memory", _CRASHED)
        old, self._renderer = self._renderer, None  # its end is no crash
        self._site.replace_page(next(self._hosts), files, backend=self._backend, threads=request.threads)
        ready = self._await_page(but=old)
        self._model = False
        loaded = self._ask("load", model=path.name, beside=sorted(beside), outputs=request.outputs)
        self._model = True
        self._spent_ns = ready["ready_ns"] + loaded["load_ns"]
        return protocol.LoadReply(
            loaded["load_ns"],
            [self._backend],
            download_bytes=self._site.fetched_bytes(),
            runtime_bytes=self._site.fetched_bytes(_RUNTIME),
        )

    def do_inputs(self, **fields: Any) -> protocol.InputsReply:
        return protocol.InputsReply(**self._ask_model("inputs", batches=page_inputs(protocol.InputsRequest(**fields))))

    def do_warm(self, seconds: float) -> protocol.WarmReply:
        """The page's rule, until a rest in between does not make it faster.

        The browser compiles what runs often anew, in the background; while that goes on, all runs are alike slow.
        """
        end = time.monotonic() + seconds
        warm_up = protocol.WarmReply(**self._ask_model("warm", seconds=seconds))
        if self._spent_ns is not None:
            first_result_ms = (self._spent_ns + warm_up.first_inference_ns) / 1e6
            warm_up = replace(warm_up, time_to_first_result_ms=first_result_ms)
            self._spent_ns = None
        best_ns = warm_up.median_ns
        while (left := end - time.monotonic()) > 0:
            self.rest()
            again = protocol.WarmReply(**self._ask_model("warm", seconds=left))
            runs = warm_up.runs + again.runs
            warm_up = replace(warm_up, runs=runs, steady=again.steady, median_ns=again.median_ns)
            if again.median_ns >= _STEADY * best_ns:
                return warm_up
            best_ns = again.median_ns
        return replace(warm_up, steady=False)

    def do_time(self, runs: int) -> protocol.TimeReply:
        return protocol.TimeReply(**self._ask_model("time", runs=runs), energy_uj=None, energy_runs=0)

    def do_answer(self, output: str) -> protocol.AnswerReply:
        return protocol.AnswerReply(**self._ask_model("answer", output=output))

    def do_memory(self) -> protocol.MemoryReply:
        processes = [self._renderer] if self._renderer is not None else []
        if self._backend == "webgpu":
            processes += self._browser.processes("gpu-process")
        return protocol.MemoryReply(sum(map(peak_bytes, processes)), sum(map(resident_bytes, processes)))

    def do_once(self, shrink: bool) -> protocol.MemoryReply:
        self._ask_model("run_once")
        memory = self.do_memory()
        return replace(memory, rss_bytes=None) if shrink else memory  # WebAssembly's memory never shrinks

    def do_tokenize(self, **_fields: Any) -> protocol.SamplesReply:
        return protocol.SamplesReply(None)

    def do_post(self, **_fields: Any) -> protocol.SamplesReply:
        return protocol.SamplesReply(None)

    def do_spin(self, seconds: float) -> protocol.SpinReply:
        return protocol.SpinReply(**self._ask("spin", seconds=seconds))

    def do_counters(self) -> protocol.CountersReply:
        return counters(others_cpu_ns=self._browser.cpu_ns())

    def _ask_model(self, command: str, **request: Any) -> JsonObject:
        if not self._model:
            raise Refused("model", "no model is loaded")
        return self._ask(command, **request)

    def _ask(self, command: str, **request: Any) -> JsonObject:
        """Have the page do something, and sleep until it has."""
        if self._renderer is None:
            raise Refused("memory", _CRASHED)
        self._site.command(command, **request)
        reply = self._await("reply")
        if not reply.pop("ok"):
            error = reply["error"]
            raise Refused("memory" if any(sign in error for sign in MEMORY_SIGNS) else "model", error)
        return reply

    def _await_page(self, but: int | None = None) -> JsonObject:
        """What a fresh page says when its runtime has started; its process is found and watched."""
        ready = self._await("reply", _START_SECONDS)
        if not ready["ok"]:
            raise Unusable(ready["error"])
        self._renderer = self._browser.largest_renderer(but)
        if self._renderer is None:
            raise Unusable("the browser's processes cannot be found in /proc")
        watch(self._renderer, lambda process: self._put("crashed", process))
        return ready

    def _await(self, wanted: str, seconds: float | None = None) -> JsonObject:
        """The next `request` of the parent or `reply` of the page; what happens meanwhile is taken in."""
        while True:
            try:
                kind, value = self._events.get(timeout=seconds)
            except queue.Empty:
                raise Unusable(f"the browser showed no page within {seconds:g} s") from None
            if kind == wanted:
                found: JsonObject = value
                return found
            if kind == "end":
                raise EOFError
            if kind == "gone":
                raise Unusable(f"the browser ended: {value}")
            if kind == "crashed" and value == self._renderer:
                self._renderer = None
                if wanted == "reply":
                    raise Refused("memory", _CRASHED)

    def _listen(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._put("request", json.loads(line))
        self._put("end", None)

    def _put(self, kind: str, value: Any) -> None:
        self._events.put((kind, value))


def page_inputs(request: protocol.InputsRequest) -> list[dict[str, list[list[int]]]]:
    """What inferences are of, as the page takes it: batches by the names of inputs, each [B, S]."""
    return [{name: values.tolist() for name, values in batch.items()} for batch in make_batches(request)]


def main() -> None:
    """Greet, then answer requests until `quit` or the end of stdin. The argument is the settings as JSON."""
    channel = protocol.ReplyChannel()
    bridge = None
    try:
        bridge = Bridge(sys.stdin, BridgeSettings(**json.loads(sys.argv[1])))
        channel.send(bridge.greeting)
        while (request := bridge.next_request())["command"] != "quit":
            try:
                reply = bridge.answer(request.pop("command"), **request)
                bridge.rest()
                channel.send(reply)
            except Refused as refused:
                channel.send(refused.reply)
    except Unusable as error:
        print(error, file=sys.stderr)
        sys.exit(DEVICE_STATUS)
    except (BrokenPipeError, EOFError):
        return
    finally:
        if bridge is not None:
            bridge.close()
