"""The worker's protocol: what it is asked, what it answers, and how both are written.

The worker reads one JSON object a line from stdin and answers with one a line on stdout; its first line is a
greeting. Times are nanoseconds, memory is bytes. A request is its `command` and the fields named below; what may be
left out has a default.

    load                                  opens an ONNX file
    inputs                                says what one inference is
    warm      seconds                     one first inference, then runs until the latency is steady
    time      runs, cores                 one untimed run, then `runs` timed ones, on those cores; energy, too
    unpin                                 on any core again
    answer    output                      what the first batch is answered with
    memory                                the kernel's high-water mark, and what is resident now
    once      shrink                      one untimed run, after which unused memory may be given back; its memory
    streams   streams, seconds            callers that share the session, each in a closed loop
    arrivals  rate_per_s, requests, seconds, seed            callers that come by chance (open loop)
    tokenize  tokenizer, texts, max_length, runs
    post      task, output, runs          what a caller does with the answer, timed
    spin      seconds, cores              a fixed piece of work, again and again: is the machine quiet?
    counters                              processor time used here and on the whole host, clock rate
    quit

An answer holds `"ok": true` and the fields of its reply, or `"ok": false` and those of `Refusal`. Where stdin ends, as
it does when the parent dies, so does the worker.

These are plain dataclasses, because the worker's process has no pydantic, and because pydantic, which checks them in
the parent's, takes the standard library's TypedDict only from Python 3.12 on.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Literal, TextIO

from homoexport.host import MeasuredHost

PROTOCOL_VERSION = 1

RefusalKind = Literal["memory", "model", "unsupported"]


@dataclass(frozen=True)
class LoadRequest:
    """The file; the outputs to ask for (by default all) and onnxruntime's providers (by default the CPU's)."""

    model: str
    threads: int
    outputs: tuple[str, ...] | None = None
    providers: tuple[str, ...] | None = None


@dataclass(frozen=True)
class InputsRequest:
    """Random token ids of `length` below `vocab_size`; or where `rows` are given, those, padded by batch.

    `types` are the rows' token types, as of two texts; all 0 where there are none.
    """

    batch_size: int
    length: int = 0
    vocab_size: int = 0
    rows: tuple[tuple[int, ...], ...] | None = None
    pad_token_id: int = 0
    types: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True)
class Greeting:
    """`runtime_rss_bytes` is the most memory so far, with no model; workers can be moved among the `cores`."""

    protocol_version: int
    runtime_rss_bytes: int
    versions: dict[str, str]
    providers: list[str]
    host: MeasuredHost
    cores: list[int]


@dataclass(frozen=True)
class Refusal:
    """Why a request was not carried out: memory that is short, the model, or a worker that cannot do that."""

    kind: RefusalKind
    error: str


@dataclass(frozen=True)
class LoadReply:
    """`elsewhere` counts the operators, by type, that another provider than the first runs; None where unknown.

    In a browser, `download_bytes` are of all that the page fetched, `runtime_bytes` of the runtime's files among that.
    """

    load_ns: int
    providers: list[str]
    elsewhere: dict[str, int] | None = None
    download_bytes: int | None = None
    runtime_bytes: int | None = None


@dataclass(frozen=True)
class InputsReply:
    """The number of different batches, which take turns."""

    batches: int


@dataclass(frozen=True)
class WarmReply:
    """The first inference; the runs after it, and whether the last of them were steady, with their median."""

    first_inference_ns: int
    runs: int
    steady: bool
    median_ns: float
    time_to_first_result_ms: float | None = None


@dataclass(frozen=True)
class TimeReply:
    """One sample for each timed run, in order; the energy of `energy_runs` runs, None where nothing counts it.

    `waited_ns` is how long its threads, all together, were ready to run meanwhile while others had the cores; None
    where nothing tells.
    """

    samples_ns: list[int]
    energy_uj: int | None
    energy_runs: int
    waited_ns: int | None = None


@dataclass(frozen=True)
class UnpinReply:
    """Nothing: it is done."""


@dataclass(frozen=True)
class AnswerReply:
    """An array's shape, and its values in base64 of little-endian float32."""

    shape: list[int]
    float32: str


@dataclass(frozen=True)
class MemoryReply:
    """`rss_bytes` is None where the kernel does not say."""

    peak_rss_bytes: int
    rss_bytes: int | None


@dataclass(frozen=True)
class StreamsReply:
    """All calls, and the time from the first start to the last end."""

    samples_ns: list[int]
    wall_ns: int


@dataclass(frozen=True)
class ArrivalsReply:
    """By request: the time from arrival to answer, and that of the inference alone; and the time of them all."""

    latency_ns: list[int]
    service_ns: list[int]
    wall_ns: int


@dataclass(frozen=True)
class SamplesReply:
    """None where there is nothing to do, or no library for it."""

    samples_ns: list[int] | None


@dataclass(frozen=True)
class SpinReply:
    """Times of the fixed piece of work."""

    quanta_ns: list[float]


@dataclass(frozen=True)
class CountersReply:
    """Processor time of the worker and of the whole host so far, what a hypervisor took, and the clock rate now.

    What the kernel does not say is None. `energy_source` is `rapl`, `hwmon`, or None.
    """

    time_ns: int
    own_cpu_ns: int
    host_busy_ns: int | None
    stolen_ns: int | None
    frequency_mhz: float | None
    energy_source: str | None = None


class ReplyChannel:
    """The worker's stdout, for replies alone: whatever a library prints goes to stderr, never between their lines."""

    def __init__(self) -> None:
        self._stream: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def send(self, reply: object) -> None:
        """Write a reply, or a refusal, as one line."""
        line = {"ok": not isinstance(reply, Refusal), **vars(reply)}
        self._stream.write(json.dumps(line, default=vars) + "\n")
        self._stream.flush()
