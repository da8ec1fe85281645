"""What one forward pass showed at the places that the layerwise terms compare.

Letters: B batch, S sequence, H heads, d head width, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from homoexport.encoder import Taps


class Trace:
    """Forward hooks on a model's taps; after a forward pass it holds the outputs.

    Attributes:
        embedding: [B, S, D] or None where not asked for.
        layers: L times [B, S, D]; the last one is the body's output.
        queries, keys: L times [B, S, H·d].
    """

    def __init__(self, taps: Taps, *, embedding: bool, layers: bool, attention: bool) -> None:
        self.embedding: Tensor | None = None
        self.layers: dict[int, Tensor] = {}
        self.queries: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}
        if embedding:
            taps.embedding.register_forward_hook(self._keep_embedding)
        for wanted, modules, store in (
            (layers, taps.layers, self.layers),
            (attention, taps.queries, self.queries),
            (attention, taps.keys, self.keys),
        ):
            if wanted:
                for index, module in enumerate(modules):
                    module.register_forward_hook(_keeper(store, index))

    def clear(self) -> None:
        """Let the outputs go, and the graphs behind them, which would remember unsliced shapes."""
        self.embedding = None
        for store in (self.layers, self.queries, self.keys):
            store.clear()

    def _keep_embedding(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self.embedding = output


def _keeper(store: dict[int, Tensor], index: int) -> Callable[[nn.Module, Any, Any], None]:
    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        store[index] = output[0] if isinstance(output, tuple) else output

    return keep
