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
    """A step of a distillation, how many steps there are, the texts of each, and the student's name among several."""

    step: StepRecord
    steps: int
    batch_size: int
    student: str | None = None


@dataclass(frozen=True)
class EmbedProgress:
    """Texts that are done, in so many seconds, and about how many there are, where that is known."""

    texts: int
    about: int | None
    seconds: float


@dataclass(frozen=True)
class Progress:
    """Who is told what; by default nobody.

    A stage is told by its title, when it begins; a share by what is being done, and how much of it is done, 0 to 1.
    A note is a line of its own. Steps of a distillation are told in the first process alone.
    """

    on_stage: Callable[[str], None] = lambda _title: None
    on_share: Callable[[str, float], None] = lambda _what, _share: None
    on_note: Callable[[str], None] = lambda _line: None
    on_distill: Callable[[DistillProgress], None] = lambda _progress: None
    on_finetune: Callable[[FinetuneProgress], None] = lambda _progress: None
    on_embed: Callable[[EmbedProgress], None] = lambda _progress: None


QUIET = Progress()
