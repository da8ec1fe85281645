"""What moves a model's output: gradients to score its weights by while there is no loss that could.

While a student equals its teacher, distillation terms are at their minimum: their gradients are zero, and so would be
every neuron's sensitivity. Instead:

- Hidden states: the gradient of their product with random signs r is J^T r, whose squares are on average the diagonal
  of J^T J, the curvature of a squared error at its minimum (Hutchinson's estimator of the Gauss-Newton matrix).
- Logits of a classifier: the gradient of the cross-entropy against classes drawn from the model's own distribution,
  whose squares are on average the diagonal of the Fisher matrix, the curvature of the KL divergence at its minimum.

What is drawn depends on a token's place or a sequence's content alone, so that processes and micro-batches add up.

Letters: B batch, S sequence, N rows of logits, C classes, D hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from homoexport.choices import Objective
from homoexport.encoder import Family
from homoexport.stages.distill.batches import Counts, MicroBatch

_GOLDEN = 0.6180339887498949


def probe_loss(model: nn.Module, family: Family, micro: MicroBatch, *, objective: Objective, counts: Counts) -> Tensor:
    """A loss [] whose gradients say how strongly each weight moves the model's output: hidden states or logits."""
    if objective in ("classification", "token-classification"):
        rows = rows_of(micro, model(**micro.inputs).logits, objective)
        return _loss_of_drawn_classes(rows, _row_seeds(micro, objective)) / counts.rows
    states: Tensor = family.body(model)(**micro.inputs).last_hidden_state
    signs = _signs(states.shape[1], states.shape[2], states.device)
    product: Tensor = (states.float() * signs * micro.attention_mask[:, :, None]).sum()
    return product / counts.tokens


def rows_of(micro: MicroBatch, values: Tensor, objective: Objective) -> Tensor:
    """One row a sequence, or one a token that is not padding."""
    return values if objective == "classification" else values[micro.attention_mask.bool()]


def _row_seeds(micro: MicroBatch, objective: Objective) -> Tensor:
    """A number from 0 to 1 for each row of logits, from its sequence's content and its place."""
    weights = torch.arange(1, micro.input_ids.shape[1] + 1, device=micro.input_ids.device)
    content = (micro.input_ids * micro.attention_mask * weights).sum(1)
    if objective == "token-classification":
        content = rows_of(micro, content[:, None] + weights, objective)
    return (content.double() * _GOLDEN).frac()


def _signs(length: int, hidden_size: int, device: torch.device) -> Tensor:
    """Random signs [S, D]; a longer draw begins with the rows of a shorter one."""
    rows = (torch.Generator().manual_seed(position) for position in range(length))
    signs = torch.stack([torch.randint(2, (hidden_size,), generator=row) for row in rows])
    return (signs * 2 - 1).float().to(device)


def _loss_of_drawn_classes(logits: Tensor, seeds: Tensor) -> Tensor:
    """Cross-entropy [] of logits [N, C] against classes drawn from their own distribution by seeds [N] in 0..1.

    A single output has no classes: there it is its product with random signs.
    """
    if logits.shape[-1] == 1:
        return (logits[:, 0].float() * torch.where(seeds < 0.5, -1.0, 1.0)).sum()
    cumulative = logits.detach().double().softmax(-1).cumsum(-1)
    drawn = (cumulative < seeds[:, None]).sum(-1).clamp(max=logits.shape[-1] - 1)
    return torch.nn.functional.cross_entropy(logits.float(), drawn, reduction="sum")
