"""What one forward pass showed at the places that the loss terms compare.

Letters: B batch, S sequence, H heads, d head width, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from homoexport.encoder import Family
from homoexport.stages.distill.objective import Attention, attention_scores

_Place = tuple[dict[int, Tensor], int]  # where an output is kept


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
        self._scores: dict[int, Tensor] = {}
        self._projected: dict[int, dict[int, Tensor]] = {index: {} for index in projections}
        self._left: list[tuple[list[_Place | None], Sequence[_Place | None]]] = []
        body, taps = family.body(model), family.taps(model)
        self._handles = [body.register_forward_pre_hook(self._begin), body.register_forward_hook(self._end)]
        if embedding:
            self._watch([taps.embedding], {0: (self._embedded, 0)})
        self._watch(taps.layers, {index: (self.states, index) for index in states})
        for place, modules in enumerate(zip(*taps.projections, strict=True)):
            self._watch(modules, {index: (self._projected[index], place) for index in projections})

    def _watch(self, modules: Sequence[nn.Module], wanted: Mapping[int, _Place]) -> None:
        """Keep the outputs of some of a model's modules, which are called in this order.

        A module may be there again (ALBERT's one layer), and may be called for more than that (DeBERTa's projections,
        which then read relative positions): its first calls in a forward pass count.
        """
        places: dict[nn.Module, list[_Place | None]] = {}
        for index, module in enumerate(modules):
            places.setdefault(module, []).append(wanted.get(index))
        for module, mine in places.items():
            if any(mine):
                self._handles.append(module.register_forward_hook(self._keeper(mine)))

    def _keeper(self, places: Sequence[_Place | None]) -> Callable[[nn.Module, Any, Any], None]:
        """A hook that keeps a module's outputs, call by call."""
        left: list[_Place | None] = []
        self._left.append((left, places))

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if left and (place := left.pop(0)):
                store, index = place
                store[index] = output[0] if isinstance(output, tuple) else output

        return keep

    def _begin(self, _body: nn.Module, _inputs: Any) -> None:
        self._scores.clear()
        for left, places in self._left:
            left[:] = places

    def _end(self, _body: nn.Module, _inputs: Any, _output: Any) -> None:
        for left, _ in self._left:
            left.clear()

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
        query, key, bias = self.family.scored(self.model, layer, query, key)
        return Attention(query, key, widths.heads_per_layer[layer], widths.head_dim, bias)

    def scores(self, layer: int) -> Tensor:
        """Attention scores of a layer, averaged over the heads, [B, S, S]."""
        kept = self._scores.get(layer)
        return attention_scores(self.attention(layer)) if kept is None else kept

    def recall(self, embedding: Tensor | None, states: Mapping[int, Tensor], scores: Mapping[int, Tensor]) -> None:
        """Hold what an earlier forward pass showed."""
        if embedding is not None:
            self._embedded[0] = embedding
        self.states.update(states)
        self._scores.update(scores)

    @property
    def projected_layers(self) -> list[int]:
        """Layers whose projections are kept."""
        return sorted(self._projected)

    def clear(self) -> None:
        """Let the outputs go, and the graphs behind them, which would remember unsliced shapes."""
        self._embedded.clear()
        self.states.clear()
        self._scores.clear()
        for outputs in self._projected.values():
            outputs.clear()

    def remove(self) -> None:
        self.clear()
        for handle in self._handles:
            handle.remove()

    @property
    def embedding(self) -> Tensor | None:
        return self._embedded.get(0)
