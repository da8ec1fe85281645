"""A document of every kind that homoexport reads again, as full as one may be, each with its reader."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from homoexport.documents.artifact import (
    DistilledManifest,
    FinetunedManifest,
    Manifest,
    PackageManifest,
    TrimmedManifest,
    read_manifest,
    write_manifest,
)
from homoexport.documents.budget import BudgetVerdict
from homoexport.documents.document import Document, read_document, to_json
from homoexport.documents.evaluation import (
    Columns,
    DataDigest,
    Evaluation,
    FineTunedRun,
    FineTuning,
    JudgedData,
    JudgedModel,
    MetricOverSeeds,
    PackageQuality,
    QualityFigure,
    RunQuality,
)
from homoexport.documents.measurement import Grid
from homoexport.documents.pace import BestPace
from homoexport.documents.package import CandidateFigures, OrtFormat, PackedTokenizer, TimedAt, TokenizerKind
from homoexport.documents.plan import Cost, MeasuredTable, PlanMemory, ShapeCost, TeacherSensitivity
from homoexport.documents.recipe import FinetuneSettings, Recipe, parse_as, read_recipe_tree
from homoexport.documents.release import Release, ReleaseLine
from homoexport.documents.run_folder import RunMark
from homoexport.documents.student import (
    FinetunedDetails,
    TrimmedDetails,
    read_log,
)
from homoexport.documents.summary import Floors, Summary
from homoexport.documents.vocabulary import SplitTexts, VocabularyDescription
from tests.report.conftest import log_line, two_packages, typed
from tests.samples import student_details
from tests.stages.measure.tiny_onnx import write_package
from tests.stages.plan.test_choice import ROWS, plan

_ROOT = Path(__file__).parents[2]
_DIGEST = "ab" * 32
_FIGURE = QualityFigure(metric="accuracy", value=0.9, interval=(0.8, 1.0), texts=10)
_RUN = FineTunedRun(
    task="a task",
    seed=1,
    examples=8,
    of_examples=10,
    trained_on=DataDigest(source="train.tsv", digest=_DIGEST),
    judged_on={"dev": DataDigest(source="dev.tsv", digest=_DIGEST)},
    teacher="a teacher",
    teacher_digest=_DIGEST,
    judged={"dev": (_FIGURE,)},
)
_VERDICT = BudgetVerdict(line="quality", limit=0.9, measured=0.95, interval=(0.9, 1.0), kept=True)
Good = tuple[Path, Callable[[Path], object]]


def good_documents(folder: Path) -> dict[str, Good]:
    """Each in a file, by its kind; what its reader needs beside it is its content alone."""
    read_parts: dict[str, type[Manifest]] = {
        "package": PackageManifest,
        "student": DistilledManifest,
        "fine-tuned model": FinetunedManifest,
        "trimmed model": TrimmedManifest,
        "measured": Manifest,
    }
    _write_artifacts(folder)
    good: dict[str, Good] = {
        f"manifest, {name}": (folder / name / "manifest.json", partial(_manifest, form=form))
        for name, form in read_parts.items()
    }
    for name, document in _documents().items():
        path = folder / name
        path.write_text(to_json(document))
        good[name] = path, partial(read_document, kind=type(document))
    log = folder / "log.jsonl"
    log.write_text("".join(log_line(step).model_dump_json() + "\n" for step in range(5)))
    return good | {"log.jsonl": (log, read_log)}


def _manifest(path: Path, form: type[Manifest]) -> object:
    return read_manifest(path.parent, form)


def _documents() -> dict[str, Document]:
    recipe = parse_as(Recipe, read_recipe_tree(_ROOT / "recipes" / "quickstart.yaml"), where="recipe")
    measurement = typed(two_packages())
    data = JudgedData(source="a.tsv", examples=10, digest=_DIGEST, drawn=5)
    model = JudgedModel(model="m", runtime="torch", precision="fp32", digest=_DIGEST, metrics=(_FIGURE,))
    quality = PackageQuality(package="0-teacher", **vars(_FIGURE))
    whole = ShapeCost.of(ROWS[0].shape, ROWS[0])
    table = MeasuredTable(batch_size=1, length=16, measured=(whole,), pace_ms=1.0, drift=0.01)
    over_seeds = MetricOverSeeds(task="a task", metric="accuracy", median=0.9, low=0.8, high=1.0, seeds=3)
    return {
        "run.json": RunMark(kind="run", homoexport="1", work=_DIGEST, recipe=recipe, seconds={"plan": 1.0}),
        "plan.json": plan(latency_p50_ms=6.5, file_mb=10),
        "memory.json": PlanMemory(
            form="standard", table=table, reference=Cost(**whole.figures), whole=(whole,), alone=(whole,)
        ),
        "pace.json": BestPace(spin_p50_us=500.0, reached_at=1.7e9),
        "sensitivity.json": TeacherSensitivity(
            hidden_sizes=(2, 4),
            ffn_sizes=(8,),
            head_shapes=((2, 2),),
            outside=(0.5, 1.0),
            rest=((0.5, 1.0),),
            attention=(((0.5,), (1.0,)),),
            ffn=(((0.5,), (1.0,)),),
        ),
        "summary.json": read_document(_ROOT / "docs" / "quickstart-summary.json", Summary),
        "floors.json": Floors(verdicts=(_VERDICT,)),
        "quality.json": RunQuality(teacher=quality, student=quality),
        "measurement.json": measurement,
        "grid.json": Grid(cells=(measurement,)),
        "release.json": Release(
            verdict="kept",
            baseline="a",
            package="b",
            device="cpu",
            threads=1,
            batch_size=1,
            length=16,
            lines=(
                ReleaseLine(
                    line="file_mb", baseline=2, package=1, ratio=0.5, interval=(0.4, 0.6), allowed=1.1, kept=True
                ),
            ),
            broken=(),
            remarks=("quiet",),
        ),
        "evaluation.json": Evaluation(
            task="classification",
            teacher="a teacher",
            teacher_digest=_DIGEST,
            seed=1,
            columns=Columns(text="text", label="label"),
            data=data,
            train=data,
            results=(model,),
        ),
        "fine-tuning.json": FineTuning(model="m", runs=(_RUN,), summary=(over_seeds,), skipped={"b": "no data"}),
    }


def _write_artifacts(folder: Path) -> None:
    package = write_package(folder / "package")
    details = read_manifest(package, PackageManifest).details
    for name in ("packed.onnx", "model.ort", "operators.config"):
        (package / name).write_bytes(b"")
    candidate = CandidateFigures(
        name="int8",
        full_name="unfused-int8",
        precision="int8",
        embeddings="fp32",
        calibration="min-max",
        kept_in_fp32=("a product",),
        file_bytes=10,
        latency_p50_ms=1.0,
        round=1,
        parity=details.parity,
        parity_on_target=details.parity,
    )
    packed = PackedTokenizer(
        file="packed.onnx",
        input="text",
        onnxruntime_extensions="0.14",
        operators=("BertTokenizer",),
        strings=2,
        equal=1,
        differing_kinds=("emoji",),
        kinds={"emoji": TokenizerKind(strings=1, equal=0)},
    )
    more = {
        "candidates": (candidate,),
        "refused": {"fp16": "slower"},
        "left_out": {"int4": "no such operator"},
        "quality": {"int8": _VERDICT},
        "timed_at": TimedAt(device="cpu", cpu="a CPU", threads=1, batch_size=1, length=16),
        "with_tokenizer": packed,
        "ort_format": OrtFormat(file="model.ort", operators="operators.config"),
    }
    write_manifest(package, "package", details=details.model_copy(update=more))
    tuned = FinetunedDetails(
        task="text-classification",
        teacher="a student",
        family="bert",
        parameters=10,
        steps=3,
        seconds=1.0,
        labels=("no", "yes"),
        taught=True,
        finetune=FinetuneSettings(),
        finetuned=_RUN,
    )
    split = SplitTexts(texts=10, same=0.9, tokens_before=8.0, tokens_after=8.5, unknown_more=0)
    trimmed = TrimmedDetails(
        task="sentence-similarity",
        teacher="a teacher",
        family="bert",
        parameters=10,
        steps=0,
        seconds=1.0,
        text=student_details().text,
        vocabulary=VocabularyDescription(before=9, after=7, essential=5, in_text=6, held_out=split, awkward=split),
    )
    for name, kind, told in (
        ("student", "student", student_details()),
        ("fine-tuned model", "model", tuned),
        ("trimmed model", "student", trimmed),
        ("measured", "measurement", None),
    ):
        (folder / name).mkdir()
        (folder / name / "a file").write_text("a")
        write_manifest(folder / name, kind, details=told)
