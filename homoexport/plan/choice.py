"""A plan: shapes with what they cost and keep, limits, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

from homoexport.documents.budget import LATENCY_LINES, THROUGHPUT, TIMED_LINES, Budget
from homoexport.documents.recipe import MeasureSettings
from homoexport.errors import PackageError
from homoexport.measure import TargetHost
from homoexport.plan.shapes import shape_of
from homoexport.plan.table import Figures, figures_of
from homoexport.shape import Shape

FORMAT = 1  # of a plan as JSON
# Room below a limit, so that a package that comes out as planned keeps it with its interval.
_MARGINS = {
    "latency_p50_ms": 0.04,
    "latency_p95_ms": 0.08,
    "latency_p99_ms": 0.15,
    THROUGHPUT: 0.06,
    "peak_rss_mb": 0.03,
    "file_mb": 0.005,
    "parameters": 0.0,
}
MOST_DRIFT = 0.25  # a machine whose pace goes further is no ground to plan on
LIGHTER = 0.05  # less of the memory that was predicted, where that was too much
_SPARE = 0.15  # of a limit: more room than this is worth a word
_UNITS = {**dict.fromkeys(LATENCY_LINES, " ms"), THROUGHPUT: "/s", "peak_rss_mb": " MB", "file_mb": " MB"}


@dataclass(frozen=True)
class Row:
    """A shape, what it costs (predicted, or measured as a whole model with random weights) and what it keeps.

    `retained` is the share of the teacher's squared sensitivity.
    """

    shape: Shape
    figures: Figures
    parameters: int
    retained: float
    measured: bool = False

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {
            "shape": self.shape.as_json(),
            **self.figures.as_json(),
            "parameters": self.parameters,
            "retained": self.retained,
            "measured": self.measured,
        }


@dataclass(frozen=True)
class Check:
    """A whole model: what was predicted of it, and what was measured."""

    shape: Shape
    predicted: Figures
    measured: Figures

    @property
    def error(self) -> float:
        """Of the predicted median latency, relative to the measured one."""
        return self.errors["latency_p50_ms"]

    @property
    def errors(self) -> dict[str, float]:
        """Of every predicted figure, relative to the measured one."""
        measured = self.measured.as_json()
        return {name: value / measured[name] - 1 for name, value in self.predicted.as_json().items()}

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        figures = {"predicted": self.predicted.as_json(), "measured": self.measured.as_json()}
        return {"shape": self.shape.as_json(), **figures, "error": self.error}


@dataclass(frozen=True)
class Limits:
    """A budget's lines as figures, by name.

    `drift` is how far the machine's pace goes (`Table.drift`): half of it is room that times get below their limits.
    """

    values: Mapping[str, float]
    batch_size: int
    drift: float = 0.0

    @classmethod
    def of(cls, budget: Budget, batch_size: int, reference: Figures | None, parameters: int) -> Limits:
        """Of a budget, some of whose lines may be relative to the teacher's figures and parameters."""
        known = {"parameters": float(parameters)}
        if reference is not None:
            known |= reference.as_json()
            known[THROUGHPUT] = batch_size * 1000 / reference.latency_mean_ms
        return cls(budget.limits(known), batch_size)

    def figure(self, row: Row, line: str) -> float:
        """A row's figure of a line."""
        if line == THROUGHPUT:
            return self.batch_size * 1000 / row.figures.latency_mean_ms
        return float(row.parameters if line == "parameters" else getattr(row.figures, line))

    def used(self, row: Row, line: str) -> float:
        """How much of a line's limit a row uses: 1 is all of it."""
        figure, limit = self.figure(row, line), self.values[line]
        return limit / figure if line == THROUGHPUT else figure / limit

    def missed_by(self, row: Row, *, margin: bool = True) -> list[str]:
        """The lines that a row does not keep, with room for what measuring adds."""
        return [line for line in self.values if self.used(row, line) > 1 - self.margin(line) * margin]

    def margin(self, line: str) -> float:
        """Room below a limit, as a share of it."""
        drift = min(self.drift, MOST_DRIFT) / 2 if line in TIMED_LINES else 0.0
        return max(_MARGINS[line], drift)

    def kept_by(self, row: Row) -> bool:
        """Whether it keeps all lines."""
        return not self.missed_by(row)

    def strain(self, row: Row) -> float:
        """The most that it uses of any limit."""
        return max(self.used(row, line) for line in self.values)

    def told(self, line: str, value: float) -> str:
        """A figure of a line with its name and unit."""
        number = f"{value / 1e6:.3g} M" if line == "parameters" else f"{value:.3g}{_UNITS[line]}"
        return f"{line.removesuffix('_ms').removesuffix('_mb').removesuffix('_per_s')} {number}"


@dataclass(frozen=True)
class Plan:
    """What a budget can afford.

    Attributes:
        teacher: whose students these are.
        teacher_digest: of its weights.
        budget: as it was asked for.
        limits: its lines as figures.
        measure: the conditions.
        scheme: of the graphs.
        form: of the graphs.
        target: the processor and runtime.
        reference: the teacher's shape in fp32, where a line is relative to it.
        rows: every shape that was considered.
        choice: the one to distil.
        checks: whole models whose prediction was held against a measurement.
        measured: models of the table.
        remembered: whether the table was there already.
    """

    teacher: str
    teacher_digest: str
    budget: Budget
    limits: Limits
    measure: MeasureSettings
    scheme: str
    form: str
    target: TargetHost
    reference: Figures | None
    rows: tuple[Row, ...]
    choice: Row
    checks: tuple[Check, ...]
    measured: int
    remembered: bool

    @property
    def cost_line(self) -> str:
        """What the front is drawn against: the first line of the budget."""
        return next(iter(self.limits.values))

    def cost(self, row: Row) -> float:
        """A row's figure of that line; of throughput the latency that it stands for."""
        if self.cost_line == THROUGHPUT:
            return row.figures.latency_p50_ms
        return self.limits.figure(row, self.cost_line)

    def front(self) -> list[Row]:
        """The cheapest first: shapes that keep more than every cheaper one, and all other lines of the budget."""
        others = [line for line in self.limits.values if line != self.cost_line]
        best: list[Row] = []
        for row in sorted(self.rows, key=lambda row: (self.cost(row), -row.retained)):
            if {*self.limits.missed_by(row)} & {*others}:
                continue
            if not best or row.retained > best[-1].retained:
                best.append(row)
        return best

    def disliked(self) -> list[tuple[Row, Row]]:
        """Shapes of the teacher's proportions that are clearly slower than the next wider one, each with that one."""
        widest = max(
            (row.shape for row in self.rows),
            key=lambda shape: (shape.num_hidden_layers, shape.hidden_size, shape.intermediate_size),
        )
        plain: dict[int, Row] = {}
        for row in sorted(self.rows, key=lambda row: row.figures.latency_p50_ms):
            shape = row.shape
            same_ratio = shape.intermediate_size * widest.hidden_size == widest.intermediate_size * shape.hidden_size
            if shape.num_hidden_layers == widest.num_hidden_layers and same_ratio:
                plain.setdefault(shape.hidden_size, row)  # of those with other heads, the fastest
        ordered = [plain[hidden] for hidden in sorted(plain)]
        clear = 1 - self.limits.margin("latency_p50_ms")
        return [
            (row, wider)
            for row, wider in pairwise(ordered)
            if wider.figures.latency_p50_ms < clear * row.figures.latency_p50_ms
        ]

    def more(self) -> list[tuple[str, float, Row]]:
        """What a little more of each line would buy: the line, its new limit, the shape to choose then."""
        found = []
        for line, limit in self.limits.values.items():
            relaxed = limit / 1.1 if line == THROUGHPUT else limit + _step(line, limit)
            limits = replace(self.limits, values={**self.limits.values, line: relaxed})
            best = best_of([row for row in self.rows if limits.kept_by(row)])
            if best is not None and best.retained > self.choice.retained and not self.limits.kept_by(best):
                found.append((line, relaxed, best))
        return found

    def wider(self, row: Row, used: Mapping[str, float], missed: Sequence[Shape] = ()) -> Row | None:
        """A shape that would have fitted better, where a package of `row` leaves room in every line.

        Args:
            row: what was distilled.
            used: how much of each limit the measured package uses; 1 is all.
            missed: shapes whose packages did not keep the budget; none that is wider than one of these is named.
        """
        if max(used.values()) > 1 - _SPARE:
            return None
        best = self._best_by(row, used, lambda shape: not any(each.within(shape) for each in missed))
        return best if best is not None and best.retained > row.retained else None

    def narrower(self, row: Row, used: Mapping[str, float]) -> Row | None:
        """The next shape to prune to, where a package of `row` uses more of the limits than they allow.

        Args:
            row: what was distilled.
            used: how much of each limit its measured package uses; 1 is all.
        """
        return self._best_by(row, used, lambda shape: shape.within(row.shape) and shape != row.shape)

    def lighter(self, row: Row) -> Row | None:
        """The next shape to prune to, where the target's memory cannot hold a package of `row`."""
        most = (1 - LIGHTER) * row.figures.peak_rss_mb
        return best_of(
            [
                other
                for other in self.rows
                if other.shape.within(row.shape) and other.figures.peak_rss_mb <= most and self.limits.kept_by(other)
            ]
        )

    def _best_by(self, row: Row, used: Mapping[str, float], allowed: Callable[[Shape], bool]) -> Row | None:
        """The best of the allowed shapes, when predictions are off as they were of `row`."""
        off = {line: share / self.limits.used(row, line) for line, share in used.items()}
        return best_of(
            [
                other
                for other in self.rows
                if allowed(other.shape)
                and all(self.limits.used(other, line) * off[line] <= 1 - self.limits.margin(line) for line in used)
            ]
        )

    def row_of(self, shape: Shape) -> Row:
        """A shape's row."""
        return next(row for row in self.rows if row.shape == shape)

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        errors = [abs(check.error) for check in self.checks]
        return {
            "kind": "plan",
            "format": FORMAT,
            "teacher": self.teacher,
            "teacher_digest": self.teacher_digest,
            "budget": self.budget.lines(),
            "limits": dict(self.limits.values),
            "drift": self.limits.drift,
            "margins": {line: self.limits.margin(line) for line in self.limits.values},
            "measure": self.measure.model_dump(mode="json"),
            "scheme": self.scheme,
            "form": self.form,
            "target": vars(self.target) | {"instruction_sets": list(self.target.instruction_sets)},
            "reference": None if self.reference is None else self.reference.as_json(),
            "choice": self.choice.as_json(),
            "front": [row.as_json() for row in self.front()],
            "disliked": [[row.as_json(), wider.as_json()] for row, wider in self.disliked()],
            "more": [{"line": line, "limit": limit, "buys": row.as_json()} for line, limit, row in self.more()],
            "checks": [check.as_json() for check in self.checks],
            "error_median": median(errors) if errors else None,
            "error_worst": max(errors, default=None),
            "errors_worst": {
                name: max((check.errors[name] for check in self.checks), key=abs)
                for name in Figures.__dataclass_fields__
                if self.checks
            },
            "models_measured": self.measured,
            "remembered": self.remembered,
            "rows": [row.as_json() for row in self.rows],
        }


def plan_of(saved: Mapping[str, Any]) -> Plan:
    """A plan that was read from JSON.

    Raises:
        PackageError: it is of another version of homoexport.
    """
    if saved.get("format") != FORMAT:
        raise PackageError("is a plan of another version of homoexport", where="plan.json", hint="plan again")
    target = {**saved["target"], "instruction_sets": tuple(saved["target"]["instruction_sets"])}
    measure = MeasureSettings(**saved["measure"])
    return Plan(
        teacher=saved["teacher"],
        teacher_digest=saved["teacher_digest"],
        budget=Budget(**saved["budget"]),
        limits=Limits(saved["limits"], measure.batch_size, saved["drift"]),
        measure=measure,
        scheme=saved["scheme"],
        form=saved["form"],
        target=TargetHost(**target),
        reference=None if saved["reference"] is None else figures_of(saved["reference"]),
        rows=tuple(map(_row_of, saved["rows"])),
        choice=_row_of(saved["choice"]),
        checks=tuple(
            Check(shape_of(each["shape"]), figures_of(each["predicted"]), figures_of(each["measured"]))
            for each in saved["checks"]
        ),
        measured=saved["models_measured"],
        remembered=saved["remembered"],
    )


def _row_of(saved: Mapping[str, Any]) -> Row:
    figures = figures_of(saved)
    return Row(shape_of(saved["shape"]), figures, saved["parameters"], saved["retained"], saved["measured"])


def best_of(rows: Sequence[Row]) -> Row | None:
    """The one that keeps most; of those that keep as much, the fastest."""
    return max(rows, key=lambda row: (row.retained, -row.figures.latency_p50_ms), default=None)


def _step(line: str, limit: float) -> float:
    """One millisecond or megabyte more, or a quarter of a limit that is small; of parameters a tenth."""
    return limit / 10 if line == "parameters" else min(1.0, limit / 4)
