"""What the verbs report while they work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from homoexport.documents.student import StepRecord

if TYPE_CHECKING:
    from homoexport.stages.finetune import FinetuneProgress


@dataclass(frozen=True)
class DistillProgress:
    """A step of a distillation, how many steps there are, and the student's name among several."""

    step: StepRecord
    steps: int
    student: str | None = None


@dataclass(frozen=True)
class Progress:
    """Who is told what; by default nobody.

    Attributes:
        on_stage: the title of a stage, when it begins.
        on_share: what is being done, and the share of the stage that is done.
        on_distill: each step of a distillation, in the first process.
        on_finetune: how far a fine-tuning has come.
    """

    on_stage: Callable[[str], None] = lambda _title: None
    on_share: Callable[[str, float], None] = lambda _what, _share: None
    on_distill: Callable[[DistillProgress], None] = lambda _progress: None
    on_finetune: Callable[[FinetuneProgress], None] = lambda _progress: None


QUIET = Progress()
