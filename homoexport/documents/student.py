"""What a student's manifest says of it: how it was distilled, or fine-tuned."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from homoexport.choices import Method, ModelTask, Objective
from homoexport.documents.document import Figures
from homoexport.documents.evaluation import FineTunedRun
from homoexport.documents.recipe import FinetuneSettings
from homoexport.shape import WrittenShape

HELD_OUT = "held_out.txt"  # in a student's folder: text that it was not trained on, a line each


class SourceDescription(Figures):
    """One source of text; of a streamed one the numbers of rows and sequences are not known."""

    source: str
    weight: float
    rows: int | None = None
    sequences: int | None = None


class CorpusDescription(Figures):
    """The text of a distillation; `digest` is that of its training and its held-out sequences."""

    streamed: bool
    sources: tuple[SourceDescription, ...]
    max_length: int
    sequences: int | None
    tokens: int | None
    held_out: int
    digest: str


class DistilledDetails(Figures):
    """A student that was distilled: its teacher, its size, its text and its loss."""

    made_by: Literal["distilling"] = "distilling"
    task: ModelTask
    teacher: str
    teacher_weights_sha256: str
    family: str
    parameters: int
    embedding_parameters: int
    backbone_parameters: int
    teacher_parameters: int
    widths: WrittenShape
    method: Method
    objective: Objective
    steps: int
    processes: int
    text: CorpusDescription
    held_out_loss: float
    seconds: float


class FinetunedDetails(Figures):
    """A student that was fine-tuned: the model it was made of, its labels, and how it does on its task."""

    made_by: Literal["fine-tuning"] = "fine-tuning"
    task: ModelTask
    teacher: str
    family: str
    parameters: int
    labels: tuple[str, ...]
    steps: int
    taught: bool
    finetune: FinetuneSettings
    seconds: float
    finetuned: FineTunedRun


StudentDetails: TypeAlias = Annotated[DistilledDetails | FinetunedDetails, Field(discriminator="made_by")]
