"""Memory for time: activations are computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_activations(layers: Iterable[nn.Module]) -> None:
    """Keep only each layer's input for the backward pass (Chen et al., arXiv 1604.06174).

    transformers' own switch works in training mode alone, where dropout would make a student differ
    from its teacher at step 0.
    """
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
