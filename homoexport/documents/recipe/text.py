"""The sections of recipes that say what text there is."""

from __future__ import annotations

from pydantic import Field, model_validator

from homoexport.choices import TextUnit
from homoexport.documents.recipe.sections import Section


class TextSource(Section):
    """One source of text: a dataset on the hub, or files."""

    dataset: str | None = Field(None, description="Name of a dataset on the Hugging Face hub.")
    config: str | None = Field(None, description="Configuration of that dataset.")
    split: str = Field("train", description="Split of that dataset.")
    streaming: bool = Field(False, description="Read that dataset as a stream instead of downloading it.")
    files: str | None = Field(
        None,
        description="Glob of txt, jsonl, csv, tsv or parquet files, plain or compressed, or package:DISTRIBUTION/GLOB.",
    )
    column: str = Field("text", description="Column that holds the text (txt files have only 'text').")
    pair_column: str | None = Field(
        None,
        description="Column of the second text: a query's document (sentence-embedding) or a pair's other half "
        "(classification).",
    )
    label_column: str | None = Field(
        None,
        description="Column of labels, of a teacher with one output scores; without it, the teacher's logits alone are "
        "learned (classification).",
    )
    vector_column: str | None = Field(
        None,
        description="Column of parquet or jsonl files with the vectors that the student is to give, lists of numbers "
        "(sentence-embedding with 'unit: row').",
    )
    unit: TextUnit = Field(
        "sentence",
        description="What one text of sentence-embedding is: a sentence of a row, or the row as it stands (a line of a "
        "txt file), as passages are.",
    )
    weight: float = Field(1.0, gt=0, description="Share of the batches, relative to the other sources' weights.")

    @model_validator(mode="after")
    def _one_origin(self) -> TextSource:
        if (self.dataset is None) == (self.files is None):
            raise ValueError("give either 'dataset' or 'files'")
        if self.streaming and self.dataset is None:
            raise ValueError("'streaming' is for hub datasets")
        if self.vector_column is not None and (self.files is None or self.unit != "row"):
            raise ValueError("'vector_column' is of files, a vector for each row: give 'unit: row'")
        return self


class TextSettings(Section):
    """The text to distil on."""

    sources: tuple[TextSource, ...] = Field(min_length=1, description="Where the text comes from.")
    max_length: int = Field(128, ge=8, le=10**6, description="Tokens of one sequence, special tokens included.")
    min_words: int = Field(3, ge=1, le=10**6, description="Sentences of fewer words are left out (sentence-embedding).")
    held_out: int = Field(
        1000,
        ge=3,
        le=10**9,
        description="Sequences kept for evaluation: none is learned from, and no words are chosen by them.",
    )

    @property
    def paths(self) -> list[str]:
        """Globs of files, and folders or hub names of datasets."""
        return [str(source.files or source.dataset) for source in self.sources]
