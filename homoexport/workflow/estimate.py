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

if TYPE_CHECKING:
    from homoexport.encoder import Encoder
    from homoexport.text.corpus import MapCorpus
    from homoexport.workflow.check import Checked

# In seconds, on two cores of a Xeon with AMX: bench/results/making.json and docs/quickstart-summary.json are of it.
_LOOP_SECONDS = 0.0123  # of `_pace`
_PLAN, _EXPORT, _MEASURE = 80.0, 20.0, 10.0
_EXPORT_OF_A_MILLION = 0.5  # parameters: so much more

# In training steps for as much text.
_MENDING = 1.1
_TEACHERS_PART = 0.25  # which is read from disk where texts come again
_ASKING_BOTH = 0.5
_PLANNED = 0.6  # a student's, of one at the teacher's width, where the student is still to be planned

_MENDED_TOKENS = 2**15
_CHECKPOINTS = 1.02
_STEPS = 3  # of a probe; the first is left out
_MOST_SEQUENCES, _MOST_WORK = 16, 3e9  # of its steps on CPUs: sequences, and tokens times parameters of the layers


@dataclass(frozen=True)
class _Probed:
    """Seconds of one step of the recipe's batch at the teacher's width, where it is needed, and at the student's; and
    the sequences of the steps that were timed."""

    wide: float | None
    narrow: float
    sequences: int

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
    recipe, text, pace, probed = checked.recipe, checked.text, _pace(), _probe(checked)
    exporting = pace * (_EXPORT + _EXPORT_OF_A_MILLION * checked.teacher.parameters / 1e6)
    asking = _ASKING_BOTH * probed.narrow * recipe.text.held_out / recipe.distill.batch_size
    seconds = {
        "plan": pace * _PLAN if recipe.is_planned else 0.0,
        "text": text.seconds() or 0.0,
        "distill": _CHECKPOINTS * (_distilling(checked, probed) + asking),
        "teacher": exporting,
        "export": exporting,
        "measure": pace * _MEASURE + asking,
    }
    basis = (
        f"{_STEPS - 1} training steps of {probed.sequences} texts, timed here, and what exporting and measuring took "
        f"on a Xeon of {pace:.1f} times this machine's pace"
    )
    return RunTime(seconds={stage: round(each, 1) for stage, each in seconds.items() if each}, basis=basis)


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
    recipe, teacher = checked.recipe, checked.teacher
    count = _sequences_of_step(checked)
    corpus = checked.text.corpus(recipe.text, sequences=_STEPS * count, held_out=3)
    settings = recipe.distill.model_copy(
        update={
            "batch_size": count,
            "steps": _STEPS,
            "repair": False,
            "vectors_from": None,
            "weights": recipe.distill.weights.model_copy(update={"vectors": None}),
            "int8_share": 0.0,
            "trackers": (),
            "compile": False,
        }
    )
    shape, times, wide = PartialShape(), recipe.distill.batch_size / count, None
    if checked.student is not None:
        shape = PartialShape.of(checked.student)
    at_once = settings.model_copy(update={"method": "one-shot"} if _prunes(settings) else {})
    _, *narrow = _timed_steps(teacher, corpus, shape, at_once, recipe.text.max_length)
    if settings.method == "homodistil":  # which prunes after the step that is left out here
        late = settings.model_copy(update={"steps": _STEPS + 1, "prune_from": 1.0, "prune_until": 1.0})
        wide = times * _timed_steps(teacher, corpus, shape, late, recipe.text.max_length)[1]
    factor = 1.0 if checked.student is not None else _PLANNED
    return _Probed(wide, times * factor * sum(narrow) / len(narrow), count)


def _prunes(settings: DistillSettings) -> bool:
    return settings.method in ("homodistil", "one-shot", "repair")


def _sequences_of_step(checked: Checked) -> int:
    """How many make a step that is like the recipe's, and takes half a second or so."""
    import torch

    from homoexport.encoder import family_of, parameter_counts

    batch_size, model = checked.recipe.distill.batch_size, checked.teacher.model
    if torch.cuda.is_available():
        return min(batch_size, checked.recipe.distill.micro_batch_size or batch_size)
    work = parameter_counts(model, family_of(model.config)).backbone * checked.text.tokens()
    return min(batch_size, max(2, min(_MOST_SEQUENCES, int(_MOST_WORK / work))))


def _timed_steps(
    teacher: Encoder, corpus: MapCorpus, shape: PartialShape, settings: DistillSettings, max_length: int
) -> list[float]:
    """Seconds of each step of a distillation that nobody keeps."""
    from homoexport.stages.distill import distill_encoder

    seconds: list[float] = []
    try:
        distill_encoder(
            teacher,
            corpus,
            shape=shape,
            settings=settings,
            max_length=max_length,
            on_step=lambda step: seconds.append(step.seconds),
        )
    finally:
        teacher.model.to("cpu")
    return seconds


def _pace() -> float:
    """How many times as long as where the figures above are from this machine takes for plain Python."""
    seconds = []
    for _ in range(5):
        began, total = time.perf_counter(), 0
        for number in range(500_000):
            total += number
        seconds.append(time.perf_counter() - began)
    return min(4.0, max(0.25, min(seconds) / _LOOP_SECONDS))
