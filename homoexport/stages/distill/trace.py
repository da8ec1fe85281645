"""What one forward pass showed at the places that the loss terms compare.

Letters: B batch, S sequence, H heads, d head width, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from homoexport.encoder import Family
from homoexport.stages.distill.objective import Attention


class Trace:
    """Forward hooks on a model's taps; after a forward pass it holds the outputs that were asked for.

    `embedding` [B, S, D] enters the first layer; `states` [B, S, D] are the residual stream after each layer.
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        *,
        embedding: bool = False,
        states: Collection[int] = (),
        projections: Collection[int] = (),
    ) -> None:
        self.model, self.family = model, family
        self._embedded: dict[int, Tensor] = {}
        self.states: dict[int, Tensor] = {}
        self._projected: dict[int, dict[int, Tensor]] = {index: {} for index in projections}
        self._handles = []
        taps = family.taps(model)
        if embedding:
            self._handles.append(taps.embedding.register_forward_hook(_keeper(self._embedded, 0)))
        for index in states:
            self._handles.append(taps.layers[index].register_forward_hook(_keeper(self.states, index)))
        for index in projections:
            for place, module in enumerate(taps.projections[index]):
                self._handles.append(module.register_forward_hook(_keeper(self._projected[index], place)))

    def projections(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a layer, each [B, S, H·d], before the split into heads."""
        outputs = [self._projected[layer][place] for place in sorted(self._projected[layer])]
        parts = outputs if len(outputs) == 3 else torch.cat(outputs, dim=-1).chunk(3, dim=-1)
        query, key, value = parts
        return query, key, value

    def attention(self, layer: int) -> Attention:
        """What the scores of a layer are made of: queries and keys with their positions, and the bias."""
        widths = self.family.widths(self.model)
        query, key, _ = self.projections(layer)
        query, key = (self.family.rotate(self.model, layer, side, widths.head_dim) for side in (query, key))
        bias = self.family.score_bias(self.model, query.shape[1])
        return Attention(query, key, widths.heads_per_layer[layer], widths.head_dim, bias)

    def clear(self) -> None:
        """Let the outputs go, and the graphs behind them, which would remember unsliced shapes."""
        self._embedded.clear()
        self.states.clear()
        for outputs in self._projected.values():
            outputs.clear()

    def remove(self) -> None:
        self.clear()
        for handle in self._handles:
            handle.remove()

    @property
    def embedding(self) -> Tensor | None:
        return self._embedded.get(0)


def _keeper(store: dict[int, Tensor], index: int) -> Callable[[nn.Module, Any, Any], None]:
    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        store[index] = output[0] if isinstance(output, tuple) else output

    return keep
