"""The choice among shapes: budget lines as limits, the shapes that keep them, and what follows from a measured package.

Letters: see `stages.plan.shapes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from operator import attrgetter
from statistics import median
from typing import Any

from homoexport.documents.budget import DOWNLOAD, LATENCY_LINES, THROUGHPUT, TIMED_LINES, Budget
from homoexport.documents.plan import COST_FIGURES, Check, Cost, More, Plan, Row, Slower, figure_of, used_of
from homoexport.errors import BudgetError, UserError
from homoexport.shape import Shape

# Room below a limit, so that a package that comes out as planned keeps it with its interval.
_MARGINS = {
    "latency_p50_ms": 0.04,
    "latency_p95_ms": 0.08,
    "latency_p99_ms": 0.15,
    THROUGHPUT: 0.06,
    "peak_rss_mb": 0.03,
    "file_mb": 0.005,
    DOWNLOAD: 0.005,
    "parameters": 0.0,
}
MOST_DRIFT = 0.25  # of a machine's pace that room is left for; nothing can be planned on one that drifts further
LIGHTER = 0.05  # less of the memory that was predicted, where that was too much
_SPARE = 0.15  # of a limit: where more room than this is left, a wider shape is named
_MEGABYTES = ("peak_rss_mb", "file_mb", DOWNLOAD)
_UNITS = {**dict.fromkeys(LATENCY_LINES, " ms"), THROUGHPUT: "/s", **dict.fromkeys(_MEGABYTES, " MB")}


class NoneKeepsError(BudgetError):
    """A budget that no student keeps; `limits` are its lines as figures."""

    def __init__(self, what: str, *, where: str, hint: str, limits: Limits) -> None:
        super().__init__(what, where=where, hint=hint)
        self.limits = limits

    def renamed(self, names: Mapping[str, str]) -> UserError:
        return BudgetError(self.what, where=self.where, hint=self.hint).renamed(names)


@dataclass(frozen=True)
class Limits:
    """A budget's lines as figures, by name.

    Half of `drift`, how far the machine's pace goes, is room that times get below their limits. `beside_mb` is what a
    browser downloads beside the model's file, and `reference` the teacher that lines were relative to.
    """

    values: Mapping[str, float]
    batch_size: int
    drift: float = 0.0
    beside_mb: float = 0.0
    reference: Cost | None = field(default=None, compare=False)

    @classmethod
    def of(
        cls, budget: Budget, batch_size: int, reference: Cost | None, parameters: int, *, beside_mb: float = 0.0
    ) -> Limits:
        """Of a budget, some of whose lines may be relative to the teacher's figures and parameters."""
        known = {"parameters": float(parameters)}
        if reference is not None:
            known |= reference.figures
            known[THROUGHPUT] = reference.throughput_per_s(batch_size)
            known[DOWNLOAD] = reference.file_mb + beside_mb
        return cls(budget.limits(known), batch_size, beside_mb=beside_mb, reference=reference)

    @classmethod
    def of_plan(cls, plan: Plan) -> Limits:
        return cls(plan.limits, plan.measure.batch_size, plan.drift, plan.beside_mb)

    def figure(self, row: Row, line: str) -> float:
        return figure_of(row, line, batch_size=self.batch_size, beside_mb=self.beside_mb)

    def used(self, row: Row, line: str) -> float:
        """How much of a line's limit a row uses: 1 is all of it."""
        return used_of(row, line, self.values[line], batch_size=self.batch_size, beside_mb=self.beside_mb)

    def missed_by(self, row: Row, *, margin: bool = True) -> list[str]:
        """The lines that a row does not keep, with room for what measuring adds."""
        return [line for line in self.values if self.used(row, line) > 1 - self.margin(line) * margin]

    def margin(self, line: str) -> float:
        drift = min(self.drift, MOST_DRIFT) / 2 if line in TIMED_LINES else 0.0
        return max(_MARGINS[line], drift)

    def kept_by(self, row: Row) -> bool:
        return not self.missed_by(row)

    def strain(self, row: Row) -> float:
        return max(self.used(row, line) for line in self.values)

    def in_words(self, line: str, value: float) -> str:
        number = f"{value / 1e6:.3g} M" if line == "parameters" else f"{value:.3g}{_UNITS[line]}"
        return f"{line.removesuffix('_ms').removesuffix('_mb').removesuffix('_per_s')} {number}"


def make_plan(limits: Limits, rows: Sequence[Row], choice: Row, checks: Sequence[Check], **conditions: Any) -> Plan:
    """A plan, with what follows from its rows; `conditions` are the other fields of `Plan`."""
    errors = [abs(check.error) for check in checks]
    return Plan(
        limits=dict(limits.values),
        margins={line: limits.margin(line) for line in limits.values},
        drift=limits.drift,
        beside_mb=limits.beside_mb,
        choice=choice,
        front=tuple(_front(limits, rows)),
        slower=tuple(_slower(limits, rows)),
        more=tuple(_more(limits, rows, choice)),
        checks=tuple(checks),
        error_median=median(errors) if errors else None,
        error_worst=max(errors, default=None),
        errors_worst={name: max((check.errors[name] for check in checks), key=abs) for name in COST_FIGURES if checks},
        rows=tuple(rows),
        **conditions,
    )


def _front(limits: Limits, rows: Sequence[Row]) -> list[Row]:
    """The cheapest by the budget's first line first: shapes that keep more than every cheaper one, and all other
    lines."""
    first, *others = limits.values

    def cost(row: Row) -> float:
        # Of throughput the latency that it stands for.
        return row.latency_p50_ms if first == THROUGHPUT else limits.figure(row, first)

    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (cost(row), -row.retained)):
        if {*limits.missed_by(row)} & {*others}:
            continue
        if not best or row.retained > best[-1].retained:
            best.append(row)
    return best


def _slower(limits: Limits, rows: Sequence[Row]) -> list[Slower]:
    """Shapes of the teacher's proportions that are clearly slower than the next wider one, each with that one."""
    widest = max((row.shape for row in rows), key=attrgetter("num_hidden_layers", "hidden_size", "intermediate_size"))
    plain: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: row.latency_p50_ms):
        shape = row.shape
        same_ratio = shape.intermediate_size * widest.hidden_size == widest.intermediate_size * shape.hidden_size
        if shape.num_hidden_layers == widest.num_hidden_layers and same_ratio:
            plain.setdefault(shape.hidden_size, row)  # of those with other heads, the fastest
    ordered = [plain[hidden] for hidden in sorted(plain)]
    clear = 1 - limits.margin("latency_p50_ms")
    return [
        Slower(narrow=narrow, wide=wide)
        for narrow, wide in pairwise(ordered)
        if wide.latency_p50_ms < clear * narrow.latency_p50_ms
    ]


def _more(limits: Limits, rows: Sequence[Row], choice: Row) -> list[More]:
    """What a little more of each line would buy: the line, its new limit, the shape to choose then."""
    found = []
    for line, limit in limits.values.items():
        relaxed = limit / 1.1 if line == THROUGHPUT else limit + _step(line, limit)
        others = replace(limits, values={**limits.values, line: relaxed})
        best = best_of([row for row in rows if others.kept_by(row)])
        if best is not None and best.retained > choice.retained and not limits.kept_by(best):
            found.append(More(line=line, limit=relaxed, buys=best))
    return found


def _step(line: str, limit: float) -> float:
    """One millisecond or megabyte more, or a quarter of a limit that is small; of parameters a tenth."""
    return limit / 10 if line == "parameters" else min(1.0, limit / 4)


def wider(plan: Plan, row: Row, used: Mapping[str, float], missed: Sequence[Shape] = ()) -> Row | None:
    """A shape that would have fitted better, where a package of `row` leaves room in every line.

    `used` says how much of each limit the measured package uses (1 is all). None is named that is wider than a shape
    whose package `missed` the budget.
    """
    if max(used.values()) > 1 - _SPARE:
        return None
    best = _best_by(plan, row, used, lambda shape: not any(each.within(shape) for each in missed))
    return best if best is not None and best.retained > row.retained else None


def narrower(plan: Plan, row: Row, used: Mapping[str, float]) -> Row | None:
    """The next shape to prune to, where a package of `row` used more of the limits (1 is all) than they allow."""
    return _best_by(plan, row, used, lambda shape: shape.within(row.shape) and shape != row.shape)


def lighter(plan: Plan, row: Row) -> Row | None:
    """The next shape to prune to, where the target's memory cannot hold a package of `row`."""
    limits, most = Limits.of_plan(plan), (1 - LIGHTER) * row.peak_rss_mb
    return best_of(
        [
            other
            for other in plan.rows
            if other.shape.within(row.shape) and other.peak_rss_mb <= most and limits.kept_by(other)
        ]
    )


def _best_by(plan: Plan, row: Row, used: Mapping[str, float], allowed: Callable[[Shape], bool]) -> Row | None:
    """The best of the allowed shapes, when predictions are off as they were of `row`."""
    limits = Limits.of_plan(plan)
    off = {line: share / limits.used(row, line) for line, share in used.items()}
    return best_of(
        [
            other
            for other in plan.rows
            if allowed(other.shape)
            and all(limits.used(other, line) * off[line] <= 1 - limits.margin(line) for line in used)
        ]
    )


def best_of(rows: Sequence[Row]) -> Row | None:
    """The one that keeps most; of those that keep as much, the fastest."""
    return max(rows, key=lambda row: (row.retained, -row.latency_p50_ms), default=None)
