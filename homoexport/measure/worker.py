"""The measuring worker: loads one ONNX file in a clean process and times it.

Run as a script (`python -I worker.py`), it reads one JSON object a line from stdin and answers
with one a line on stdout; its first line is a greeting. It imports the standard library, numpy and
onnxruntime and nothing else, so that its memory figure is the deployment's, and it does not need
homoexport to be installed.

    {"command": "load", "model", "outputs", "threads", "batch_size", "length", "vocab_size"}
    {"command": "warm", "seconds"}      one first inference, then runs until the latency is steady
    {"command": "time", "runs"}         one untimed run, then `runs` timed ones
    {"command": "memory"}               the kernel's high-water mark of this process
    {"command": "modules"}              what this process has imported
    {"command": "cpu"}                  processor time that this process has used
    {"command": "quit"}

An answer holds `"ok": true` and its figures, or `"ok": false` and `"error"`. Where stdin ends, as
it does when the parent dies, so does the worker.
"""

from __future__ import annotations

import os

# numpy's matrix library would start a thread for each core, whose stacks are no part of the model.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import gc
import json
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

_DTYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_WARM_WINDOW_NS = 100_000_000
_REST_SECONDS = 0.01
_REST_TRIES = 100
_STEADY = 0.98  # a window whose median is below this share of the best one so far still gets faster


def peak_rss_bytes() -> int:
    """The most resident memory that this process has ever had.

    Linux says so in VmHWM, which starts anew with the program; `ru_maxrss` is what a parent's
    memory shows up in, so it serves only where there is no /proc.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


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


class Subject:
    """One loaded model with the inputs that it is timed on."""

    def __init__(self, request: dict[str, Any]) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = request["threads"]
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        start = time.perf_counter_ns()
        self.session = ort.InferenceSession(
            request["model"],
            options,
            providers=["CPUExecutionProvider"],
        )
        self.load_ns = time.perf_counter_ns() - start
        self.outputs = request.get("outputs")
        self.feeds = self._inputs(request["batch_size"], request["length"], request["vocab_size"])

    def _inputs(self, batch_size: int, length: int, vocab_size: int) -> dict[str, Any]:
        """The same token ids for every model of one vocabulary; full attention, so no padding is skipped."""
        shape = (batch_size, length)
        values = {
            "input_ids": np.random.default_rng(0).integers(0, vocab_size, shape),
            "attention_mask": np.ones(shape),
            "token_type_ids": np.zeros(shape),
        }
        feeds = {}
        for node in self.session.get_inputs():
            if node.name not in values or node.type not in _DTYPES:
                raise ValueError(
                    f"input '{node.name}' of type {node.type} is not one of {', '.join(values)} in integers"
                )
            feeds[node.name] = values[node.name].astype(_DTYPES[node.type])
        return feeds

    def run_ns(self) -> int:
        """Nanoseconds of one inference; the answer is freed outside of them."""
        session, outputs, feeds = self.session, self.outputs, self.feeds
        start = time.perf_counter_ns()
        answer = session.run(outputs, feeds)
        elapsed = time.perf_counter_ns() - start
        del answer
        return elapsed

    def warm(self, seconds: float) -> dict[str, Any]:
        """Run until two windows in a row bring no median below 98 % of the best one so far.

        A window is 100 ms of runs, or one run that takes longer; `seconds` is the end in any case.
        """
        first_ns = self.run_ns()
        best, calm, runs, spent = float("inf"), 0, 1, 0
        while True:
            window: list[int] = []
            while sum(window) < _WARM_WINDOW_NS:
                window.append(self.run_ns())
            median = float(np.median(window))
            calm = 0 if median < _STEADY * best else calm + 1
            best = min(best, median)
            runs += len(window)
            spent += sum(window)
            if calm == 2 or spent >= seconds * 1e9:
                return {"first_inference_ns": first_ns, "runs": runs, "steady": calm == 2, "median_ns": median}

    def time(self, runs: int) -> dict[str, Any]:
        """Time `runs` inferences after one that brings the weights back into the caches."""
        self.run_ns()
        return {"samples_ns": [self.run_ns() for _ in range(runs)]}


def answer(request: dict[str, Any], subject: Subject | None) -> tuple[dict[str, Any], Subject | None]:
    """The answer to one request, and the model that is loaded after it."""
    command = request["command"]
    if command == "load":
        subject = Subject(request)
        return {"load_ns": subject.load_ns}, subject
    if command == "memory":
        return {"peak_rss_bytes": peak_rss_bytes()}, subject
    if command == "modules":
        return {"modules": sorted(sys.modules)}, subject
    if command == "cpu":
        return {"cpu_ns": time.process_time_ns()}, subject
    if subject is None:
        raise ValueError(f"'{command}' before 'load', or no command at all")
    if command == "warm":
        return subject.warm(request["seconds"]), subject
    if command == "time":
        return subject.time(request["runs"]), subject
    raise ValueError(f"unknown command '{command}'")


def main() -> None:
    """Greet, then answer requests until `quit` or the end of stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to stderr, never between the protocol's lines
    gc.disable()  # no collection may fall into a timed region

    def send(reply: dict[str, Any]) -> None:
        protocol.write(json.dumps(reply) + "\n")
        protocol.flush()

    versions = {"python": platform.python_version(), "numpy": np.__version__, "onnxruntime": ort.__version__}
    send({"ok": True, "versions": versions, "runtime_rss_bytes": peak_rss_bytes()})
    subject: Subject | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["command"] == "quit":
            return
        try:
            reply, subject = answer(request, subject)
            rest()
            send({"ok": True, **reply})
        except BrokenPipeError:
            return
        except Exception as error:  # whatever it is, the parent must hear of it
            send({"ok": False, "error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
