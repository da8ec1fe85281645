"""Evaluating: the quality of packages and models, on held-out text and on a user's own data."""

from homoexport.evaluate.agreement import label_agreement
from homoexport.evaluate.classification import label_indices
from homoexport.evaluate.estimate import Quality
from homoexport.evaluate.examples import Examples, read_examples
from homoexport.evaluate.glue import GLUE, read_glue
from homoexport.evaluate.masked_lm import masked_lm_quality
from homoexport.evaluate.models import open_model
from homoexport.evaluate.packages import evaluate_packages
from homoexport.evaluate.similarity import similarity_fidelity, sts_spearman
from homoexport.evaluate.tasks import evaluate_models, write_evaluation

__all__ = [
    "GLUE",
    "Examples",
    "Quality",
    "evaluate_models",
    "evaluate_packages",
    "label_agreement",
    "label_indices",
    "masked_lm_quality",
    "open_model",
    "read_examples",
    "read_glue",
    "similarity_fidelity",
    "sts_spearman",
    "write_evaluation",
]
