"""The plan of a student (`plan.json`): shapes with what they cost and keep, and the choice among them.

Latency is in milliseconds, sizes are in megabytes of 10**6 bytes. Budget lines have the names that
`homoexport.documents.budget` gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, TypeVar

from pydantic import Field, TypeAdapter, field_serializer

from homoexport.choices import Runtime, Scheme
from homoexport.documents.budget import DOWNLOAD, THROUGHPUT, Budget
from homoexport.documents.document import Document, Figures
from homoexport.documents.recipe import MeasureSettings
from homoexport.documents.target import TargetHost
from homoexport.errors import PackageError
from homoexport.shape import Shape, WrittenShape

PLAN_FILE = "plan.json"

C = TypeVar("C", bound="Cost")


def shape_of(figures: Mapping[str, int]) -> Shape:
    """A shape out of its figures by name, as files have them."""
    return TypeAdapter(WrittenShape).validate_python(dict(figures))


class Cost(Figures):
    """What a model costs, measured or predicted: latency of one call, peak memory of the worker, file."""

    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    latency_mean_ms: float
    peak_rss_mb: float
    file_mb: float

    @property
    def figures(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in COST_FIGURES}

    def with_figures(self: C, figures: Mapping[str, float]) -> C:
        return self.model_copy(update=dict(figures))

    def times(self: C, factors: Mapping[str, float]) -> C:
        """The same with some figures multiplied, by their names."""
        return self.with_figures({name: getattr(self, name) * factor for name, factor in factors.items()})

    def throughput_per_s(self, batch_size: int) -> float:
        """Sequences a second, of calls of `batch_size` sequences one after another."""
        return batch_size * 1000 / self.latency_mean_ms


COST_FIGURES = tuple(Cost.model_fields)


class ShapeCost(Cost):
    """What a model of a shape costs."""

    shape: WrittenShape

    @classmethod
    def of(cls, shape: Shape, cost: Cost) -> ShapeCost:
        return cls(shape=shape, **cost.figures)


class MeasuredTable(Figures):
    """Small models, measured on a target, from which whole ones are predicted.

    `pace_ms` is the median latency of the model that every group was measured with; `drift` is how far the machine's
    pace went while it was measured: slowest less fastest, over the median. `measured_at` is when, in ISO 8601, and
    `disturbed_share` the share of the rounds in which models waited for a core meanwhile. Figures of `suspect` shapes
    were disturbed, or are out of line with their neighbours' and were others each time.
    """

    batch_size: int
    length: int
    measured: tuple[ShapeCost, ...]
    pace_ms: float
    drift: float
    measured_at: str = ""
    disturbed_share: float = 0.0
    suspect: tuple[WrittenShape, ...] = ()


class PlanMemory(Document):
    """What was measured under the same conditions, kept in the user's cache.

    Nothing is there that was disturbed, but for suspect models of the table, which the next plan measures again.
    `form` is the fastest form of the graph. `reference`, the teacher's shape in fp32, and the `whole` models are at the
    table's pace; `alone` are models that were measured before there was a table.
    """

    VERSION: ClassVar[str] = "10.0"
    MAX_BYTES: ClassVar[int] = 16 * 2**20  # it holds every figure

    form: str | None = None
    table: MeasuredTable | None = None
    reference: Cost | None = None
    whole: tuple[ShapeCost, ...] = ()
    alone: tuple[ShapeCost, ...] = ()


_Vector = tuple[float, ...]


class TeacherSensitivity(Document):
    """Sums of a teacher's squared sensitivity that stay at every size, as shares of all; kept in the user's cache.

    `outside` [D] is that of what belongs to no layer; `rest` [L, D] of norms and biases on the residual stream;
    `attention` is [L, D, (H, d)], `ffn` [L, D, F]. Sizes ascend.

    Letters: L layers, H heads, d head width, D hidden size, F ffn width.
    """

    VERSION: ClassVar[str] = "3.0"

    hidden_sizes: tuple[int, ...]
    ffn_sizes: tuple[int, ...]
    head_shapes: tuple[tuple[int, int], ...]
    outside: _Vector
    rest: tuple[_Vector, ...]
    attention: tuple[tuple[_Vector, ...], ...]
    ffn: tuple[tuple[_Vector, ...], ...]


class Row(ShapeCost):
    """A shape, what it costs (predicted, or `measured` as a whole model with random weights) and what it keeps.

    `retained` is its share of the teacher's squared sensitivity. It is `suspect` where it is predicted from a model of
    the table that is, or was disturbed itself when it was measured.
    """

    parameters: int
    retained: float
    measured: bool = False
    suspect: bool = False


def figure_of(row: Row, line: str, *, batch_size: int, beside_mb: float) -> float:
    """What a row has of a line of the budget; `beside_mb` is what a browser downloads beside the model's file."""
    if line == DOWNLOAD:
        return row.file_mb + beside_mb
    return row.throughput_per_s(batch_size) if line == THROUGHPUT else float(getattr(row, line))


def used_of(row: Row, line: str, limit: float, *, batch_size: int, beside_mb: float) -> float:
    """How much of a line's limit a row uses: 1 is all of it."""
    figure = figure_of(row, line, batch_size=batch_size, beside_mb=beside_mb)
    return limit / figure if line == THROUGHPUT else figure / limit


class Check(Figures):
    """A whole model: what was predicted of it, what was measured, and by how much each prediction was off.

    `errors` are relative to what was measured, above 0 where the prediction was too high.
    """

    shape: WrittenShape
    predicted: Cost
    measured: Cost
    errors: dict[str, float]

    @classmethod
    def of(cls, shape: Shape, predicted: Cost, measured: Cost) -> Check:
        """With the errors, which follow from the others."""
        truth = measured.figures
        errors = {name: value / truth[name] - 1 for name, value in predicted.figures.items()}
        return cls(shape=shape, predicted=Cost(**predicted.figures), measured=Cost(**truth), errors=errors)

    @property
    def error(self) -> float:
        return self.errors["latency_p50_ms"]


class Slower(Figures):
    """A shape that is slower than a wider one on this target."""

    narrow: Row
    wide: Row


class More(Figures):
    """What a little more of one budget line would buy."""

    line: str
    limit: float
    buys: Row


class PlannedVocabulary(Figures):
    """A vocabulary that was planned with: how much of the text it keeps, and the best shape of a student that has it.

    `vocab_size` is what was asked for, None of all words, and `pieces` what there is. `coverage` is the share of the
    held-out text's tokens that stay as they are; the others' parts make `more_tokens` more, as a share. Shapes were
    planned for sequences of `length` tokens. There is a `choice`, with its `score`, what it keeps of the teacher times
    the coverage; or else what was `refused`: why no student keeps the budget.
    """

    vocab_size: int | None
    pieces: int
    coverage: float = 1.0
    more_tokens: float = 0.0
    length: int
    choice: Row | None = None
    score: float | None = None
    refused: str | None = None

    def planned(self, choice: Row) -> PlannedVocabulary:
        """With its choice, and the score, which follows from it."""
        return self.model_copy(update={"choice": choice, "score": choice.retained * self.coverage})


class Plan(Document):
    """What a budget can afford.

    Attributes:
        margins: room that is left below each limit, as a share of it.
        drift: how far the machine's pace went while models were measured.
        beside_mb: what a browser downloads beside the model's file: tokenizer and configuration (from version 2.1 on).
        reference: the teacher's shape in fp32, where a line is relative to it.
        front: the cheapest first: shapes that keep more than every cheaper one, and all lines but the first.
        checks: whole models whose prediction was held against a measurement.
        error_median: of the checks' median latencies, without sign.
        errors_worst: of each figure, the largest error with its sign.
        remembered: whether the table was there already.
        table_age_s: seconds since that was measured.
        disturbed_share: of the rounds of its measurement, in which models waited for a core.
        suspect: models of the table that are.
        slower_then: how many times as long the machine took for the table as for the whole models beside it, below 1
            where these took longer; these four are told from version 2.2 on.
        not_tried: runtimes that students might have had files for, each with the reason.
        vocabularies: of a plan that chose among several, all of them, the whole one first (these two are told from
            version 2.3 on).
        vocab_size: of the one that was taken, of which all else is told; None of all the teacher's words.
    """

    VERSION: ClassVar[str] = "2.3"

    kind: Literal["plan"] = "plan"
    teacher: str
    teacher_digest: str
    budget: Budget
    limits: dict[str, float] = Field(min_length=1)
    margins: dict[str, float]
    drift: float
    beside_mb: float = 0.0
    measure: MeasureSettings
    scheme: Scheme
    form: str
    target: TargetHost
    reference: Cost | None
    choice: Row
    front: tuple[Row, ...]
    slower: tuple[Slower, ...]
    more: tuple[More, ...]
    checks: tuple[Check, ...]
    error_median: float | None
    error_worst: float | None
    errors_worst: dict[str, float]
    models_measured: int
    remembered: bool
    not_tried: dict[Runtime, str] = Field(default_factory=dict)
    table_age_s: float = 0.0
    disturbed_share: float = 0.0
    suspect: tuple[WrittenShape, ...] = ()
    slower_then: float = 1.0
    vocabularies: tuple[PlannedVocabulary, ...] = ()
    vocab_size: int | None = None
    rows: tuple[Row, ...]

    @field_serializer("budget")
    def _lines(self, budget: Budget) -> dict[str, float | str]:
        return budget.lines()

    @property
    def name(self) -> str:
        """The shape that was chosen, and the size of its vocabulary where that is not the whole one."""
        words = "" if self.vocab_size is None else f", {self.vocab_size:,} words"
        return f"{self.choice.shape.name}{words}"

    @property
    def cost_line(self) -> str:
        """The name of the figure that shapes are drawn against: the budget's first line, or what stands for it."""
        first = next(iter(self.limits))
        return {THROUGHPUT: "latency_p50_ms", DOWNLOAD: "file_mb"}.get(first, first)

    def missed_by(self, row: Row, *, with_room: bool = True) -> list[str]:
        """The lines that a row does not keep, with the room that is left below each limit."""
        batch, beside = self.measure.batch_size, self.beside_mb
        return [
            line
            for line, limit in self.limits.items()
            if used_of(row, line, limit, batch_size=batch, beside_mb=beside) > 1 - self.margins[line] * with_room
        ]

    def row_of(self, shape: Shape) -> Row:
        """The row of a shape; PackageError where the plan has none."""
        found = next((row for row in self.rows if row.shape == shape), None)
        if found is None:
            raise PackageError(f"has no row of {shape.name}", where=PLAN_FILE, hint="plan again")
        return found
