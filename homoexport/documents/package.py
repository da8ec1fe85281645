"""What a package's manifest says of its model."""

from __future__ import annotations

from pydantic import ConfigDict, model_validator

from homoexport.choices import ModelTask, WeightPrecision
from homoexport.documents.document import Figures


class PackageDetails(Figures):
    """What an export has to say: the fields that inference needs, and the export's own figures beside them."""

    model_config = ConfigDict(extra="allow")

    model_file: str
    task: ModelTask
    precision: WeightPrecision
    parameters: int
    max_length: int
    vocab_size: int
    pad_token_id: int
    labels: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _classifiers_have_labels(self) -> PackageDetails:
        if self.task.endswith("-classification") and self.labels is None:
            raise ValueError("a classifier's labels are missing")
        return self
