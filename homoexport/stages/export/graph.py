"""From a torch encoder to one ONNX graph of standard operators.

Pooling, dense layers and L2 normalisation lie inside the graph where the model is for sentence similarity.

B batch, S sequence, D hidden, V vocabulary, C labels.
"""

from __future__ import annotations

import copy
import linecache
from typing import Any

import onnx
import onnx_ir as ir
import torch
import transformers
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.graph_module import _loader

from homoexport.choices import OUTPUT_NAMES
from homoexport.encoder import Encoder, input_names, outputs_of, traits_of
from homoexport.encoder.traits import IS_TRANSFORMERS_5
from homoexport.errors import UserError, first_line
from homoexport.stages.export.depth import Repeat, list_of_layers, repeat_of, shortened
from homoexport.stages.export.fuse import unfold_gemms
from homoexport.stages.export.program import (
    answers_as_torch,
    forget_program,
    is_known,
    program_key,
    remember_program,
    remembered_program,
)
from homoexport.stages.export.quiet import quiet

DEFAULT_OPSET = 18  # what torch's exporter writes by itself, and the oldest that a recipe may ask for
MAX_PARAMETER_BYTES = 2_000_000_000  # protobuf's limit is 2 GiB for a file, graph and names included

_traced_sources: dict[str, str] = _loader.eval_cache


class _ExportedEncoder(torch.nn.Module):
    """The model with, where it takes one, a plain additive mask in front and, for sentences, what makes one vector."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder, self.names = encoder, input_names(encoder)
        self.model = _eager_copy(encoder.model)
        self.dense = torch.nn.ModuleList(encoder.dense)  # so that torch finds its weights
        # From version 5 on a ready-made 4-d mask is taken as it is; given a 2-d one, it is built by an index dance
        # (GatherND over ranges) in the graph. Version 4 builds a plain one by itself and takes nothing but 2-d.
        self.additive_mask = IS_TRANSFORMERS_5 and traits_of(encoder.model.config).takes_additive_mask

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        named = dict(zip(self.names, inputs, strict=True))
        mask = attention_mask = named.pop("attention_mask")
        if self.additive_mask:
            length = attention_mask.shape[1]
            mask = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * torch.finfo(torch.float32).min
            mask = mask.expand(-1, -1, length, -1)  # [B, 1, S, S]: the form that ONNX Runtime's fused attention takes
        output = self.model(**named, attention_mask=mask)
        return outputs_of(self.encoder, output, attention_mask)


def _eager_copy(model: Any) -> torch.nn.Module:
    """The same weights with eager attention.

    The sdpa graph carries an IsNaN and a Where over [B, H, S, S] in every layer, which nothing fuses.
    """
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"
    eager: torch.nn.Module = type(model)(config)
    eager.load_state_dict(model.state_dict(), strict=False, assign=True)  # a pooler may be in one and not in the other
    return eager.eval()


def _let_go(program: torch.onnx.ONNXProgram, *, sources_before: set[str]) -> None:
    """Have torch forget what it traced, some megabytes an export, which it keeps.

    In caches of methods, in a circle of references through C++, which Python cannot collect, and the source of each
    function that it wrote for itself.
    """
    assert program.exported_program is not None
    for source in _traced_sources.keys() - sources_before:
        del _traced_sources[source]
        linecache.cache.pop(source, None)
    for member in vars(ShapeEnv).values():
        if callable(clear := getattr(member, "cache_clear", None)):
            clear()
    for node in program.exported_program.graph.nodes:
        if isinstance(node.meta.get("val"), FakeTensor):
            vars(node.meta["val"].fake_mode.shape_env).clear()  # nobody asks it any more


def torch_to_onnx(encoder: Encoder, *, opset: int) -> ir.Model:
    """One graph of standard operators of a version, with dynamic batch and length and the outputs of `OUTPUT_NAMES`.

    The encoder's model is left as it is.

    Raises:
        UserError: an opset that torch cannot write; a model too big for one file, or one that torch cannot export.
    """
    parameter_bytes = sum(4 * parameter.numel() for parameter in encoder.model.parameters())
    if parameter_bytes > MAX_PARAMETER_BYTES:
        what = f"its weights take {parameter_bytes / 1e9:.1f} GB in fp32, and one ONNX file holds 2 GB"
        raise UserError(what, where=encoder.source, hint="distil a smaller student")
    if opset > onnx.defs.onnx_opset_version():  # torch tries, and prints what its converter thinks of that
        raise UserError(f"there is no opset {opset}", where="opset", hint=f"give {DEFAULT_OPSET}")
    wrapped = _ExportedEncoder(encoder).eval()
    if (repeated := _repeated(encoder, wrapped, opset=opset)) is not None:
        return repeated
    key = program_key(encoder, wrapped, wrapped.model.config, opset=opset)
    if (filled := _filled(key, encoder, wrapped)) is not None:
        return filled
    model, _ = _traced(encoder, wrapped, opset=opset)
    remember_program(key, model, encoder, wrapped)
    return _simplified(model)


def _repeated(encoder: Encoder, wrapped: _ExportedEncoder, *, opset: int) -> ir.Model | None:
    """The graph of a model out of that of two of its layers; None where its layers are not alike."""
    config = wrapped.model.config
    layers = list_of_layers(wrapped, config)
    if layers is None:
        return None
    with shortened(wrapped, config, layers):
        key = program_key(encoder, wrapped, config, opset=opset)
        if not is_known(key):
            model, repeat = _traced(encoder, wrapped, opset=opset, layers=layers)
            if repeat is None:
                forget_program(key)
            else:
                remember_program(key, model, encoder, wrapped, repeat)
    return _filled(key, encoder, wrapped)


def _filled(key: str, encoder: Encoder, wrapped: _ExportedEncoder) -> ir.Model | None:
    """A remembered graph with a model's weights; None where there is none, or it does not answer as the model does."""
    model = remembered_program(key, encoder, wrapped)
    if model is not None:
        model = _simplified(model)
        if answers_as_torch(model, encoder):
            return model
        forget_program(key)
    return None


def _simplified(model: ir.Model) -> ir.Model:
    """A traced graph with its constants folded, in the form that is quantized; the one given is used up."""
    program = torch.onnx.ONNXProgram(model, None)
    with quiet():
        program.optimize()
    unfold_gemms(program.model)
    return program.model


def _traced(
    encoder: Encoder, wrapped: _ExportedEncoder, *, opset: int, layers: str | None = None
) -> tuple[ir.Model, Repeat | None]:
    """What torch's exporter makes of a model, nothing folded, and what of it is one of the layers in a list."""
    names = input_names(encoder)
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, 5:] = 0
    example = tuple(mask if name == "attention_mask" else torch.zeros_like(mask) for name in names)
    dynamic = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    sources_before = set(_traced_sources)
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                wrapped,
                example,
                dynamo=True,
                opset_version=opset,
                input_names=list(names),
                output_names=list(OUTPUT_NAMES[encoder.task]),
                dynamic_shapes=((dynamic,) * len(names),),  # one entry for `*inputs`
                verbose=False,
                optimize=False,
            )
    except torch.onnx.OnnxExporterError as error:
        what = (
            f"torch {torch.__version__} cannot export this {type(encoder.model).__name__} of transformers "
            f"{transformers.__version__} ({first_line(error.__cause__ or error)})"
        )
        raise UserError(what, where=encoder.source, hint="try the versions of constraints.txt") from error
    assert program is not None
    _let_go(program, sources_before=sources_before)
    model: ir.Model = program.model
    if model.opset_imports[""] != opset:
        raise UserError(f"torch cannot write opset {opset}", where="opset", hint=f"give {DEFAULT_OPSET}")
    repeat = None if layers is None else repeat_of(model, layers)
    ClearMetadataAndDocStringPass()(model)  # the exporter leaves a stack trace at every node: 0.4 MB
    return model, repeat
