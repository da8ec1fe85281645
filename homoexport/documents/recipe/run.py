"""Whole recipes: of a run, and of fine-tuning."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import Field, field_validator, model_validator

from homoexport.choices import Side
from homoexport.documents.budget import Budget
from homoexport.documents.document import digest_of
from homoexport.documents.recipe.finetuning import FinetuneSettings, TeacherSettings
from homoexport.documents.recipe.quality import QualitySettings
from homoexport.documents.recipe.sections import (
    NAME,
    SEED_STUDENTS,
    DistillSettings,
    ExportSettings,
    MeasureSettings,
    Section,
    StudentShape,
    VocabularySettings,
)
from homoexport.documents.recipe.text import TextSettings
from homoexport.errors import RecipeError
from homoexport.shape import PartialShape

_OF_THE_RUN = {  # see `layout`
    *("trackers", "run.json", "report.html", "0-finetuned", "0-teacher", "1-students", "3-measured"),
}

Tree: TypeAlias = dict[str, Any]  # a recipe, or a part of one, before it is parsed


class Recipe(Section):
    """A whole run."""

    name: str = Field("run", pattern=NAME, description="Name of the run's folder.")
    teacher: str = Field(description="Hub name, folder, or package:DISTRIBUTION/PATH.")
    finetune: TeacherSettings | None = Field(
        None, description="What the teacher learns first, where it does not know the labels yet (classification)."
    )
    text: TextSettings = Field(description="The text to distil on.")
    student: StudentShape | None = Field(
        None, description="The student's shape; without one, it is planned for the budget."
    )
    students: tuple[StudentShape, ...] = Field(
        (),
        description="Several students out of one run, the widest first: shapes, or HomoBERT's names "
        "(base, small, xsmall, tiny).",
    )
    vocabulary: VocabularySettings | None = Field(
        None,
        description="Which pieces of the tokenizer stay, where the student is to have fewer than its teacher, or may.",
    )
    distill: DistillSettings = Field(description="How to distil.")
    export: ExportSettings = Field(ExportSettings(), description="How to export and quantize.")
    measure: MeasureSettings = Field(MeasureSettings(), description="Where and how to measure.")
    budget: Budget = Field(Budget(), description="What the deployment allows.")
    budgets: dict[Annotated[str, Field(pattern=NAME)], Budget] = Field(
        {}, description="Several budgets by their names, in place of one: a student is planned for each."
    )
    quality: QualitySettings | None = Field(None, description="How good the package must be.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of everything that is random.")

    @field_validator("students", mode="before")
    @classmethod
    def _named(cls, students: Any) -> Any:
        if not isinstance(students, list | tuple):
            return students
        for student in students:
            if isinstance(student, str) and student not in SEED_STUDENTS:
                raise ValueError(f"no student is named '{student}'; named are: {', '.join(SEED_STUDENTS)}")
        return [SEED_STUDENTS[student] if isinstance(student, str) else student for student in students]

    @model_validator(mode="before")
    @classmethod
    def _path_of_several(cls, given: Any) -> Any:
        """Several students branch off where a path of widths passes theirs."""
        distill = given.get("distill") if isinstance(given, dict) and given.get("students") else None
        return {**given, "distill": {"method": "homodistil", **distill}} if isinstance(distill, dict) else given

    @model_validator(mode="after")
    def _student_or_students(self) -> Recipe:
        if self.student is not None and self.students:
            raise ValueError("give either 'student' or 'students'")
        if self.is_planned and not self.budget.lines() and not self.budgets:
            raise ValueError(
                "give either 'student' or 'students' (flags like --hidden-size shape the student), or a 'budget' to "
                "plan for"
            )
        if self.is_planned and self.distill.method not in ("homodistil", "one-shot"):
            raise ValueError(
                f"a planned student is pruned on where it misses its budget, which distill.method "
                f"'{self.distill.method}' cannot be: leave the method out, or name a 'student'"
            )
        if self.student is not None and (ignored := self.student.model_fields_set & {"name", "finish"}):
            raise ValueError(f"student.{ignored.pop()} is for one of several 'students'")
        if self.is_planned and self.vocabulary is not None and not self.vocab_sizes:
            raise ValueError(
                "'vocabulary' of a student that is planned needs 'sizes' to choose among: give them, or name a "
                "'student', or trim the teacher first (homoexport trim) and name the trimmed one as 'teacher'"
            )
        if self.vocab_sizes and not self.is_planned:
            raise ValueError(
                "'vocabulary.sizes' are for a plan to choose among: leave 'student' and 'students' out, or give the "
                "student's vocab_size in their place"
            )
        if len({student.vocab_size for student in self.students}) > 1:
            raise ValueError("'students' of one run have the same words: give all one vocab_size")
        return self

    @model_validator(mode="after")
    def _one_budget_or_several(self) -> Recipe:
        if self.budgets and self.budget.lines():
            raise ValueError("give either 'budget' (flags like --latency-p95 are of it) or 'budgets'")
        if self.budgets and not self.is_planned:
            raise ValueError("a student is planned for each of 'budgets': leave 'student' and 'students' out")
        if empty := [name for name, budget in self.budgets.items() if not budget.lines()]:
            raise ValueError(f"budgets.{empty[0]} has no line to plan for, such as latency_p95_ms")
        return self

    @model_validator(mode="after")
    def _names_of_folders(self) -> Recipe:
        """Of several students or budgets."""
        names = [*(student.name for student in self.students), *self.budgets]
        if None in names or len({str(name).lower() for name in names}) < len(names):
            raise ValueError(f"each of '{'students' if self.students else 'budgets'}' needs a name of its own")
        if taken := {str(name).lower() for name in names} & _OF_THE_RUN:
            raise ValueError(f"'{taken.pop()}' is a name of the run's own; take another")
        return self

    @model_validator(mode="after")
    def _something_to_finetune_on(self) -> Recipe:
        if self.finetune is None:
            return self
        if self.distill.objective != "classification":
            raise ValueError(
                f"'finetune' makes a text classifier of the teacher, and distill.objective is {self.distill.objective}"
            )
        self.finetune.data(self.text, self.quality)
        return self

    @property
    def is_planned(self) -> bool:
        """Whether the student's shape is to be found: the largest that the budget allows."""
        return self.student is None and not self.students

    @property
    def output(self) -> Side:
        """Whose space a student is judged in: a planned one answers in its own, and where vectors beside the text
        taught it, there is no model of theirs.
        """
        beside = self.distill.vectors_file or any(source.vector_column for source in self.text.sources)
        return "student" if self.is_planned or beside else self.shapes[0].output

    @property
    def shapes(self) -> tuple[StudentShape, ...]:
        """The students that are asked for, the widest first; none where one is to be planned."""
        return self.students if self.student is None else (self.student,)

    @property
    def parts(self) -> tuple[Recipe, ...]:
        """Of several students or budgets the recipe of each alone, under its name, in their order; else none."""
        parts: list[Tree] = [{"name": name, "budget": budget, "budgets": {}} for name, budget in self.budgets.items()]
        parts += [{"name": student.name, "student": student.alone, "students": ()} for student in self.students]
        return tuple(self.model_copy(update=part) for part in parts)

    @property
    def vocab_sizes(self) -> tuple[int, ...]:
        """The vocabularies that a plan chooses among, besides the whole one."""
        return () if self.vocabulary is None else self.vocabulary.sizes

    def vocabulary_with(self, size: int | None) -> VocabularySettings | None:
        """What chooses the words of a student that has so many; a planned one may have all of them."""
        return None if self.is_planned and size is None else self.vocabulary

    def digest(self) -> str:
        """Hex sha256 of the recipe's content."""
        return digest_of(self.model_dump(mode="json"))


_RUN_FIELDS = frozenset(Recipe.model_fields)


class RecipePart(Section):
    """What one stage takes of a run's recipe."""

    @classmethod
    def part_of(cls, tree: Tree) -> Tree:
        """A recipe's tree without what the stage does not need; unknown keys stay, to be refused."""
        return {name: value for name, value in tree.items() if name in cls.model_fields or name not in _RUN_FIELDS}


class PlanRecipe(RecipePart):
    """What a plan takes of a run's recipe."""

    teacher: str = Field(description="Hub name, folder, or package:DISTRIBUTION/PATH.")
    text: TextSettings | None = None
    distill: DistillSettings | None = None
    export: ExportSettings = ExportSettings()
    measure: MeasureSettings = MeasureSettings()
    budget: Budget = Budget()
    vocabulary: VocabularySettings = VocabularySettings()
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the text that is held out.")

    @classmethod
    def part_of(cls, tree: Tree) -> Tree:
        """As of other parts; what a run has done for it first, or does for several, is refused (RecipeError)."""
        if tree.get("finetune"):
            hint = "`homoexport run --plan` does both; or plan by a recipe without it, whose teacher knows the labels"
            raise RecipeError("the teacher is to be fine-tuned first, by a run", where="finetune", hint=hint)
        if tree.get("budgets"):
            hint = "`homoexport run` plans for each; or plan by a recipe that has one under 'budget'"
            raise RecipeError("a plan is for one budget", where="budgets", hint=hint)
        return super().part_of(tree)


class TrimRecipe(RecipePart):
    """What trimming takes of a run's recipe."""

    text: TextSettings
    student: PartialShape = PartialShape()
    vocabulary: VocabularySettings = VocabularySettings()
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the text that is held out.")


class ExportRecipe(RecipePart):
    """What an export takes of a run's recipe."""

    export: ExportSettings = ExportSettings()
    measure: MeasureSettings = MeasureSettings()


class BenchRecipe(RecipePart):
    """What a measurement takes of a run's recipe."""

    measure: MeasureSettings = MeasureSettings()
    budget: Budget = Budget()


class GateRecipe(RecipePart):
    """What a package and the one in use are measured and judged by."""

    measure: MeasureSettings = MeasureSettings()
    quality: QualitySettings | None = None


class FinetuneRecipe(Section):
    """Fine-tuning on one task or several."""

    name: str = Field("finetune", pattern=NAME, description="Name of the recipe.")
    finetune: FinetuneSettings = Field(FinetuneSettings(), description="Settings of all tasks.")
    tasks: dict[str, FinetuneSettings] = Field({}, description="Settings that differ for one task, by the task's name.")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(
        (0,),
        min_length=1,
        description="Seeds of the new head, of dropout and of the examples' order; each is a training of its own.",
    )

    @field_validator("seeds")
    @classmethod
    def _different(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is named twice, and would make the same training again")
        return seeds

    def settings_of(self, task: str) -> FinetuneSettings:
        """The settings of a task."""
        other = self.tasks.get(task, FinetuneSettings()).model_dump(exclude_unset=True)
        return self.finetune.model_copy(update=other)
