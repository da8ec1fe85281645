"""A run in figures: what `summary.json` holds."""

from __future__ import annotations

from typing import ClassVar

from homoexport.choices import Runtime, Side
from homoexport.documents.budget import BudgetVerdict
from homoexport.documents.document import Document, Figures
from homoexport.documents.evaluation import PackageQuality
from homoexport.documents.measurement import Interval
from homoexport.documents.plan import Row
from homoexport.host import MeasuredHost
from homoexport.shape import WrittenShape


class Floors(Document):
    """What the student's package was judged to be against the floor of quality (`floors.json`), where there is one."""

    VERSION: ClassVar[str] = "1.2"

    verdicts: tuple[BudgetVerdict, ...]


class ModelFigures(Figures):
    """The teacher's package or the student's; None for what was not measured, as the teacher does not fit there."""

    name: str
    precision: str
    runtime: Runtime = "onnxruntime"  # all ran in it before version 2.2
    parameters: int
    file_bytes: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    peak_rss_mb: float | None
    quality: float


class Ratios(Figures):
    """How many times smaller or faster the student is; latencies are not compared under an emulator."""

    parameters: float
    file_bytes: float
    peak_rss_mb: float | None
    latency_p50_ms: float | None
    latency_p50_interval: Interval | None


class QualityOfBoth(Figures):
    """The quality of both packages on the same held-out text."""

    teacher: PackageQuality
    student: PackageQuality


class MeasuredConditions(Figures):
    """Under which conditions both packages were measured."""

    device: str
    emulated: bool = False
    threads: int
    batch_size: int
    length: int


class Turn(Figures):
    """A shape that was distilled, exported and measured, in a folder of the run's.

    Steps and seconds count from the teacher on. `planned` is what the plan says of the shape, `planned_lines` the same
    by the lines of the budget. There are no verdicts where the target cannot hold the package.
    """

    shape: WrittenShape
    folder: str
    steps: int
    seconds: float
    planned: Row
    planned_lines: dict[str, float]
    budget: tuple[BudgetVerdict, ...]


class PlannedTurns(Figures):
    """How a shape was found that was not given: what was planned, every turn, and a wider shape that would fit, too."""

    limits: dict[str, float]
    choice: Row
    front: tuple[Row, ...]
    turns: tuple[Turn, ...]
    wider: Row | None


class Summary(Document):
    """Teacher against student, the budget's verdicts (those on quality last), and how they came about.

    `quality_metric` is what `quality` of both models is, `quality_detail` the same with its interval; both are held
    against `vectors_from`, the second model that taught the vectors, where there is one. A student that answers in the
    teacher's space searches the teacher's documents (`quality_documents`), else its own. `budget_kept` is False where a
    line is missed, None where none is but one is too noisy to call. `seconds` are the stages' wall time;
    there is a `plan` where the shape was not given; `host` and `versions` are those of what was measured on.
    """

    VERSION: ClassVar[str] = "2.3"

    name: str
    teacher: ModelFigures
    student: ModelFigures
    ratios: Ratios
    quality_metric: str
    quality_detail: QualityOfBoth
    quality_documents: Side = "student"
    vectors_from: str | None = None
    budget: tuple[BudgetVerdict, ...]
    budget_kept: bool | None
    recipe_digest: str
    seconds: dict[str, float]
    plan: PlannedTurns | None = None
    measured: MeasuredConditions
    host: MeasuredHost | None
    versions: dict[str, str]
