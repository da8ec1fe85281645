"""What is kept of a student: the steps of its distillation, and what its manifest says of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field, ValidationError

from homoexport.choices import Method, ModelTask, Objective, Side
from homoexport.documents.document import Figures, first_fault
from homoexport.documents.evaluation import FineTunedRun
from homoexport.documents.recipe import FinetuneSettings
from homoexport.documents.vocabulary import VocabularyDescription
from homoexport.errors import PackageError, refusing
from homoexport.shape import WrittenShape


class WidthFigures(Figures):
    """Widths and depth of a student on its way; `num_attention_heads` is the mean over the layers."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: float
    head_dim: int
    num_hidden_layers: int


class SourceDescription(Figures):
    """One source of text; of a streamed one the numbers of rows and sequences are not known."""

    source: str
    weight: float
    rows: int | None = None
    sequences: int | None = None


class VectorsDescription(Figures):
    """Vectors that teach in place of the teacher's: the model, the npy file or the text with a column of them, and the
    digest of the model's weights, of the file, or of the vectors."""

    source: str
    width: int
    digest: str


class CorpusDescription(Figures):
    """The text of a distillation; `digest` is that of its training and its held-out sequences."""

    streamed: bool
    sources: tuple[SourceDescription, ...]
    max_length: int
    sequences: int | None
    tokens: int | None
    held_out: int
    digest: str
    vectors: VectorsDescription | None = None


class _Details(Figures):
    """What is said of every student and fine-tuned model, with what it was made of and the seconds that this took.

    `vocabulary` is that of a model that was trimmed, or that is made of one that was.
    """

    task: ModelTask
    teacher: str
    family: str
    parameters: int
    steps: int
    seconds: float
    vocabulary: VocabularyDescription | None = None


Bits = Annotated[str, Field(pattern="^(?:[0-9a-f]{2})*$")]


def bits_of(places: Iterable[int], count: int) -> Bits:
    """Places among so many as bits in hex, the first place the highest bit.

    >>> bits_of([0, 3, 8], 10)
    '9080'
    """
    found = bytearray(-(-count // 8))
    for place in places:
        found[place // 8] |= 128 >> place % 8
    return found.hex()


def places_in(bits: Bits, count: int) -> list[bool]:
    """For each of so many places, whether its bit is set; see `bits_of`."""
    found = bytes.fromhex(bits).ljust(-(-count // 8), b"\0")
    return [bool(found[place // 8] & 128 >> place % 8) for place in range(count)]


class KeptLayer(Figures):
    """What a student has of one of the teacher's layers, counted from 0; see `KeptNeurons`."""

    layer: int
    query_key: Bits
    value_out: Bits
    ffn: Bits


class KeptNeurons(Figures):
    """Which of the teacher's neurons a student has, by their places in the teacher, as `bits_of` writes them.

    `hidden` are dimensions of the residual stream; those of attention are of all heads, one head after the other.
    """

    hidden: Bits
    layers: tuple[KeptLayer, ...]


class DistilledDetails(_Details):
    """A student that was distilled: its teacher, its size, its text and its loss.

    `kept` is told from version 2.5 of the manifest on, where the student is what is left of its teacher.
    """

    made_by: Literal["distilling"] = "distilling"
    teacher_weights_sha256: str
    embedding_parameters: int
    backbone_parameters: int
    teacher_parameters: int
    teacher_widths: WidthFigures | None = None
    widths: WrittenShape
    output: Side = "student"
    method: Method
    objective: Objective
    processes: int
    text: CorpusDescription
    held_out_loss: float
    kept: KeptNeurons | None = None


class StepRecord(Figures):
    """One step: a line of `log.jsonl`. `gap` is the weighted sum of the terms that compare student and teacher, before
    the update.

    A step whose loss is no number is made, too, so that the run can say so; it is not written.
    """

    model_config = ConfigDict(allow_inf_nan=True)

    step: int
    loss: float
    terms: dict[str, float]
    gap: float
    widths: WidthFigures
    parameters: int
    learning_rate: float
    pruned: bool
    seconds: float


def read_log(path: Path) -> tuple[StepRecord, ...]:
    """The steps of a distillation, from its `log.jsonl`.

    Raises:
        PackageError: the file is missing or empty, or a line of it is no step.
    """
    hint = "name the folder of a finished run"
    if not path.is_file():
        raise PackageError("is missing", where=str(path), hint=hint)
    with refusing(PackageError, "cannot be read", where=str(path), hint=hint):
        lines = path.read_text(encoding="utf-8").splitlines()
    try:
        log = tuple(StepRecord.model_validate_json(line) for line in lines)
    except ValidationError as error:
        what = f"holds a line that is no step of a distillation ({first_fault(error)})"
        raise PackageError(what, where=str(path), hint="run the recipe again") from None
    if not log:
        raise PackageError("is empty", where=str(path), hint="run the recipe again")
    return log


class FinetunedDetails(_Details):
    """A model that was fine-tuned, be it a student or a teacher: its labels, and how it does on its task."""

    made_by: Literal["fine-tuning"] = "fine-tuning"
    labels: tuple[str, ...]
    taught: bool
    finetune: FinetuneSettings
    finetuned: FineTunedRun


class TrimmedDetails(_Details):
    """A model that is its teacher with fewer words; nothing was trained."""

    made_by: Literal["trimming"] = "trimming"
    text: CorpusDescription
    vocabulary: VocabularyDescription


StudentDetails: TypeAlias = Annotated[
    DistilledDetails | FinetunedDetails | TrimmedDetails, Field(discriminator="made_by")
]
