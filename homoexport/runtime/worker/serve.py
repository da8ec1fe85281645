"""The worker's loop: greet, then answer requests. See `homoexport.runtime.worker` for the protocol."""

from __future__ import annotations

import os

# numpy's matrix library would start a thread for each core, whose stacks are no part of the model.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# onnxruntime 1.32 keeps a database and starts a thread to upload what it is used for, unless told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import gc
import json
import platform
import signal
import sys
import time
from typing import Any

import numpy as np
import onnxruntime as ort

from homoexport.host import describe_host
from homoexport.runtime.worker import PROTOCOL_VERSION
from homoexport.runtime.worker.around import time_post_processing, time_tokenizing
from homoexport.runtime.worker.machine import (
    EnergyMeter,
    allowed_cores,
    counters,
    like_cores,
    peak_rss_bytes,
    pin,
    rss_bytes,
    spin,
)
from homoexport.runtime.worker.model import Model
from homoexport.runtime.worker.traffic import run_arrivals, run_streams

_REST_SECONDS = 0.01
_REST_TRIES = 100
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory", "std::length_error", "Cannot allocate")


def rest() -> None:
    """Sleep until the runtime's threads do too.

    They go on spinning for some 40 ms after a run, in the hope of the next one, which would be
    another worker's time. Spinning stays on all the same, because it is on where the model is used.
    """
    for _ in range(_REST_TRIES):
        before_ns = time.process_time_ns()
        time.sleep(_REST_SECONDS)
        if time.process_time_ns() - before_ns < _REST_SECONDS * 1e9 / 10:
            return


class Worker:
    """The model that is loaded, and the answers to requests."""

    def __init__(self) -> None:
        self._model: Model | None = None
        self._meter = EnergyMeter()
        self._allowed = allowed_cores()

    @property
    def model(self) -> Model:
        """The loaded model; a request for it before `load` is a mistake of the parent's."""
        if self._model is None:
            raise ValueError("no model is loaded")
        return self._model

    def runtime(self) -> dict[str, Any]:
        """The greeting's part on what runs models here."""
        return {
            "versions": {
                "python": platform.python_version(),
                "numpy": np.__version__,
                "onnxruntime": ort.__version__,
            },
            "providers": ort.get_available_providers(),
        }

    def answer(self, command: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        handler = getattr(self, f"_{command}", None)
        if handler is None:
            raise ValueError(f"unknown command '{command}'")
        reply: dict[str, Any] = handler(**request)
        return reply

    def _load(
        self, model: str, threads: int, outputs: list[str] | None = None, providers: list[str] | None = None
    ) -> dict[str, Any]:
        self._model = Model(model, threads=threads, outputs=outputs, providers=providers)
        return {
            "load_ns": self._model.load_ns,
            "providers": self._model.session.get_providers(),
            "elsewhere": self._model.elsewhere,
        }

    def _inputs(
        self,
        batch_size: int,
        length: int = 0,
        vocab_size: int = 0,
        rows: list[list[int]] | None = None,
        pad_token_id: int = 0,
    ) -> dict[str, Any]:
        if rows is None:
            self.model.use_random(batch_size, length, vocab_size)
        else:
            self.model.use_rows(rows, batch_size, pad_token_id)
        return {"batches": len(self.model.batches)}

    def _warm(self, seconds: float) -> dict[str, Any]:
        return self.model.warm(seconds)

    def _time(self, runs: int, cores: list[int] | None = None) -> dict[str, Any]:
        if cores:
            pin(cores)
        before = self._meter.read()
        samples_ns = self.model.time(runs)
        # The untimed run before them is in the energy, too.
        return {"samples_ns": samples_ns, "energy_uj": self._meter.since(before), "energy_runs": runs + 1}

    def _unpin(self) -> dict[str, Any]:
        if self._allowed:
            pin(self._allowed)
        return {}

    def _answer(self, output: str) -> dict[str, Any]:
        return self.model.answer(output)

    def _memory(self) -> dict[str, Any]:
        return {"peak_rss_bytes": peak_rss_bytes(), "rss_bytes": rss_bytes()}

    def _grow(self, batch_sizes: list[int], length: int, vocab_size: int, shrink: bool) -> dict[str, Any]:
        after = []
        for batch_size in batch_sizes:
            self.model.use_random(batch_size, length, vocab_size)
            self.model.run_once(shrink=shrink)
            after.append(rss_bytes())
        return {"rss_bytes": after}

    def _streams(self, streams: int, seconds: float) -> dict[str, Any]:
        return run_streams(self.model, streams, seconds)

    def _arrivals(self, rate_per_s: float, requests: int, seconds: float, seed: int) -> dict[str, Any]:
        return run_arrivals(self.model, rate_per_s, requests, seconds, seed)

    def _tokenize(self, tokenizer: str, texts: list[str], max_length: int, runs: int) -> dict[str, Any]:
        return {"samples_ns": time_tokenizing(tokenizer, texts, max_length, runs)}

    def _post(self, task: str, output: str, runs: int) -> dict[str, Any]:
        return {"samples_ns": time_post_processing(self.model, task, output, runs)}

    def _spin(self, seconds: float, cores: list[int] | None = None) -> dict[str, Any]:
        quanta_ns = spin(seconds, cores or ())
        if cores:
            self._unpin()
        return {"quanta_ns": quanta_ns}

    def _counters(self) -> dict[str, Any]:
        return counters() | {"energy_source": self._meter.source}

    def _modules(self) -> dict[str, Any]:
        return {"modules": sorted(sys.modules)}


def main(worker_type: type[Worker] = Worker) -> None:
    """Greet, then answer requests until `quit` or the end of stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to stderr, never between the protocol's lines
    gc.disable()  # no collection may fall into a timed region

    def send(reply: dict[str, Any]) -> None:
        protocol.write(json.dumps(reply) + "\n")
        protocol.flush()

    runtime_rss_bytes = peak_rss_bytes()
    worker = worker_type()
    send(
        {
            "ok": True,
            "protocol_version": PROTOCOL_VERSION,
            "runtime_rss_bytes": runtime_rss_bytes,
            **worker.runtime(),
            "cores": like_cores(),
            "host": describe_host(),
        }
    )
    for line in sys.stdin:
        request = json.loads(line)
        command = request.pop("command")
        if command == "quit":
            return
        try:
            reply = worker.answer(command, request)
            rest()
            send({"ok": True, **reply})
        except BrokenPipeError:
            return
        except Exception as error:  # whatever it is, the parent must hear of it
            told = f"{type(error).__name__}: {error}"
            lacking = isinstance(error, MemoryError) or any(sign in told for sign in _OUT_OF_MEMORY)
            send({"ok": False, "kind": "memory" if lacking else "model", "error": told})
