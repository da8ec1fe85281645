"""The section of recipes that says how good a package must be."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, field_validator, model_validator

from homoexport.choices import EVALUATION_TASKS, GLUE_TASKS, LABELLED_TASKS, JudgedTask
from homoexport.documents.recipe.sections import Section

_FLOOR = re.compile(r"\d+(\.\d+)?%?")


class QualitySettings(Section):
    """How good the package must be, and on what: what `homoexport eval` takes, and a floor."""

    task: JudgedTask = Field(
        "fidelity",
        description=f"As of `homoexport eval`: {', '.join(EVALUATION_TASKS)}, or one of GLUE's.",
    )
    data: str | None = Field(
        None,
        description="Glob of files, or package:DISTRIBUTION/GLOB; by default held-out text (fidelity, masked-lm).",
    )
    data_dir: str | None = Field(None, description="Folder of GLUE's files; without it the hub is asked.")
    text_column: str | None = Field(None, description="Column of the texts.")
    pair_column: str | None = Field(None, description="Column of the second texts.")
    label_column: str | None = Field(None, description="Column of labels or scores.")
    metric: str | None = Field(None, description="Which of the task's metrics is judged; by default the first.")
    floor: str = Field(
        examples=["95%"],
        description="Floor under quality: a figure, such as 0.8, or a share of the teacher's figure, such as 95%.",
    )

    @field_validator("floor", mode="before")
    @classmethod
    def _as_text(cls, floor: Any) -> Any:
        return str(floor) if isinstance(floor, int | float) and not isinstance(floor, bool) else floor

    @model_validator(mode="after")
    def _sense(self) -> QualitySettings:
        if not _FLOOR.fullmatch(self.floor):
            raise ValueError(f"'{self.floor}' is no floor: write a figure such as 0.8, or a share such as 95%")
        if self.level > 1 and not self.relative:
            percent = f"; write {self.level:g}%" if self.level <= 100 else ""
            raise ValueError(f"no figure can reach a floor of {self.floor}, for {self.floor} is more than 1{percent}")
        if self.level > 1 and self.task == "fidelity":
            raise ValueError(f"nothing is as faithful as {self.floor}: a teacher is to itself as 100%")
        if self.task in GLUE_TASKS:
            given = {"data", "text_column", "pair_column", "label_column"} & self.model_fields_set
            if given:
                raise ValueError(f"'{min(given)}' is not for {self.task}; its files are in 'data_dir'")
        elif self.data_dir is not None:
            raise ValueError(f"'data_dir' is for GLUE's tasks, not for {self.task}")
        elif self.data is None and self.task in LABELLED_TASKS:
            raise ValueError(f"{self.task} is judged on files: name them with 'data'")
        return self

    @property
    def relative(self) -> bool:
        """Whether the floor is a share of the teacher's figure."""
        return self.floor.endswith("%")

    @property
    def level(self) -> float:
        """The floor's figure, or the teacher's share of 1."""
        return float(self.floor.removesuffix("%")) / (100 if self.relative else 1)
