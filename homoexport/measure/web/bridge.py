"""The bridge's loop: the worker's protocol (`homoexport.runtime.worker`) on one side, a page in a browser on the other.

What the page can do is its own (`worker.js`); the token ids come from numpy, so that they are the ones that
every other target takes, and memory and processor time come from the kernel.

Commands beyond what a page can do are refused with the kind `unsupported`: `streams` and `arrivals` (a page
has one queue), while `tokenize` and `post` have no samples. `load` adds `download_bytes` to its answer, and
the first `warm` after it `time_to_first_result_ms`.

N texts, B batch, S sequence.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from homoexport.host import describe_host
from homoexport.measure.web import DEVICE_STATUS, MEMORY_SIGNS
from homoexport.measure.web.browser import Browser, peak_bytes, resident_bytes, rest, watch
from homoexport.measure.web.site import Site
from homoexport.runtime.worker import PROTOCOL_VERSION
from homoexport.runtime.worker.machine import counters

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

_CRASHED = "the page crashed, most likely for want of memory"
_START_SECONDS = 60.0
_STEADY = 0.98  # as in `homoexport.runtime.worker.model`
# Two names of one machine are two sites, so the page with the model gets a process of its own.
_BARE_HOST, _MODEL_HOST = "localhost", "127.0.0.1"
Batch = dict[str, list[list[int]]]


class Unusable(Exception):
    """The browser cannot be used, or no more."""


class Refused(Exception):
    """A command that was not carried out. `kind` as in the protocol."""

    def __init__(self, kind: str, error: str) -> None:
        super().__init__(error)
        self.kind = kind


class Bridge:
    """A browser with one page, and the answers to requests.

    Args:
        lines: the parent's requests, read in a thread, so that its end is noticed in the midst of a command.
        settings: `folder` with this room's files, `runtime` with onnxruntime-web's, `browser`, `backend`,
            `isolated`, and the descriptor `lifeline`.

    Raises:
        Unusable: the browser does not start, or cannot run the runtime.
    """

    def __init__(self, lines: Iterable[str], settings: dict[str, Any]) -> None:
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(lines,), daemon=True).start()
        self._backend = settings["backend"]
        self._renderer: int | None = None
        self._model = False
        self._spent_ns: int | None = None  # from the page's start to the loaded model
        folder, runtime = Path(settings["folder"]), Path(settings["runtime"])
        files = {name: folder / name for name in ("page.html", "worker.js")}
        files |= {f"ort/{path.name}": path for path in runtime.iterdir() if path.suffix in (".mjs", ".wasm")}
        self._site = Site(files, isolated=settings["isolated"], on_reply=lambda reply: self._tell("reply", reply))
        self._browser = Browser(
            folder / "keeper.py",
            settings["browser"],
            self._site.open_page(_BARE_HOST, {}, backend=self._backend, threads=1),
            backend=self._backend,
            lifeline=settings["lifeline"],
            on_end=lambda said: self._tell("gone", said),
        )
        ready = self._await_page()
        self.greeting = {
            "protocol_version": PROTOCOL_VERSION,
            "versions": {"onnxruntime-web": ready["runtime"], "chromium": ready["browser"]},
            "runtime_rss_bytes": self._memory()["peak_rss_bytes"],
            "providers": [self._backend],
            "host": {
                **describe_host(),
                "cross_origin_isolated": ready["isolated"],
                "clock_step_us": ready["clock_step_ns"] / 1000,
                **({"gpu": ready["gpu"]} if ready["gpu"] else {}),
            },
        }

    def next_request(self) -> dict[str, Any] | None:
        """What the parent asks next; None where it does not any more.

        Raises:
            Unusable: the browser has ended.
        """
        while True:
            kind, value = self._events.get()
            if kind == "request":
                request: dict[str, Any] = value
                return request
            if kind == "end":
                return None
            self._note(kind, value)

    def answer(self, command: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            Refused: it cannot be carried out.
            Unusable: the browser has ended.
            EOFError: the parent has.
        """
        handler = getattr(self, f"_{command}", None) if command in _COMMANDS else None
        if handler is None:
            raise Refused("unsupported", f"'{command}' cannot be measured in a browser")
        reply: dict[str, Any] = handler(**request)
        return reply

    def rest(self) -> None:
        """Sleep until the page's process does."""
        rest([process for process in (self._renderer,) if process is not None])

    def close(self) -> None:
        """End the browser, and wait until its profile is gone."""
        self._browser.close()

    def _load(
        self, model: str, threads: int, outputs: list[str] | None = None, **_providers: list[str]
    ) -> dict[str, Any]:
        path = Path(model)
        if not path.is_file():
            raise Refused("model", f"{model} is not there")
        beside = {file.name: file for file in path.parent.iterdir() if file.name.startswith(path.name) and file != path}
        files = {f"model/{name}": file for name, file in {path.name: path, **beside}.items()}
        if self._renderer is None:
            raise Refused("memory", _CRASHED)
        old, self._renderer = self._renderer, None  # its end is no crash
        self._site.replace_page(_MODEL_HOST, files, backend=self._backend, threads=threads)
        ready = self._await_page(but=old)
        self._model = False
        loaded = self._ask("load", model=path.name, beside=sorted(beside), outputs=outputs)
        self._model = True
        self._spent_ns = ready["ready_ns"] + loaded["load_ns"]
        return {**loaded, "providers": [self._backend], "download_bytes": self._site.fetched_bytes()}

    def _inputs(
        self,
        batch_size: int,
        length: int = 0,
        vocab_size: int = 0,
        rows: list[list[int]] | None = None,
        pad_token_id: int = 0,
    ) -> dict[str, Any]:
        if rows is None:
            batches = [random_batch(batch_size, length, vocab_size)]
        else:
            batches = padded_batches(rows, batch_size, pad_token_id)
        return self._ask_model("inputs", batches=batches)

    def _warm(self, seconds: float) -> dict[str, Any]:
        """The page's rule, until a rest in between does not make it faster.

        The browser compiles what runs often anew, in the background; while that goes on, all runs are alike slow.
        """
        end = time.monotonic() + seconds
        warm_up = self._ask_model("warm", seconds=seconds)
        if self._spent_ns is not None:
            warm_up["time_to_first_result_ms"] = (self._spent_ns + warm_up["first_inference_ns"]) / 1e6
            self._spent_ns = None
        best_ns = warm_up["median_ns"]
        while (left := end - time.monotonic()) > 0:
            self.rest()
            again = self._ask_model("warm", seconds=left)
            warm_up["runs"] += again["runs"]
            warm_up |= {name: again[name] for name in ("steady", "median_ns")}
            if again["median_ns"] >= _STEADY * best_ns:
                return warm_up
            best_ns = again["median_ns"]
        return warm_up | {"steady": False}

    def _time(self, runs: int) -> dict[str, Any]:
        return {**self._ask_model("time", runs=runs), "energy_uj": None, "energy_runs": 0}

    def _answer(self, output: str) -> dict[str, Any]:
        return self._ask_model("answer", output=output)

    def _memory(self) -> dict[str, Any]:
        processes = [self._renderer] if self._renderer is not None else []
        if self._backend == "webgpu":
            processes += self._browser.processes("gpu-process")
        return {
            "peak_rss_bytes": sum(map(peak_bytes, processes)),
            "rss_bytes": sum(map(resident_bytes, processes)),
        }

    def _grow(self, batch_sizes: list[int], length: int, vocab_size: int, shrink: bool) -> dict[str, Any]:
        after = []
        for batch_size in batch_sizes:
            self._ask_model("inputs", batches=[random_batch(batch_size, length, vocab_size)])
            self._ask_model("run_once")
            after.append(None if shrink else self._memory()["rss_bytes"])  # WebAssembly's memory never shrinks
        return {"rss_bytes": after}

    def _tokenize(self, **_request: Any) -> dict[str, Any]:
        return {"samples_ns": None}

    def _post(self, **_request: Any) -> dict[str, Any]:
        return {"samples_ns": None}

    def _spin(self, seconds: float) -> dict[str, Any]:
        return self._ask("spin", seconds=seconds)

    def _counters(self) -> dict[str, Any]:
        own = counters()
        return {**own, "own_cpu_ns": own["own_cpu_ns"] + self._browser.cpu_ns(), "energy_source": None}

    def _modules(self) -> dict[str, Any]:
        return {"modules": sorted(sys.modules)}

    def _ask_model(self, command: str, **request: Any) -> dict[str, Any]:
        if not self._model:
            raise Refused("model", "no model is loaded")
        return self._ask(command, **request)

    def _ask(self, command: str, **request: Any) -> dict[str, Any]:
        """Have the page do something, and sleep until it has."""
        if self._renderer is None:
            raise Refused("memory", _CRASHED)
        self._site.command(command, **request)
        reply = self._await_reply(None)
        if not reply.pop("ok"):
            error = reply["error"]
            raise Refused("memory" if any(sign in error for sign in MEMORY_SIGNS) else "model", error)
        return reply

    def _await_page(self, but: int | None = None) -> dict[str, Any]:
        """What a fresh page says when its runtime has started; its process is found and watched."""
        ready = self._await_reply(_START_SECONDS)
        if not ready["ok"]:
            raise Unusable(ready["error"])
        self._renderer = self._browser.largest_renderer(but)
        if self._renderer is None:
            raise Unusable("the browser's processes cannot be found in /proc")
        watch(self._renderer, lambda process: self._tell("crashed", process))
        return ready

    def _await_reply(self, seconds: float | None) -> dict[str, Any]:
        while True:
            try:
                kind, value = self._events.get(timeout=seconds)
            except queue.Empty:
                raise Unusable(f"the browser showed no page within {seconds:g} s") from None
            if kind == "reply":
                reply: dict[str, Any] = value
                return reply
            if kind == "end":
                raise EOFError
            if self._note(kind, value):
                raise Refused("memory", _CRASHED)

    def _note(self, kind: str, value: Any) -> bool:
        """Take in an event between two commands, or within one; whether the page is gone with it."""
        if kind == "gone":
            raise Unusable(f"the browser ended: {value}")
        if kind == "crashed" and value == self._renderer:
            self._renderer = None
            return True
        return False

    def _listen(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._tell("request", json.loads(line))
        self._tell("end", None)

    def _tell(self, kind: str, value: Any) -> None:
        self._events.put((kind, value))


_COMMANDS = (
    "load",
    "inputs",
    "warm",
    "time",
    "answer",
    "memory",
    "grow",
    "tokenize",
    "post",
    "spin",
    "counters",
    "modules",
)


def random_batch(batch_size: int, length: int, vocab_size: int) -> Batch:
    """One batch of [B, S] token ids, the same for every model of one vocabulary and on every target."""
    return {"input_ids": np.random.default_rng(0).integers(0, vocab_size, (batch_size, length)).tolist()}


def padded_batches(rows: Sequence[Sequence[int]], batch_size: int, pad_token_id: int) -> list[Batch]:
    """Batches of real texts in their order, each right-padded to its own longest."""
    batches = []
    for start in range(0, len(rows) - batch_size + 1, batch_size):
        batch = rows[start : start + batch_size]
        width = max(map(len, batch))
        batches.append(
            {
                "input_ids": [[*row, *[pad_token_id] * (width - len(row))] for row in batch],
                "attention_mask": [[1] * len(row) + [0] * (width - len(row)) for row in batch],
            }
        )
    return batches


def main() -> None:
    """Greet, then answer requests until `quit` or the end of stdin; argument: the settings as JSON."""
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to stderr, never between the protocol's lines

    def send(reply: dict[str, Any]) -> None:
        protocol.write(json.dumps(reply) + "\n")
        protocol.flush()

    bridge = None
    try:
        bridge = Bridge(sys.stdin, json.loads(sys.argv[1]))
        send({"ok": True, **bridge.greeting})
        while (request := bridge.next_request()) is not None and request["command"] != "quit":
            try:
                reply = bridge.answer(request.pop("command"), request)
                bridge.rest()
                send({"ok": True, **reply})
            except Refused as refused:
                send({"ok": False, "kind": refused.kind, "error": " ".join(str(refused).split())})
    except Unusable as error:
        print(error, file=sys.stderr)
        sys.exit(DEVICE_STATUS)
    except (BrokenPipeError, EOFError):
        return
    finally:
        if bridge is not None:
            bridge.close()
