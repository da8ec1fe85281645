"""Evaluating: the quality of packages and models, on held-out text and on a user's own data."""

from homoexport.evaluate.agreement import label_agreement
from homoexport.evaluate.benchmark import evaluate_on_mteb
from homoexport.evaluate.classification import label_indices, label_places, names_of
from homoexport.evaluate.data import columns_of_task, judged_data
from homoexport.evaluate.estimate import Quality
from homoexport.evaluate.examples import MAX_COMPARED, Examples, drawn_rows, read_examples, read_for
from homoexport.evaluate.glue import GLUE, read_glue
from homoexport.evaluate.masked_lm import masked_lm_qualities
from homoexport.evaluate.models import check_whole, digest_of_source, open_model, package_of_file
from homoexport.evaluate.packages import evaluate_packages
from homoexport.evaluate.probe import MAX_TRAIN
from homoexport.evaluate.similarity import similarity_fidelity, sts_spearman
from homoexport.evaluate.tasks import evaluate_models, write_evaluation

__all__ = [
    "GLUE",
    "MAX_COMPARED",
    "MAX_TRAIN",
    "Examples",
    "Quality",
    "check_whole",
    "columns_of_task",
    "digest_of_source",
    "drawn_rows",
    "evaluate_models",
    "evaluate_on_mteb",
    "evaluate_packages",
    "judged_data",
    "label_agreement",
    "label_indices",
    "label_places",
    "masked_lm_qualities",
    "names_of",
    "open_model",
    "package_of_file",
    "read_examples",
    "read_for",
    "read_glue",
    "similarity_fidelity",
    "sts_spearman",
    "write_evaluation",
]
