"""What models were judged to be: `eval`'s figures, a run's quality, and fine-tuned models."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from homoexport.choices import AskedTask, Runtime, Side
from homoexport.documents.document import Document, Figures

EVALUATION_FILE = "evaluation.json"
QUALITY_FILE = "quality.json"
FINE_TUNING_FILE = "summary.json"

FEWEST_JUDGED = 30  # queries of an interval, examples or queries of a verdict: resamples of fewer know too little


class QualityFigure(Figures):
    """One metric of one model, and how much it was taken from; JSON leaves out what does not apply.

    `interval` is of 95 %. There is none of fewer than 30 queries, nor of the benchmark of MTEB, which says which
    `score` of a task its figure is.
    `dimensions` are the numbers that vectors were cut to.
    """

    metric: str
    value: float
    interval: tuple[float, float] | None = None
    score: str | None = None
    texts: int | None = None
    pairs: int | None = None
    queries: int | None = None
    documents: int | None = None
    decisions: int | None = None
    sequences: int | None = None
    masked_tokens: int | None = None
    words: int | None = None
    words_cut_off: int | None = None
    dimensions: int | None = None
    probe_trained_on: int | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        return {name: value for name, value in handler(self).items() if value is not None}


class JudgedModel(Figures):
    """A model's figures, with what it is."""

    model: str
    runtime: Literal["torch", Runtime]
    precision: str
    digest: str
    metrics: tuple[QualityFigure, ...]


class JudgedData(Figures):
    """What models were judged on, or trained on; `drawn` is how many of the examples were taken, by the seed."""

    source: str
    examples: int
    digest: str
    drawn: int


class BenchmarkData(Figures):
    """Tasks of a benchmark that brings its own data."""

    source: Literal["MTEB"] = "MTEB"
    tasks: tuple[str, ...]


class Columns(Figures):
    """The columns that were read, None where there was none to name."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None


class Evaluation(Document):
    """Models judged side by side on the same data, as `evaluation.json` keeps them."""

    VERSION: ClassVar[str] = "1.1"

    task: AskedTask
    teacher: str | None = None
    teacher_digest: str | None = None
    documents: str | None = None
    documents_digest: str | None = None
    seed: int
    columns: Columns = Columns()
    data: JudgedData | BenchmarkData
    train: JudgedData | None = None
    results: tuple[JudgedModel, ...]


class PackageQuality(QualityFigure):
    """A package's one figure on held-out text."""

    package: str


class RunQuality(Document):
    """The quality of a run's two packages on the same held-out text, as `quality.json` keeps it.

    `documents` says whose vectors the student's search.
    """

    VERSION: ClassVar[str] = "1.1"

    teacher: PackageQuality
    student: PackageQuality
    documents: Side = "student"


class DataDigest(Figures):
    """Where examples came from, and the sha256 of texts and labels."""

    source: str
    digest: str


class FineTunedRun(Figures):
    """One training on one task: what it learned from, and its figures by the name of the judged split.

    `columns` are those of the user's own files; GLUE's have theirs.
    """

    task: str
    seed: int
    examples: int
    of_examples: int
    trained_on: DataDigest
    judged_on: dict[str, DataDigest]
    columns: Columns = Columns()
    teacher: str | None
    teacher_digest: str | None
    judged: dict[str, tuple[QualityFigure, ...]]


class MetricOverSeeds(Figures):
    """Median, lowest and highest of one metric over the seeds."""

    task: str
    metric: str
    median: float
    low: float
    high: float
    seeds: int


class FineTuning(Document):
    """A model fine-tuned on tasks, as `summary.json` keeps it; `skipped` says why tasks were left out."""

    VERSION: ClassVar[str] = "1.1"

    model: str
    runs: tuple[FineTunedRun, ...]
    summary: tuple[MetricOverSeeds, ...]
    skipped: dict[str, str] = Field({})
