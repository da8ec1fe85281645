"""What can be said of a run before it begins: what it will work on, and how long it will take."""

from __future__ import annotations

from pydantic import Field

from homoexport.choices import Method, ModelTask, Objective, OwnTask
from homoexport.documents.document import Figures
from homoexport.shape import WrittenShape


class SourceFound(Figures):
    """A source of text: its files, its columns by what they are for, and its first rows as they were read.

    `sequences` are those of the whole source, about; None where nobody knows before all of it is read.
    """

    source: str
    files: int | None
    columns: dict[str, str]
    sequences: int | None
    rows: tuple[dict[str, str], ...]


class Learning(Figures):
    """What the teacher is to learn first: from which files, how many of their examples, and in how many steps.

    `labels` say how many of the examples each has; scores have none.
    """

    task: OwnTask
    train: str
    dev: str
    labels: dict[str, int]
    examples: int
    of_examples: int
    steps: int
    batch_size: int


class RunTime(Figures):
    """About how long a run takes, by its stages; `basis` says what was measured, and where the rest is from.

    `turn` is what each further turn of a planned student takes, which there is where its package misses the budget.
    """

    seconds: dict[str, float]
    turn: float | None
    basis: str

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


class Outlook(Figures):
    """A run that can be done, as far as can be known before it begins.

    The student's shape is None where it is still to be planned, with all words or one of the `vocab_sizes`, and that of
    the widest of several `students`; `budget`, `budgets` and `quality` are as the recipe has them. Figures of the disk
    are those of where the run's folder will lie; what is needed there is needed at least.
    """

    recipe: str
    teacher: str
    task: ModelTask
    family: str
    teacher_shape: WrittenShape
    teacher_parameters: int
    finetuning: Learning | None = None
    text: tuple[SourceFound, ...]
    max_length: int
    tokens: float
    held_out: int
    objective: Objective
    method: Method
    steps: int
    batch_size: int
    student_shape: WrittenShape | None
    student_parameters: int | None
    vocab_sizes: tuple[int, ...] = ()
    students: dict[str, WrittenShape] = Field(default_factory=dict)
    device: str
    threads: int | None
    workload: tuple[int, int]
    budget: dict[str, float | str]
    budgets: dict[str, dict[str, float | str]] = Field(default_factory=dict)
    quality: str | None
    disk_needed_bytes: int
    disk_free_bytes: int
    time: RunTime | None
