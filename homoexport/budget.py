"""A deployment budget and its verdicts.

Latency is in milliseconds, sizes are in megabytes of 10**6 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

QUALITY_LINE = "quality."  # and the metric


class Budget(BaseModel):
    """What the deployment allows; a line that is not given is not judged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency_p50_ms: float | None = Field(None, gt=0, description="Median latency of one call, in milliseconds.")
    latency_p95_ms: float | None = Field(None, gt=0, description="95th percentile of one call's latency, in ms.")
    file_mb: float | None = Field(None, gt=0, description="Size of the ONNX file, in megabytes (10^6 bytes).")
    peak_rss_mb: float | None = Field(None, gt=0, description="Peak resident memory of the worker, in megabytes.")

    def limits(self) -> dict[str, float]:
        """The lines that are given, by name."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


@dataclass(frozen=True)
class Verdict:
    """One budget line against its measured figure.

    `kept` is None where the figure's interval lies on both sides of the limit: too noisy to call.
    """

    line: str
    limit: float
    measured: float
    interval: tuple[float, float] | None
    kept: bool | None

    @property
    def at_least(self) -> bool:
        """Whether the limit is one from below, as of quality."""
        return self.line.startswith(QUALITY_LINE)

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


def verdict_of(line: Mapping[str, Any]) -> Verdict:
    """A verdict that was read from JSON."""
    return Verdict(**{**line, "interval": tuple(line["interval"]) if line["interval"] else None})


def judge(
    budget: Budget, figures: dict[str, float], intervals: dict[str, tuple[float, float]] | None = None
) -> list[Verdict]:
    """Hold measured figures against a budget.

    Args:
        budget: the limits.
        figures: `latency_p50_ms`, `latency_p95_ms`, `file_mb`, `peak_rss_mb`; at least the budget's lines.
        intervals: 95 % intervals (low, high) of those figures that have one.

    Returns:
        One verdict for each line of the budget, in its order.
    """
    verdicts = []
    for line, limit in budget.limits().items():
        interval = (intervals or {}).get(line)
        kept: bool | None = figures[line] <= limit
        if interval is not None and interval[0] <= limit < interval[1]:
            kept = None
        verdicts.append(Verdict(line, limit, figures[line], interval, kept))
    return verdicts


def proven(verdicts: list[Verdict]) -> bool:
    """Whether every line is kept; one that is too noisy to call is not proven."""
    return all(verdict.kept for verdict in verdicts)
