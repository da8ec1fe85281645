"""What a student begins as: HomoDistil's and, to compare with it, its peers'.

- homodistil (arXiv 2302.09632): the teacher itself; its neurons leave step by step.
- one-shot: the teacher itself; its neurons leave all at once before the first update.
- repair: as one-shot, mended by least squares (`repair.py`), and no update at all.
- layers (DistilBERT, arXiv 1910.01108): every other of the teacher's layers; where the target is
  narrower too, neurons leave as in one-shot.
- from-scratch: the target's shape with random weights.
- minilm (MiniLMv2, arXiv 2012.15828): the same, taught by the relations of queries, keys and values
  in the last layer in place of the layerwise terms.
- tinybert (TinyBERT, arXiv 1909.10351): random weights in fewer layers, taught by the teacher's layers at even
  distances first, then by its output.

All have the same data, steps, task and KL terms, so that they can be laid side by side.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from homoexport.choices import AT_RANDOM, Method, Side
from homoexport.encoder import Family, start_from_scratch
from homoexport.shape import Shape
from homoexport.stages.distill.layerwise import LayerMap, Projections


@dataclass(frozen=True)
class Start:
    """A student at step 0, and what goes with it; `is_teacher` says whether it equals its teacher."""

    student: PreTrainedModel
    layer_map: LayerMap
    projections: Projections
    is_teacher: bool


def start_student(
    teacher: PreTrainedModel, family: Family, target: Shape, method: Method, *, compare_in: Side, seed: int
) -> Start:
    """The student of a method at step 0; `seed` is that of random weights."""
    widths = family.widths(teacher)
    layers, wanted = widths.num_hidden_layers, target.num_hidden_layers
    projections = Projections(widths.hidden_size, layers, compare_in)
    if method in AT_RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            student = start_from_scratch(teacher, family, target)
            projections.start_at_random(target.hidden_size)
        return Start(student, LayerMap.uniform(wanted, layers), projections, is_teacher=False)
    student = copy.deepcopy(teacher)
    if method == "layers" and wanted < layers:
        kept = [index * layers // wanted for index in range(wanted)]  # every other one, or as evenly as it can be
        family.keep_layers(student, kept)
        return Start(student, LayerMap.of_kept(kept, layers), projections, is_teacher=False)
    return Start(student, LayerMap.one_to_one(layers), projections, is_teacher=True)


def recompute_activations(layers: Iterable[nn.Module]) -> None:
    """Keep only each layer's input for the backward pass (Chen et al., arXiv 1604.06174).

    transformers' own switch works in training mode alone, where dropout would make a student differ
    from its teacher at step 0.
    """
    for layer in dict.fromkeys(layers):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
