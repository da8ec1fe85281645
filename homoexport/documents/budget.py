"""A deployment budget and its verdicts.

A line is a figure with its unit, or relative to the teacher's fp32 package on the same target: `4x` is four times
better (a quarter of its latency, four times its throughput), `25%` is that share of its figure. Latency is in
milliseconds, sizes are in megabytes of 10**6 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from homoexport.documents.document import Figures
from homoexport.errors import UserError
from homoexport.units import parse_bytes, parse_count, parse_milliseconds, parse_rate, parse_share

QUALITY_LINE = "quality."  # and the metric
LATENCY_LINES = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms")
THROUGHPUT = "throughput_per_s"
DOWNLOAD = "download_mb"
TIMED_LINES = frozenset((*LATENCY_LINES, THROUGHPUT))
Limit = float | str | None  # a figure in the unit of the line's name, or a share of the teacher's


def _megabytes(text: str, *, where: str) -> float:
    return parse_bytes(text, where=where) / 10**6


_PARSERS: dict[str, tuple[Callable[..., float], str]] = {
    **dict.fromkeys(LATENCY_LINES, (parse_milliseconds, "8ms")),
    THROUGHPUT: (parse_rate, "200/s"),
    **dict.fromkeys(("file_mb", DOWNLOAD, "peak_rss_mb"), (_megabytes, "12MB")),
    "parameters": (parse_count, "10M"),
}


def _line(what: str, example: str) -> Any:
    """A line of the budget, as a field."""
    description = f"Budget: {what}, or relative to the teacher's fp32 package: 4x, 25%."
    return Field(None, examples=[example], description=description)


class Budget(BaseModel):
    """What the deployment allows; a line that is not given is not judged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency_p50_ms: Limit = _line("median latency of one inference at most", "8ms")
    latency_p95_ms: Limit = _line("95th percentile of an inference's latency at most", "8ms")
    latency_p99_ms: Limit = _line("99th percentile of an inference's latency at most", "8ms")
    throughput_per_s: Limit = _line("sequences a second at least", "200/s")
    file_mb: Limit = _line("size of the files of its runtime (MB of 10^6 bytes) at most", "12MB")
    download_mb: Limit = _line("what a browser downloads of the package (MB of 10^6 bytes) at most", "9MB")
    peak_rss_mb: Limit = _line("peak memory of the process at most", "80MB")
    parameters: Limit = _line("the student's parameters at most", "10M")

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None or (isinstance(value, str) and parse_share(value) is not None):
            return value
        parse, example = _PARSERS[str(info.field_name)]
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                try:
                    value = parse(value, where="")
                except UserError as error:
                    what = str(error).split(";")[0]
                    raise ValueError(f"{what}; write {example}, or relative to the teacher: 4x, 25%") from None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"give a positive figure, such as {example}, or relative to the teacher: 4x, 25%")
        return float(value)

    def lines(self) -> dict[str, float | str]:
        """The lines that are given, by name."""
        return {name: value for name, value in self.model_dump().items() if value is not None}

    @property
    def relative(self) -> tuple[str, ...]:
        """Names of the lines that are relative to the teacher."""
        return tuple(name for name, value in self.lines().items() if isinstance(value, str))

    def limits(self, reference: Mapping[str, float] | None = None) -> dict[str, float]:
        """The lines that are given as figures, by name; relative ones by the teacher's figures (`reference`)."""
        limits = {}
        for name, value in self.lines().items():
            if isinstance(value, str):
                share = parse_share(value)
                assert share is not None
                assert reference is not None
                more = name == THROUGHPUT or value.strip().endswith("%")
                limits[name] = reference[name] * share if more else reference[name] / share
            else:
                limits[name] = value
        return limits


class BudgetVerdict(Figures):
    """One budget line against its measured figure.

    `kept` is None where the figure's interval lies on both sides of the limit: too noisy to call. `asked` is how a
    limit was written that is relative to the figure of the `teacher`. Where that is a quality's, `share_interval`
    counts, of the share that the student keeps of it; `data` is what a quality was judged on.

    `quiet_share` is the share of the rounds in which no other process took the package's cores: where it is below 1,
    the figure of a time is of these rounds alone. Where they are too few it is 0 and the figure is of all rounds, which
    can only be slower than a quiet machine's: such a line may be kept, but is never missed, and one that is relative
    to the teacher's is neither.
    """

    line: str
    limit: float
    measured: float
    interval: tuple[float, float] | None
    kept: bool | None
    teacher: float | None = None
    share_interval: tuple[float, float] | None = None
    asked: str | None = None
    data: str | None = None
    quiet_share: float = 1.0

    @property
    def is_quality(self) -> bool:
        """Whether it is a floor under quality, and no line of what the deployment allows."""
        return self.line.startswith(QUALITY_LINE)

    @property
    def at_least(self) -> bool:
        """Whether the limit is one from below, as of quality and of throughput."""
        return self.is_quality or self.line == THROUGHPUT


def judge(
    budget: Budget,
    figures: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]] | None = None,
    *,
    reference: Mapping[str, float] | None = None,
    quiet_share: float = 1.0,
) -> list[BudgetVerdict]:
    """Hold measured figures against a budget: a verdict for each of its lines, in its order.

    Args:
        figures: by the names of the budget's lines, all of which are there.
        intervals: 95 % intervals (low, high) of those figures that have one.
        reference: the teacher's figures, where a line is relative to them.
        quiet_share: see `BudgetVerdict`; of figures of time.
    """
    verdicts = []
    asked, relative = budget.lines(), budget.relative
    for line, limit in budget.limits(reference).items():
        interval = (intervals or {}).get(line)
        kept: bool | None = figures[line] >= limit if line == THROUGHPUT else figures[line] <= limit
        is_disturbed = quiet_share == 0 and line in TIMED_LINES
        # The teacher that a limit follows from was disturbed as well.
        if is_disturbed and (not kept or line in relative):
            kept = None
        if interval is not None and interval[0] <= limit < interval[1]:
            kept = None
        verdicts.append(
            BudgetVerdict(
                line=line,
                limit=limit,
                measured=figures[line],
                interval=interval,
                kept=kept,
                teacher=reference[line] if reference and line in relative else None,
                asked=str(asked[line]) if line in relative else None,
                quiet_share=quiet_share if line in TIMED_LINES else 1.0,
            )
        )
    return verdicts


def is_kept(verdicts: Sequence[BudgetVerdict]) -> bool | None:
    """False where a line is missed, None where none is but one is too noisy to call, else True."""
    if any(verdict.kept is False for verdict in verdicts):
        return False
    return None if any(verdict.kept is None for verdict in verdicts) else True
