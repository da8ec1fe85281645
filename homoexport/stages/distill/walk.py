"""A model on some text, one layer at a time, with what its residual branches show.

Letters: B batch, S sequence, N tokens that are not padding, K inputs of a linear layer, D hidden size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from homoexport.encoder import Family
from homoexport.encoder.layout import Branch
from homoexport.stages.distill.batches import MicroBatch


class _ReachedError(Exception):
    """A module was called, and nothing after it matters."""


class Shown(NamedTuple):
    """A branch on one micro-batch: the stream it adds to, what it reads, what goes into its last linear layer, and what
    it adds."""

    base: Tensor  # [N, D]
    read: Tensor  # [N, D]
    ending: Tensor  # [N, K]
    added: Tensor  # [N, D]


class Walk:
    """A model's layers on micro-batches; `states` are the streams [B, S, D] of each, where the next layer begins."""

    def __init__(self, model: nn.Module, family: Family, micro_batches: Sequence[MicroBatch]) -> None:
        self.model, self.layout = model, family.layout(model)
        self._layers: list[Any] = list(family.taps(model).layers)
        self._masks = [micro.attention_mask.bool() for micro in micro_batches]
        self._arguments = [self._begin(family, micro, passing=place > 0) for place, micro in enumerate(micro_batches)]
        self.states = [arguments[0][0][0] for arguments in self._arguments]

    @torch.no_grad()
    def _begin(self, family: Family, micro: MicroBatch, *, passing: bool) -> list[tuple[Any, dict[str, Any]]]:
        """What the body calls its layers with; they compute nothing where they let the states pass."""
        arguments: list[tuple[Any, dict[str, Any]]] = []

        def note(_layer: nn.Module, inputs: Any, named: Any) -> None:
            others = {name: value for name, value in named.items() if name != "hidden_states"}
            arguments.append((inputs, others) if inputs else ((named["hidden_states"],), others))

        def note_kind(_layer: nn.Module, _inputs: Any, output: Any) -> None:
            self._others = (None,) * (len(output) - 1) if isinstance(output, tuple) else None

        def let_pass(hidden_states: Tensor, *_inputs: Any, **_named: Any) -> Any:
            return hidden_states if self._others is None else (hidden_states, *self._others)

        handles: list[Any] = []
        for layer in self._layers:
            handles += [
                layer.register_forward_pre_hook(note, with_kwargs=True),
                layer.register_forward_hook(note_kind),
            ]
            if passing:
                layer.forward = let_pass
        # Not the body's call, which torch.compile may have taken over.
        family.body(self.model).forward(**micro.inputs)
        for handle in handles:
            handle.remove()
        for layer in self._layers if passing else ():
            del layer.forward
        return [
            (inputs if index == 0 else (None, *inputs[1:]), named) for index, (inputs, named) in enumerate(arguments)
        ]

    def module(self, name: str) -> nn.Module:
        return self.model.get_submodule(name)

    def tokens(self) -> Iterator[Tensor]:
        """Each micro-batch's stream [N, D] where the next layer begins."""
        for states, mask in zip(self.states, self._masks, strict=True):
            yield states[mask]

    def shows(self, layer: int, branch: int) -> Iterator[Shown]:
        """What a branch of the next layer shows of each micro-batch."""
        of = self.branches(layer)[branch]
        return (_shown(of, ins, outs) for ins, outs in self._calls(layer, _names(of), until=of.adds))

    def stand_after(self, stream: Sequence[Tensor]) -> None:
        """Stand where a layer has put out this, [N, D] of each micro-batch; there is 0 on padding, which none sees."""
        for place, (mask, tokens) in enumerate(zip(self._masks, stream, strict=True)):
            states = tokens.new_zeros(*mask.shape, tokens.shape[-1])
            states[mask] = tokens
            self.states[place] = states

    def advance(self, layer: int) -> Iterator[list[Shown]]:
        """Walk through the next layer, one micro-batch at a time; what its branches show."""
        branches = self.branches(layer)
        names = [name for of in branches for name in _names(of)]
        for ins, outs in self._calls(layer, names):
            yield [_shown(of, ins, outs) for of in branches]

    def branches(self, layer: int) -> tuple[Branch, ...]:
        return self.layout.layers[layer].branches

    @torch.no_grad()
    def _calls(
        self, layer: int, names: Sequence[str], *, until: str | None = None
    ) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """What goes into modules of the next layer and comes out of them; its output is the new state, or, where it
        stops with a module, none."""
        for place, (mask, arguments) in enumerate(zip(self._masks, self._arguments, strict=True)):
            ins: dict[str, Tensor] = {}
            outs: dict[str, Tensor] = {}
            with self._watching(names, mask, ins, outs, until):
                inputs, named = arguments[layer]
                output = self._layers[layer](self.states[place], *inputs[1:], **named)
                self.states[place] = output[0] if isinstance(output, tuple) else output
            yield ins, outs

    @contextmanager
    def _watching(
        self,
        names: Sequence[str],
        mask: Tensor,
        ins: dict[str, Tensor],
        outs: dict[str, Tensor],
        until: str | None,
    ) -> Iterator[None]:
        def watch(name: str) -> Any:
            def note(_module: nn.Module, inputs: Any, output: Tensor) -> None:
                ins[name], outs[name] = inputs[0][mask], output[mask]
                if name == until:
                    raise _ReachedError

            return self.module(name).register_forward_hook(note)

        handles = [watch(name) for name in dict.fromkeys(names)]
        with contextlib.suppress(_ReachedError):
            yield
        for handle in handles:
            handle.remove()


def _names(branch: Branch) -> list[str]:
    return [name for name in (branch.norm_before, branch.readers[0], branch.writer, branch.norm_of_added) if name]


def _shown(branch: Branch, ins: dict[str, Tensor], outs: dict[str, Tensor]) -> Shown:
    read, writer = branch.readers[0], branch.writer
    return Shown(ins[branch.norm_before or read], ins[read], ins[writer], outs[branch.adds])


@torch.no_grad()
def input_of(model: nn.Module, name: str, micro: MicroBatch) -> Tensor | None:
    """What a linear layer takes in, [N, D], or [B, D] of a head that reads one token; None where it is not called."""
    inputs: list[Tensor] = []

    def note(_module: nn.Module, given: Any) -> None:
        inputs.append(given[0])
        raise _ReachedError

    handle = model.get_submodule(name).register_forward_pre_hook(note)
    with contextlib.suppress(_ReachedError):
        model.forward(**micro.inputs)
    handle.remove()
    if not inputs:
        return None
    return inputs[0][micro.attention_mask.bool()] if inputs[0].dim() == 3 else inputs[0]
