"""The sections that say how a model learns from labels."""

from __future__ import annotations

import math
from typing import NamedTuple

from pydantic import Field

from homoexport.choices import OwnTask
from homoexport.documents.evaluation import Columns
from homoexport.documents.recipe.quality import QualitySettings
from homoexport.documents.recipe.sections import Section
from homoexport.documents.recipe.text import TextSettings


class LearningSettings(Section):
    """How a model learns from labels."""

    epochs: float = Field(3.0, gt=0, le=10**6, description="Passes over the examples.")
    batch_size: int = Field(32, ge=1, le=2**20, description="Examples of one step.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate of AdamW; it falls to 0 by the end.")
    warmup: float = Field(0.1, ge=0, le=1, description="Share of the steps in which the rate rises.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay (not on biases and LayerNorms).")
    max_examples: int | None = Field(None, ge=1, description="At most so many examples, drawn by the seed.")
    threads: int | None = Field(None, ge=1, le=4096, description="CPU threads; by default what the cgroup allows.")

    def steps(self, examples: int) -> int:
        """How many so many examples take."""
        return math.ceil(self.epochs * math.ceil(examples / self.batch_size))


class FinetuneSettings(LearningSettings):
    """How to fine-tune on a labelled task."""

    max_length: int = Field(128, ge=8, le=10**6, description="Tokens of one example, special tokens included.")
    teacher_weight: float = Field(
        0.5, ge=0, le=1, description="Weight of the teacher's logits in the loss; the labels have the rest."
    )
    temperature: float = Field(2.0, gt=0, description="Temperature at which a teacher's logits are matched.")
    int8_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Last share of the steps in which int8 is simulated, so that the int8 file may lose less; try 0.3.",
    )


class LabelledFiles(NamedTuple):
    """Files of labelled texts, and the columns that are read."""

    files: str
    columns: Columns


class TeacherSettings(LearningSettings):
    """What the teacher learns before it teaches, where it does not know the labels yet."""

    task: OwnTask = Field("classification", description="What the labels are: names or numbers of classes, or scores.")
    train: str | None = Field(
        None, description="Glob of files to learn from; by default those of the source of text that has labels."
    )
    dev: str | None = Field(None, description="Glob of files to judge the teacher on; by default quality.data.")
    text_column: str | None = Field(None, description="Column of the texts; by default that source's.")
    pair_column: str | None = Field(None, description="Column of the second texts; by default that source's.")
    label_column: str | None = Field(None, description="Column of labels or scores; by default that source's.")
    max_length: int | None = Field(
        None, ge=8, le=10**6, description="Tokens of one example; by default those of the text."
    )

    def data(self, text: TextSettings, quality: QualitySettings | None) -> tuple[LabelledFiles, LabelledFiles]:
        """What to learn from, and what to judge on; the columns of quality's files are quality's.

        Raises:
            ValueError: files that are not named, and that nothing else in the recipe names.
        """
        labelled = [source for source in text.sources if source.files and source.label_column]
        source = (labelled or text.sources)[0]
        files = self.train or source.files
        if self.train is None and len(labelled) != 1:
            found = "no files of text have" if not labelled else f"{len(labelled)} sources of text have"
            raise ValueError(f"{found} labels: name the files to fine-tune on with 'finetune.train'")
        assert files is not None
        columns = Columns(
            text=self.text_column or source.column,
            pair=self.pair_column or source.pair_column,
            label=self.label_column or source.label_column,
        )
        if self.dev is not None:
            return LabelledFiles(files, columns), LabelledFiles(self.dev, columns)
        if quality is None or quality.data is None or quality.task != "classification":
            where = "with 'finetune.dev', or with 'quality.data' where 'quality.task' is classification"
            raise ValueError(f"name the files to judge the fine-tuned teacher on {where}")
        judged = Columns(
            text=quality.text_column or "text", pair=quality.pair_column, label=quality.label_column or "label"
        )
        return LabelledFiles(files, columns), LabelledFiles(quality.data, judged)

    def settings(self, max_length: int) -> FinetuneSettings:
        """As the fine-tuning takes them, of examples of so many tokens where nothing else is said."""
        given = self.model_dump(include=set(LearningSettings.model_fields))
        return FinetuneSettings(**given, max_length=self.max_length or max_length)
