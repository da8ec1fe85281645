"""What measuring says, as plain figures: the classes that `schema.py` publishes as a JSON schema.

Latency is of one call, in milliseconds; memory is in MB of 10**6 bytes; intervals are 95 %, of ratios 99 %.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from homoexport.choices import SpeedVerdict, Steadiness
from homoexport.documents.budget import Verdict
from homoexport.measure.noise import Noise
from homoexport.measure.timing import Failure

SCHEMA_VERSION = "2.2"

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class Agreement:
    """A package's answer on the target, held against its answer on this machine's CPU.

    Differences are over one batch of random token ids; `max_relative_difference` is over the largest
    absolute value here, cosines are of the rows of the last axis; all None where an answer has another shape or
    holds what is no number. `bound` is what `within` was judged by.
    """

    output: str
    max_difference: float | None
    max_relative_difference: float | None
    min_cosine: float | None
    bound: str
    within: bool


@dataclass(frozen=True)
class ArenaStep:
    """Memory of a fresh worker after a batch of that size.

    `rss_mb` is as onnxruntime does by default (its arena keeps what it has), `shrunk_rss_mb` where each
    run gives its unused memory back (`memory.enable_memory_arena_shrinkage`).
    """

    batch_size: int
    rss_mb: float | None
    shrunk_rss_mb: float | None


@dataclass(frozen=True)
class StreamFigures:
    """So many callers that share one session, each asking again as soon as it is answered."""

    streams: int
    throughput_per_s: float
    latency_p50_ms: float
    latency_p95_ms: float


@dataclass(frozen=True)
class RateFigures:
    """Poisson arrivals at a rate, served in their order; latency counts from the arrival.

    `requests` were served; at a rate beyond what can be served these are the first ones, for ten seconds.
    """

    rate_per_s: float
    requests: int
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    utilization: float


@dataclass(frozen=True)
class OpenLoop:
    """The runs at each rate; the highest rate that kept the p95 within the budget, if any, at the median of three."""

    rates: tuple[RateFigures, ...]
    budget_p95_ms: float | None
    highest_rate_per_s: float | None


@dataclass(frozen=True)
class PackageFigures:
    """One package's figures.

    The file is in the page cache when it is loaded. `peak_rss_mb` is the worker's high-water mark
    after all timed runs, `runtime_rss_mb` the same worker's before it loaded anything. `samples_ms`
    holds every timed run in order, `runs_per_round` of them from each round. `drift` is how much slower
    the last third of the rounds was than the first. `verdict` is `steady` where the median's interval
    is within the margin on both sides and the latency did not drift by more.

    `tokenize_p50_ms` (of a batch's texts) and `post_p50_ms` are what a caller does before and after, timed
    apart; None where there is nothing to do, or no library for it there. `energy_mj` is millijoules of the
    whole processor for one inference, idle power included; None where no counter can be read.

    `elsewhere` counts the operators, by type, that the CPU's own provider runs in place of the target's (from version
    2.1 on); None where the target has no other, or its onnxruntime does not tell. `latency_p99_interval_ms` is None in
    results older than version 2.2.
    """

    package: str
    name: str
    task: str
    precision: str
    parameters: int
    file_bytes: int
    load_ms: float
    first_inference_ms: float
    latency_p50_ms: Positive
    latency_p90_ms: Positive
    latency_p95_ms: Positive
    latency_p99_ms: Positive
    latency_mean_ms: Positive
    latency_std_ms: float
    latency_p50_interval_ms: tuple[float, float]
    latency_p95_interval_ms: tuple[float, float]
    throughput_per_s: float
    drift: float
    verdict: Steadiness
    tokenize_p50_ms: float | None
    post_p50_ms: float | None
    energy_mj: float | None
    peak_rss_mb: float
    runtime_rss_mb: float
    arena: tuple[ArenaStep, ...]
    streams: tuple[StreamFigures, ...]
    open_loop: OpenLoop | None
    agreement: Agreement | None
    download_bytes: int | None
    time_to_first_result_ms: float | None
    instructions: float | None
    warmup_runs: int
    warmup_steady: bool
    runs: Count
    runs_per_round: Count
    samples_ms: Annotated[tuple[Positive, ...], Field(min_length=1)]
    elsewhere: dict[str, int] | None = None
    latency_p99_interval_ms: tuple[float, float] | None = None


@dataclass(frozen=True)
class Comparison:
    """How many times faster than `against` (the first package) a package is at the median; a 99 % interval."""

    package: str
    against: str
    speedup_p50: float
    interval: tuple[float, float]
    verdict: SpeedVerdict


@dataclass(frozen=True)
class TextLengths:
    """Real texts that were measured with: tokens of each, special ones included."""

    source: str
    texts: int
    tokens_p50: float
    tokens_p95: float
    tokens_max: int


@dataclass(frozen=True)
class Measurement:
    """Packages measured in one interleaved run. `margin` is what still counts as the same speed.

    `length` is the tokens of every sequence; where real texts were measured with, it is their longest and `texts`
    describes them. `emulated` says that the latencies are an emulator's and not the device's. `limits` are the
    target's, each with what enforces it. `energy_source` is `rapl`, `hwmon` or None. `failures` are packages
    that did not fit into memory, and what of a package's figures did not. `comparisons` are with the first
    package; there are none where it did not fit. `budget` holds what was asked of the last package.
    """

    device: str
    emulated: bool
    limits: dict[str, Any]
    threads: Count
    batch_size: Count
    length: Count
    texts: TextLengths | None
    margin: float
    host: dict[str, Any]
    versions: dict[str, str]
    noise: Noise | None
    energy_source: str | None
    results: tuple[PackageFigures, ...]
    failures: tuple[Failure, ...]
    comparisons: tuple[Comparison, ...]
    budget: tuple[Verdict, ...] = ()
    schema_version: str = SCHEMA_VERSION
    kind: Literal["measurement"] = "measurement"

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


@dataclass(frozen=True)
class Grid:
    """The same packages measured under several conditions, one after the other."""

    cells: tuple[Measurement, ...]
    schema_version: str = SCHEMA_VERSION
    kind: Literal["grid"] = "grid"

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)
