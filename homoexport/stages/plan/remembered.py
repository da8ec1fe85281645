"""What a plan keeps of its measurements: figures by shape, at one pace, and what is worth remembering of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from homoexport.documents.document import Document, write_document
from homoexport.documents.package import parts_of
from homoexport.documents.plan import Cost, PlanMemory, ShapeCost
from homoexport.shape import Shape
from homoexport.stages.plan.instruments import TimedFile

_LATENCIES = {50: "latency_p50_ms", 95: "latency_p95_ms", 99: "latency_p99_ms"}
TIMES = (*_LATENCIES.values(), "latency_mean_ms")
ALIKE = 0.1  # two measurements of a model that differ by less are of the same


def keep(file: Path, document: Document) -> None:
    """Put a document into the cache; where that cannot be written, nothing is kept."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_document(file, document)


def cost_of(timed: TimedFile, file: Path) -> Cost:
    """What a model costs whose file was timed."""
    return Cost(
        **{name: timed.latency_ms[percent] for percent, name in _LATENCIES.items()},
        latency_mean_ms=timed.latency_mean_ms,
        peak_rss_mb=timed.peak_rss_mb,
        file_mb=sum(part.stat().st_size for part in parts_of(file)) / 10**6,
    )


def unrest(timed: Sequence[TimedFile | None]) -> float:
    """The largest share of rounds in which a model waited for a core."""
    return max((each.disturbed_share for each in timed if each is not None), default=0.0)


def by_shape(costs: Sequence[ShapeCost]) -> dict[Shape, Cost]:
    """What shapes cost, out of a document."""
    return {cost.shape: Cost(**cost.figures) for cost in costs}


def with_shapes(costs: Mapping[Shape, Cost]) -> tuple[ShapeCost, ...]:
    """The same for a document."""
    return tuple(ShapeCost.of(shape, cost) for shape, cost in costs.items())


def at_pace(costs: Mapping[Shape, Cost], anchor: Shape, pace_ms: float) -> dict[Shape, Cost]:
    """What the models of a group cost if its anchor takes `pace_ms`."""
    factors = dict.fromkeys(TIMES, pace_ms / costs[anchor].latency_p50_ms)
    return {shape: cost.times(factors) for shape, cost in costs.items()}


def at_a_faster_pace(known: PlanMemory, times: float) -> dict[str, Any]:
    """What a memory has at the table's pace, as it is on a machine that is so many times as fast; parts by name."""
    factors, table = dict.fromkeys(TIMES, 1 / times), known.table
    assert table is not None
    measured = tuple(cost.times(factors) for cost in table.measured)
    return {
        "table": table.model_copy(update={"measured": measured, "pace_ms": table.pace_ms / times}),
        "whole": tuple(cost.times(factors) for cost in known.whole),
        "reference": None if known.reference is None else known.reference.times(factors),
    }


def are_settled(costs: Sequence[Cost]) -> bool:
    """Whether two measurements of a model are alike."""
    times = sorted(cost.latency_p50_ms for cost in costs)
    return any(late <= (1 + ALIKE) * early for early, late in pairwise(times))


def middle(costs: Sequence[Cost]) -> Cost:
    """Of a model's measurements the one of the middle median; of two the faster, for what disturbs only adds."""
    return sorted(costs, key=lambda cost: cost.latency_p50_ms)[(len(costs) - 1) // 2]


def now() -> str:
    """The time, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def seconds_since(when: str) -> float:
    """Seconds since a time of `now`; 0 where there is none, or the clock was turned back."""
    try:
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(when)).total_seconds())
    except (ValueError, TypeError):  # none, or one without a zone, of a file that somebody changed
        return 0.0
