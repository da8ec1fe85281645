"""What torch's exporter made of a model, without the weights: of another model that differs in widths and in the number
of like layers alone it is the same, so that the exporter, which takes seconds, is called once for both.

The graph is kept as it was before its constants were folded. Its operators know the width of a head, and no other width
of the families in use; whether that holds is seen when the graph, filled with the other weights, is run beside torch.

B batch, S sequence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from homoexport.choices import OUTPUT_NAMES
from homoexport.encoder import Encoder, input_names, torch_answers
from homoexport.runtime.session import OnnxSession
from homoexport.stages.export.depth import Repeat, lengthen
from homoexport.stages.export.parity import FP32_MAX_DIFFERENCE

# Of a config: what a graph does not depend on, and the widths but for a head's.
_NAMES = frozenset(("_name_or_path", "architectures", "id2label", "label2id", "dtype", "torch_dtype"))
_WIDTHS = frozenset(
    ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size", "dim", "hidden_dim", "n_heads")
)
_MOST = 8  # that are remembered, each of some hundred kilobytes
_SHAPES = ((2, 9), (3, 14))  # B and S of what a filled graph is asked


@dataclass(frozen=True)
class _Program:
    """A graph whose weights are gone, how many heads the model had, and what is repeated in a deeper one's."""

    model: ir.Model
    heads: int
    repeat: Repeat | None


_programs: dict[str, _Program | None] = {}  # None: known to answer otherwise than torch


def program_key(encoder: Encoder, wrapped: torch.nn.Module, config: Any, *, opset: int) -> str:
    """What models have in common that one program is right for, as far as can be told before it is run."""
    head_dim = getattr(config, "hidden_size", 0) / (_heads(encoder) or 1)
    tied: dict[int, str] = {}
    weights = [(name, tied.setdefault(weight.data_ptr(), name)) for name, weight in wrapped.state_dict().items()]
    told = {
        "config": {name: value for name, value in config.to_dict().items() if name not in _NAMES | _WIDTHS},
        "head_dim": head_dim,
        "opset": opset,
        "task": encoder.task,
        "inputs": input_names(encoder),
        "pooling": encoder.pooling and vars(encoder.pooling),
        "modules": [type(module).__qualname__ for module in wrapped.modules()],
        "weights": weights,
    }
    return json.dumps(told, sort_keys=True, default=str)


def is_known(key: str) -> bool:
    """Whether a graph of a key is kept, or was found not to answer as its model does."""
    return key in _programs


def remember_program(
    key: str, model: ir.Model, encoder: Encoder, wrapped: torch.nn.Module, repeat: Repeat | None = None
) -> None:
    """Keep a graph of a key without the weights; with one layer's part of it, for models of more layers, too."""
    program, held = model.clone(), _held_by(wrapped)
    for name, value in program.graph.initializers.items():
        if name in held:
            value.const_value = None
    while len(_programs) >= _MOST:
        _programs.pop(next(iter(_programs)))
    _programs[key] = _Program(program, _heads(encoder), repeat)


def remembered_program(key: str, encoder: Encoder, wrapped: torch.nn.Module) -> ir.Model | None:
    """The graph of a key with the weights of a module; None where there is none, or it asks for others."""
    known = _programs.get(key)
    if known is None:
        return None
    program, held = known.model.clone(), _held_by(wrapped)
    if known.repeat is not None:
        lengthen(program, known.repeat, encoder.model.config.num_hidden_layers)
    empty = {name: value for name, value in program.graph.initializers.items() if value.const_value is None}
    if not all(name in held for name in empty):
        return None
    sizes = _sizes([(value.shape, held[name].shape) for name, value in empty.items()])
    if sizes is None or sizes.setdefault(known.heads, _heads(encoder)) != _heads(encoder):
        return None
    for name, value in empty.items():
        value.const_value = ir.tensor(held[name].detach().numpy(), name=name)
    for value in _values(program):  # what is fused is recognized by its shape, too
        if value.shape is not None:
            value.shape = ir.Shape([sizes.get(size, size) if isinstance(size, int) else size for size in value.shape])
    return program


def _sizes(shapes: Sequence[tuple[ir.Shape | None, torch.Size]]) -> dict[int, int] | None:
    """What each size of one model's weights is in another's; None where that is not the same everywhere."""
    sizes: dict[int, int] = {}
    for before, now in shapes:
        if before is None or len(before) != len(now):
            return None
        for size, other in zip(before, now, strict=True):
            if not isinstance(size, int) or sizes.setdefault(size, other) != other:
                return None
    return sizes


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.initializers.values()
    for node in model.graph:
        yield from node.outputs


def _heads(encoder: Encoder) -> int:
    return int(getattr(encoder.model.config, "num_attention_heads", 0))


def forget_program(key: str) -> None:
    """Give up a graph that does not answer as its model does."""
    _programs[key] = None


def answers_as_torch(model: ir.Model, encoder: Encoder) -> bool:
    """Whether a graph gives torch's answers to token ids by chance, in batches of two shapes with padding."""
    rng, names = np.random.default_rng(0), OUTPUT_NAMES[encoder.task]
    try:
        session = OnnxSession(ir.to_proto(model).SerializeToString(), threads=1)
        taken = [node.name for node in session.get_inputs()]
        for batch, length in _SHAPES:
            tokens = _tokens(encoder, rng, batch, length)
            expected = torch_answers(encoder, tokens)
            answers = session.run(names, {name: tokens[name].numpy() for name in taken})
            if not all(_is_near(answer, expected[name].numpy()) for name, answer in zip(names, answers, strict=True)):
                return False
    except Exception:  # onnxruntime's have no base but this: the graph is wrong for these weights
        return False
    return True


def _tokens(encoder: Encoder, rng: np.random.Generator, batch: int, length: int) -> dict[str, torch.Tensor]:
    """Inputs by name, each [B, S]; all but the first text are padded."""
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[1:, length - 3 :] = 0
    tokens = {name: torch.zeros_like(mask) for name in input_names(encoder)}
    ids = rng.integers(0, encoder.model.config.vocab_size, (batch, length))
    return tokens | {"input_ids": torch.from_numpy(ids), "attention_mask": mask}


def _is_near(answer: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> bool:
    if answer.shape != expected.shape:
        return False
    if answer.ndim == 3:
        answer, expected = answer[:, :-3], expected[:, :-3]  # what padding answers does not count
    return bool(np.abs(answer - expected).max() <= FP32_MAX_DIFFERENCE * np.abs(expected).max())


def _held_by(wrapped: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    """A module's weights and buffers by name, those that are not saved among them."""
    return {**dict(wrapped.named_parameters(remove_duplicate=False)), **dict(wrapped.named_buffers())}
