"""The worker's loop: greet, then answer requests. See `protocol` for what they are."""

from __future__ import annotations

import os

# numpy's matrix library would start a thread for each core, whose stacks are no part of the model.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import gc
import importlib
import json
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from homoexport.host import MeasuredHost, describe_host
from homoexport.runtime.worker import machine, protocol
from homoexport.runtime.worker.around import time_post_processing, time_tokenizing
from homoexport.runtime.worker.inputs import make_batches
from homoexport.runtime.worker.model import Model
from homoexport.runtime.worker.traffic import run_arrivals, run_streams

_OTHERS = ("openvino", "ctranslate2")  # runtimes than onnxruntime
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory", "std::length_error", "Cannot allocate")


class ModelServer:
    """The model that is loaded, and the answers to requests: one method for each command."""

    def __init__(self, runtime: str) -> None:
        self._runtime = importlib.import_module(f"homoexport.runtime.worker.by_{runtime}")
        self._model: Model | None = None
        self._meter = machine.EnergyMeter()
        self._allowed = machine.allowed_cores()

    @property
    def model(self) -> Model:
        """The loaded model; a request for it before `load` is a mistake of the parent's."""
        if self._model is None:
            raise ValueError("no model is loaded")
        return self._model

    def greeting(self, runtime_rss_bytes: int) -> protocol.Greeting:
        """What the worker says first."""
        versions = {"python": platform.python_version(), "numpy": np.__version__, **self._runtime.versions()}
        return protocol.Greeting(
            protocol.PROTOCOL_VERSION,
            runtime_rss_bytes,
            versions,
            providers=self._runtime.available_providers(),
            host=MeasuredHost(**vars(describe_host())),
            cores=machine.like_cores(),
        )

    def answer(self, command: str, **fields: Any) -> object:
        """The reply to one request."""
        handler: Callable[..., object] | None = getattr(self, f"do_{command}", None)
        if handler is None:
            raise ValueError(f"unknown command '{command}'")
        return handler(**fields)

    def do_load(self, **fields: Any) -> protocol.LoadReply:
        self._model = model = self.open_model(protocol.LoadRequest(**fields))
        return protocol.LoadReply(model.load_ns, model.providers(), model.elsewhere)

    def open_model(self, request: protocol.LoadRequest) -> Model:
        """The model that is asked for, in this worker's runtime."""
        model: Model = self._runtime.open_model(request)
        return model

    def do_inputs(self, **fields: Any) -> protocol.InputsReply:
        self.model.use(make_batches(protocol.InputsRequest(**fields)))
        return protocol.InputsReply(len(self.model.batches))

    def do_warm(self, seconds: float) -> protocol.WarmReply:
        return self.model.warm(seconds)

    def do_time(self, runs: int, cores: Sequence[int] = ()) -> protocol.TimeReply:
        if cores:
            machine.pin(cores)
        before, waited_ns = self._meter.read(), machine.waited_ns()
        samples_ns = self.model.time(runs)
        waited_ns = _since(waited_ns, machine.waited_ns())
        # The untimed run before them is in the energy and the waiting, too.
        energy_uj = self._meter.since(before)
        return protocol.TimeReply(samples_ns, energy_uj=energy_uj, energy_runs=runs + 1, waited_ns=waited_ns)

    def do_unpin(self) -> protocol.UnpinReply:
        if self._allowed:
            machine.pin(self._allowed)
        return protocol.UnpinReply()

    def do_answer(self, output: str) -> protocol.AnswerReply:
        return self.model.answer(output)

    def do_memory(self) -> protocol.MemoryReply:
        return protocol.MemoryReply(machine.peak_rss_bytes(), machine.rss_bytes())

    def do_once(self, shrink: bool) -> protocol.MemoryReply:
        self.model.run_once(shrink=shrink)
        return self.do_memory()

    def do_streams(self, streams: int, seconds: float) -> protocol.StreamsReply:
        return run_streams(self.model, streams, seconds)

    def do_arrivals(self, rate_per_s: float, requests: int, seconds: float, seed: int) -> protocol.ArrivalsReply:
        return run_arrivals(self.model, rate_per_s, requests, seconds, seed)

    def do_tokenize(self, tokenizer: str, texts: Sequence[str], max_length: int, runs: int) -> protocol.SamplesReply:
        return protocol.SamplesReply(time_tokenizing(tokenizer, texts, max_length, runs))

    def do_post(self, task: str, output: str, runs: int) -> protocol.SamplesReply:
        return protocol.SamplesReply(time_post_processing(self.model, task, output, runs))

    def do_spin(self, seconds: float, cores: Sequence[int] = ()) -> protocol.SpinReply:
        quanta_ns = machine.spin(seconds, cores)
        if cores:
            self.do_unpin()
        return protocol.SpinReply(list(quanta_ns))

    def do_counters(self) -> protocol.CountersReply:
        return machine.counters(energy_source=self._meter.source)


def _since(before: int | None, after: int | None) -> int | None:
    """How much more it is than before; threads that ended meanwhile have taken their part with them."""
    return None if before is None or after is None else max(0, after - before)


def main(kind: type[ModelServer] = ModelServer) -> None:
    """Greet, then answer requests until `quit` or the end of stdin; an argument can name another runtime."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    channel = protocol.ReplyChannel()
    gc.disable()  # no collection may fall into a timed region
    server = kind(next((name for name in _OTHERS if name in sys.argv[1:]), "onnxruntime"))
    channel.send(server.greeting(machine.peak_rss_bytes()))
    for line in sys.stdin:
        fields = json.loads(line)
        command = fields.pop("command")
        if command == "quit":
            return
        try:
            reply = server.answer(command, **fields)
            machine.rest()
            channel.send(reply)
        except BrokenPipeError:
            return
        except Exception as error:  # whatever it is, the parent must hear of it
            said = f"{type(error).__name__}: {error}"
            short = isinstance(error, MemoryError) or any(sign in said for sign in _OUT_OF_MEMORY)
            channel.send(protocol.Refusal("memory" if short else "model", said))
