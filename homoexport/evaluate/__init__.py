"""Evaluating: the quality of shipped packages on held-out text."""

from homoexport.evaluate.agreement import label_agreement
from homoexport.evaluate.estimate import Quality
from homoexport.evaluate.masked_lm import masked_lm_quality
from homoexport.evaluate.packages import evaluate_packages
from homoexport.evaluate.similarity import similarity_fidelity, sts_spearman

__all__ = [
    "Quality",
    "evaluate_packages",
    "label_agreement",
    "masked_lm_quality",
    "similarity_fidelity",
    "sts_spearman",
]
