"""About how long a run will take, before it begins.

A few training steps are made on texts of all lengths and timed; so is a loop of plain Python, which says how this
machine's pace compares with that of the one where the other stages were timed, whose figures stand below.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from homoexport.documents.outlook import RunTime
from homoexport.documents.recipe import DistillSettings
from homoexport.shape import PartialShape
from homoexport.stages.measure import find_target, is_plain_cpu
from homoexport.workflow.distill import PRUNE_ON_STEPS

if TYPE_CHECKING:
    from homoexport.workflow.check import Checked

# In seconds, on two cores of a Xeon with AMX: bench/results/making.json and docs/quickstart-summary.json are of it.
_LOOP_SECONDS = 0.0123  # of `_pace`
_PLAN, _PLAN_AGAIN, _EXPORT, _MEASURE = 80.0, 30.0, 20.0, 6.0  # again: for another budget, see docs/planning.md
_EXPORT_OF_A_MILLION = 0.5  # parameters: so much more
_PACKAGES = 2  # that are measured, each for `measure.min_seconds`

# In training steps for as much text.
_MENDING = 1.1
_TEACHERS_PART = 0.25  # which is read from disk where texts come again
_ASKING_BOTH = 0.5
_LEARNING = 0.6  # of the teacher, of one at its width with a teacher beside it
_PLANNED = 0.6  # a student's, of one at the teacher's width, where the student is still to be planned

_MENDED_TOKENS = 2**15
_CHECKPOINTS = 1.02
_STEPS, _HELD_OUT = 3, 3  # of a probe, steps and sequences; the first step is left out
_LESS = 4  # times fewer sequences in the steps that tell what a sequence takes from what a step takes
_BUSY = 1.3  # times as long for plain Python before or after the steps
_MOST_SEQUENCES, _MOST_WORK = 16, 5e9  # of its steps on CPUs: sequences, and tokens times parameters of the layers


@dataclass(frozen=True)
class _Probed:
    """Seconds of one step of the recipe's batch at the teacher's width, where it is needed, and at the student's; the
    sequences of the steps that were timed; and the seconds of a step of the teacher's own fine-tuning."""

    wide: float | None
    narrow: float
    sequences: int
    learning: float = 0.0

    def mean(self, settings: DistillSettings) -> float:
        """Of all steps, on the way from one width to the other."""
        if self.wide is None:
            return self.narrow
        left = 1 / 4 if settings.prune_schedule == "cubic" else 1 / 2  # of what goes, while it goes
        pruning = self.narrow + left * (self.wide - self.narrow)
        start, stop = settings.prune_from, settings.prune_until
        return start * self.wide + (stop - start) * pruning + (1 - stop) * self.narrow


def time_of_run(checked: Checked) -> RunTime:
    """Seconds of the stages of a run, and their basis."""
    recipe, text, before = checked.recipe, checked.text, _pace()
    probed = _probe(checked)
    pace, slower = sorted((before, _pace()))
    exporting = pace * (_EXPORT + _EXPORT_OF_A_MILLION * checked.teacher.parameters / 1e6)
    asking = _ASKING_BOTH * probed.narrow / recipe.distill.batch_size  # teacher and student, a text
    comparing = asking * recipe.text.held_out
    students = max(1, len(recipe.parts))
    distillations = float(students)
    if recipe.students:
        distillations = recipe.distill.prune_until + sum(each.finish for each in recipe.students)
    measuring = pace * _MEASURE + _PACKAGES * recipe.measure.min_seconds
    planning = (1 + len(recipe.vocab_sizes)) * pace * (_PLAN + (students - 1) * _PLAN_AGAIN)
    in_turns = pace * _MEASURE + (students + 1) * recipe.measure.min_seconds if recipe.parts else 0.0
    seconds = {
        "finetune": _finetuning(checked, probed),
        "plan": planning if recipe.is_planned else 0.0,
        "text": text.seconds() or 0.0,
        "vectors": _asking_second(checked, probed),
        "distill": _CHECKPOINTS * (distillations * _distilling(checked, probed) + students * comparing),
        "teacher": exporting,
        "export": students * exporting,
        "measure": students * (measuring + comparing) + in_turns,
        "quality": students * asking * checked.judged,
    }
    turn = None
    if recipe.is_planned:
        pruning_on = PRUNE_ON_STEPS * recipe.distill.steps * probed.narrow
        turn = pruning_on + sum(seconds[stage] for stage in ("export", "measure", "quality")) / students
    basis = (
        f"{_STEPS - 1} training steps of {probed.sequences} texts, timed here, and what exporting and measuring took "
        f"on a Xeon of {pace:.1f} times this machine's pace"
    )
    if slower > _BUSY * pace:
        basis += "; other work slowed this machine meanwhile, without which it takes less"
    if not is_plain_cpu(find_target(recipe.measure.device)):
        basis += f"; on {recipe.measure.device} these may take longer"
    return RunTime(
        seconds={stage: round(each, 1) for stage, each in seconds.items() if each},
        turn=None if turn is None else round(turn, 1),
        basis=basis,
    )


def _asking_second(checked: Checked, probed: _Probed) -> float:
    """Seconds of asking the model of `vectors_from` once for each text; 0 without one, or where nobody knows."""
    larger, sequences = checked.asked / checked.teacher.parameters, checked.text.sequences() or 0.0
    return _TEACHERS_PART * larger * probed.narrow * sequences / checked.recipe.distill.batch_size


def _finetuning(checked: Checked, probed: _Probed) -> float:
    """Seconds of all steps in which the teacher learns first."""
    asked, task = checked.recipe.finetune, checked.task
    if asked is None or task is None:
        return 0.0
    examples = len(task.train.texts)
    return probed.learning * asked.steps(min(examples, asked.max_examples or examples))


def _distilling(checked: Checked, probed: _Probed) -> float:
    """Seconds of mending and of all steps."""
    settings, text = checked.recipe.distill, checked.text
    tokens, sequences = text.tokens(), text.sequences()
    if settings.method == "homodistil":
        events = (settings.prune_until - settings.prune_from) * settings.steps / settings.prune_every
        mended = events * settings.batch_size
    else:
        mended = min(_MENDED_TOKENS / tokens, sequences or float("inf"))
    mending = _MENDING * probed.narrow * mended / settings.batch_size if settings.repair else 0.0
    if settings.method == "repair":
        return _MENDING * probed.narrow * mended / settings.batch_size
    epochs = settings.steps * settings.batch_size / sequences if sequences else 0.0
    is_kept = epochs >= 2 and settings.objective != "masked-lm" and settings.crop == 0
    saved = _TEACHERS_PART * (1 - 1 / epochs) if is_kept else 0.0
    return mending + settings.steps * probed.mean(settings) * (1 - saved)


def _probe(checked: Checked) -> _Probed:
    """Make a few steps as the recipe's will be."""
    recipe, count = checked.recipe, _sequences_of_step(checked)
    corpus = checked.text.corpus(recipe.text, sequences=_STEPS * count, held_out=_HELD_OUT)
    weights = recipe.distill.weights.model_copy(update={"vectors": None})
    if recipe.distill.objective == "sentence-embedding":  # where vectors may have been all that teaches
        weights = weights.model_copy(update={"task": weights.task or 1.0})
    settings = recipe.distill.model_copy(
        update={
            "batch_size": count,
            "steps": max(_STEPS, recipe.distill.steps),
            "repair": False,
            "vectors_from": None,
            "weights": weights,
            "int8_share": 0.0,
            "trackers": (),
            "compile": False,
        }
    )
    shape = PartialShape() if checked.student is None else PartialShape.of(checked.student)
    whole = recipe.distill.batch_size

    def timed(settings: DistillSettings, steps: int, shape: PartialShape) -> float:
        """Of one step, on average; the first is left out."""
        from homoexport.stages.distill import first_steps

        longest = recipe.text.max_length
        made = first_steps(checked.teacher, corpus, shape, settings=settings, steps=steps, max_length=longest)
        return sum(step.seconds for step in made[1:]) / (steps - 1)

    def seconds(settings: DistillSettings, steps: int, shape: PartialShape = shape, whole: int = whole) -> float:
        """Of a whole step: what each sequence takes, and what a step takes besides, as the optimizer's part."""
        found = timed(settings, steps, shape)
        if count >= whole:
            return found * whole / count
        less = max(2, count // _LESS)
        each = found / count
        if less < count:
            each = (found - timed(settings.model_copy(update={"batch_size": less}), steps, shape)) / (count - less)
        return found + (whole - count) * max(each, 0.0)

    unpruned = settings.model_copy(update={"method": "from-scratch", "layers": None})
    at_once = unpruned if _prunes(settings) else settings
    narrow = seconds(at_once, _STEPS) * (1.0 if checked.student is not None else _PLANNED)
    wide = seconds(settings, 2) if settings.method == "homodistil" else None
    learning = 0.0
    if recipe.finetune is not None:
        learning = _LEARNING * seconds(unpruned, 2, PartialShape(), recipe.finetune.batch_size)
    return _Probed(wide, narrow, count, learning)


def _prunes(settings: DistillSettings) -> bool:
    return settings.method in ("homodistil", "one-shot", "repair")


def _sequences_of_step(checked: Checked) -> int:
    """How many make a step that is like the recipe's, and takes half a second or so."""
    import torch

    from homoexport.encoder import family_of, parameter_counts

    distill, model = checked.recipe.distill, checked.teacher.model
    if torch.cuda.is_available():
        return min(distill.batch_size, distill.micro_batch_size or distill.batch_size)
    work = parameter_counts(model, family_of(model.config)).backbone * checked.text.tokens()
    least = 2 if distill.objective == "sentence-embedding" else 1
    return min(distill.batch_size, max(least, min(_MOST_SEQUENCES, int(_MOST_WORK / work))))


def _pace() -> float:
    """How many times as long as where the figures above are from this machine takes for plain Python."""
    seconds = []
    for _ in range(5):
        began, total = time.perf_counter(), 0
        for number in range(500_000):
            total += number
        seconds.append(time.perf_counter() - began)
    return min(4.0, max(0.25, min(seconds) / _LOOP_SECONDS))
