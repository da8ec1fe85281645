"""What measuring says: the typed form of `homoexport bench --json`, published as a JSON schema.

Latency is of one call, in milliseconds; memory is in MB of 10**6 bytes; intervals are 95 %, of ratios 99 %.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter, model_validator

from homoexport.choices import Runtime, SpeedVerdict, Steadiness
from homoexport.documents.budget import BudgetVerdict
from homoexport.documents.document import Document, Figures, parse_document, read_json
from homoexport.host import MeasuredHost

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Interval = tuple[float, float]


class Limit(Figures):
    """A limit of a target, and what enforces it."""

    limit: float
    by: str


class Noise(Figures):
    """What disturbed a measurement. A figure that the target's kernel does not give is None.

    `spin_p50_us` is the median of a fixed piece of arithmetic on the idle machine, before anything is
    timed; `disturbed_share` is the share of these that took over 1.25 times as long. `other_load_cores`
    are cores' worth of time that other processes took while packages were timed, `stolen_share` is what
    the hypervisor took of one core. `remarks` say in words what is beyond the usual.

    From version 2.7 on `spin_mean_us` is the mean of all such pieces, before and after, so that what other processes
    took is in it; `pace` is how many times as long one took at the median as at the best that was ever seen of this
    machine (at the later or the earlier time, whichever was slower), and `slowed` whether that, or what was stolen, is
    so much that times are not those of the machine.
    """

    spin_p50_us: Positive
    spin_p95_us: float
    disturbed_share: float
    other_load_cores: float | None
    stolen_share: float | None
    frequency_before_mhz: float | None
    frequency_after_mhz: float | None
    remarks: tuple[str, ...]
    spin_mean_us: float | None = None
    pace: float | None = None
    slowed: bool = False


class Failure(Figures):
    """A package that the target cannot hold: a result as good as a figure."""

    package: str
    stage: str
    reason: str


class Agreement(Figures):
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


class ArenaStep(Figures):
    """Memory of a fresh worker after a batch of that size.

    `rss_mb` where onnxruntime's arena keeps what it has, `shrunk_rss_mb` where it is shrunk after each inference (the
    run option `memory.enable_memory_arena_shrinkage`).
    """

    batch_size: int
    rss_mb: float | None
    shrunk_rss_mb: float | None


class StreamFigures(Figures):
    """So many callers that share one session, each asking again as soon as it is answered."""

    streams: int
    throughput_per_s: float
    latency_p50_ms: float
    latency_p95_ms: float


class RateFigures(Figures):
    """Poisson arrivals at a rate, served in their order; latency counts from the arrival.

    `requests` were served; at a rate beyond what can be served these are the first ones, for ten seconds.
    """

    rate_per_s: float
    requests: int
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    utilization: float


class OpenLoop(Figures):
    """The runs at each rate; the highest rate that kept the p95 within the budget, if any, at the median of three."""

    rates: tuple[RateFigures, ...]
    budget_p95_ms: float | None
    highest_rate_per_s: float | None


class PackageFigures(Figures):
    """One package's figures.

    The file is in the page cache when it is loaded. `peak_rss_mb` is the worker's high-water mark
    after all timed runs, `runtime_rss_mb` the same worker's before it loaded anything. `samples_ms`
    holds every timed run in order, `runs_per_round` of them from each round. `drift` is how much slower
    the last third of the rounds was than the first. `verdict` is `steady` where the median's interval
    is within the margin on both sides, the latency did not drift by more, and nothing disturbed it; an emulator's times
    are never `steady`.

    `tokenize_p50_ms` (of a batch's texts) and `post_p50_ms` are what a caller does before and after, timed
    apart; None where there is nothing to do, or no library for it there. `energy_mj` is millijoules of the
    whole processor for one inference, idle power included; None where no counter can be read.

    `elsewhere` counts the operators, by type, that the CPU's own provider runs in place of the target's (from version
    2.1 on); None where the target has no other, or its onnxruntime does not tell. `latency_p99_interval_ms` is None in
    results older than version 2.2. `runtime` is told from version 2.5 on; before, all ran in onnxruntime.

    `package_download_bytes` are those of the package's files that a browser takes, as they lie on the disk: the graph
    with its weights, the tokenizer, the configuration. In a browser `runtime_download_bytes` are those of the runtime's
    own scripts and WebAssembly, and `download_bytes` all that the measuring page fetched, which takes no tokenizer. The
    first two are told from version 2.6 on.

    `disturbed_rounds` are the places of rounds in which it waited for a core, which others had, for more than a
    twentieth of its time (from version 2.7 on; none where the kernel does not tell).
    """

    package: str
    name: str
    task: str
    precision: str
    runtime: Runtime = "onnxruntime"
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
    latency_p50_interval_ms: Interval
    latency_p95_interval_ms: Interval
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
    latency_p99_interval_ms: Interval | None = None
    package_download_bytes: int | None = None
    runtime_download_bytes: int | None = None
    disturbed_rounds: tuple[int, ...] = ()

    @property
    def latencies_ms(self) -> dict[int, tuple[float, Interval | None]]:
        """Each percentile of the latency, by its number, with its interval where it has one."""
        return {
            50: (self.latency_p50_ms, self.latency_p50_interval_ms),
            90: (self.latency_p90_ms, None),
            95: (self.latency_p95_ms, self.latency_p95_interval_ms),
            99: (self.latency_p99_ms, self.latency_p99_interval_ms),
        }


class Comparison(Figures):
    """How many times faster than `against` (the first package) a package is at the median; a 99 % interval."""

    package: str
    against: str
    speedup_p50: float
    interval: Interval
    verdict: SpeedVerdict


class TextLengths(Figures):
    """Real texts that were measured with: tokens of each, special ones included."""

    source: str
    texts: int
    tokens_p50: float
    tokens_p95: float
    tokens_max: int


class Measurement(Document):
    """Packages measured in one interleaved run. `margin` is what still counts as the same speed.

    `length` is the tokens of every sequence; where real texts were measured with, it is their longest and `texts`
    describes them. `emulated` says that the latencies are an emulator's and not the device's. `limits` are the
    target's, each with what enforces it. `energy_source` is `rapl`, `hwmon` or None. `failures` are packages
    that did not fit into memory, and what of a package's figures did not. `comparisons` are with the first
    package; there are none where it did not fit. `budget` holds what was asked of the last package.
    """

    VERSION: ClassVar[str] = "2.7"
    MAX_BYTES: ClassVar[int] = 16 * 2**20  # it holds every sample

    device: str
    emulated: bool
    limits: dict[str, Limit]
    threads: Count
    batch_size: Count
    length: Count
    texts: TextLengths | None
    margin: float
    host: MeasuredHost | None
    versions: dict[str, str]
    noise: Noise | None
    energy_source: str | None
    results: tuple[PackageFigures, ...]
    failures: tuple[Failure, ...]
    comparisons: tuple[Comparison, ...]
    budget: tuple[BudgetVerdict, ...] = ()
    kind: Literal["measurement"] = "measurement"

    @property
    def cells(self) -> tuple[Measurement, ...]:
        """Itself, as a grid of one condition."""
        return (self,)

    @model_validator(mode="after")
    def _whole_rounds(self) -> Measurement:
        for each in self.results:
            if len(each.samples_ms) % each.runs_per_round:
                raise ValueError(f"{len(each.samples_ms)} samples of {each.name} in rounds of {each.runs_per_round}")
        return self


class Grid(Document):
    """The same packages measured under several conditions, one after the other."""

    VERSION: ClassVar[str] = Measurement.VERSION

    cells: tuple[Measurement, ...]
    kind: Literal["grid"] = "grid"


class Need(Figures):
    """Something that a target lacks here, and the command that gets it."""

    what: str
    command: str


class Device(Figures):
    """One kind of target; where it is not ready, `needs` says what is missing and how to get it.

    For `ssh`, `host` and `providers` depend on the machine that is named.
    """

    name: str
    how: str
    ready: bool
    emulated: bool
    cores: int | None = None
    providers: tuple[str, ...] = ()
    host: MeasuredHost | None = None
    needs: tuple[Need, ...] = ()


class Change(Figures):
    """How many times faster the second run's package is at the median than the first run's; a 99 % interval.

    Both are of the rounds in which they had their cores. `package` is the second run's, `before_package` the first's.
    `comparable` is whether there are enough of these rounds, and the machine was as fast both times.
    """

    package: str
    before_package: str
    device: str
    threads: int
    batch_size: int
    length: int
    before_p50_ms: float
    after_p50_ms: float
    speedup_p50: float
    interval: Interval
    verdict: SpeedVerdict
    remarks: tuple[str, ...]
    comparable: bool = True


AnyMeasurement = Annotated[Measurement | Grid, Field(discriminator="kind")]
SCHEMA_FILE = Path(__file__).with_name("measurement.schema.json")
_HINT = "give a file that `homoexport bench --json` wrote"


def json_schema() -> dict[str, object]:
    """The schema of what `homoexport bench --json` prints, in JSON Schema 2020-12."""
    adapter: TypeAdapter[Measurement | Grid] = TypeAdapter(AnyMeasurement)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"homoexport measurement, version {Measurement.VERSION}",
        **adapter.json_schema(mode="serialization"),
    }


def read_measurement(path: Path) -> Measurement | Grid:
    """What `homoexport bench --json` wrote to a file, or a folder's `measurement.json`; see `read_document`."""
    value = read_json(path, max_bytes=Measurement.MAX_BYTES, hint=_HINT)
    if isinstance(value, dict) and value.get("kind") == "grid":
        return parse_document(value, Grid, where=str(path), hint=_HINT)
    return parse_document(value, Measurement, where=str(path), hint=_HINT)
