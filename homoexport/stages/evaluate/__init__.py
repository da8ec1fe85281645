"""Evaluating: the quality of packages and models, on held-out text and on a user's own data."""

from homoexport.stages.evaluate.agreement import label_agreement
from homoexport.stages.evaluate.benchmark import evaluate_on_mteb
from homoexport.stages.evaluate.data import JudgedExamples, columns_of_task, flags_of_task, judged_task, read_judged
from homoexport.stages.evaluate.estimate import Quality
from homoexport.stages.evaluate.examples import Examples, read_examples, read_for
from homoexport.stages.evaluate.fidelity import quality_of_run
from homoexport.stages.evaluate.glue import GLUE, read_glue
from homoexport.stages.evaluate.judge import Judge, evaluate_models
from homoexport.stages.evaluate.labels import label_indices, label_places
from homoexport.stages.evaluate.learned import (
    LabelledTask,
    check_learned,
    glue_task,
    own_task,
    read_again,
    read_learned,
)
from homoexport.stages.evaluate.models import digest_of_source, is_package, open_model, package_of_file, torch_package
from homoexport.stages.evaluate.probe import MAX_TRAIN
from homoexport.stages.evaluate.similarity import sts_qualities
from homoexport.stages.evaluate.tasks import TASKS, refuse_unfit

__all__ = [
    "GLUE",
    "MAX_TRAIN",
    "TASKS",
    "Examples",
    "Judge",
    "JudgedExamples",
    "LabelledTask",
    "Quality",
    "check_learned",
    "columns_of_task",
    "digest_of_source",
    "evaluate_models",
    "evaluate_on_mteb",
    "flags_of_task",
    "glue_task",
    "is_package",
    "judged_task",
    "label_agreement",
    "label_indices",
    "label_places",
    "open_model",
    "own_task",
    "package_of_file",
    "quality_of_run",
    "read_again",
    "read_examples",
    "read_for",
    "read_glue",
    "read_judged",
    "read_learned",
    "refuse_unfit",
    "sts_qualities",
    "torch_package",
]
