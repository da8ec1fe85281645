"""From a torch encoder to one ONNX graph of standard operators.

Pooling and L2 normalisation lie inside the graph where the model is for sentence similarity.

B batch, S sequence, D hidden, V vocabulary, C labels.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import onnx_ir as ir
import torch
import transformers
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from homoexport.choices import OUTPUT_NAMES
from homoexport.encoder import Encoder, Pooling, family_of, input_names, pool
from homoexport.errors import UserError
from homoexport.stages.export.fuse import unfold_gemms

MIN_OPSET = 18  # what torch's exporter writes by itself; older ones are refused rather than down-converted
MAX_PARAMETER_BYTES = 2_000_000_000  # protobuf's limit is 2 GiB for a file, graph and names included


class _ExportedEncoder(torch.nn.Module):
    """The model with, where it takes one, a plain additive mask in front and, for sentences, pooling behind."""

    def __init__(self, model: Any, names: Sequence[str], outputs: Sequence[str], pooling: Pooling | None) -> None:
        super().__init__()
        self.model, self.names, self.outputs, self.pooling = model, names, outputs, pooling
        # From version 5 on a ready-made 4-d mask is taken as it is; given a 2-d one, it is built by an index dance
        # (GatherND over ranges) in the graph. Version 4 builds a plain one by itself and takes nothing but 2-d.
        newer = int(transformers.__version__.split(".")[0]) >= 5
        self.additive_mask = newer and family_of(model.config).takes_additive_mask

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        named = dict(zip(self.names, inputs, strict=True))
        mask = attention_mask = named.pop("attention_mask")
        if self.additive_mask:
            length = attention_mask.shape[1]
            mask = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * torch.finfo(torch.float32).min
            mask = mask.expand(-1, -1, length, -1)  # [B, 1, S, S]: the form that ONNX Runtime's fused attention takes
        output = self.model(**named, attention_mask=mask)
        if "logits" in self.outputs:
            return (output.logits,)
        hidden = output.last_hidden_state
        if self.pooling is None:
            return (hidden,)
        return pool(hidden, attention_mask, self.pooling), hidden


def _eager_copy(model: Any) -> torch.nn.Module:
    """The same weights with eager attention.

    The sdpa graph carries an IsNaN and a Where over [B, H, S, S] in every layer, which nothing fuses.
    """
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"
    eager: torch.nn.Module = type(model)(config)
    eager.load_state_dict(model.state_dict(), strict=False, assign=True)  # a pooler may be in one and not in the other
    return eager.eval()


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep remarks on torch's own deprecations, transformers' hooks and torchvision's absence from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", message="While compiling, we found certain side effects")
            warnings.filterwarnings("ignore", message="# The axis name")
            yield
    finally:
        logger.setLevel(level)


def torch_to_onnx(encoder: Encoder, *, opset: int) -> ir.Model:
    """One graph of standard operators with dynamic batch and length.

    Args:
        encoder: what to export. Its model is left as it is.
        opset: version of the standard operators.

    Returns:
        The graph, with the outputs of `OUTPUT_NAMES`.

    Raises:
        UserError: an opset below 18 or one that torch cannot write; a model too big for one file, or one that torch
            cannot export.
    """
    parameter_bytes = sum(4 * parameter.numel() for parameter in encoder.model.parameters())
    if parameter_bytes > MAX_PARAMETER_BYTES:
        raise UserError(
            f"its weights take {parameter_bytes / 1e9:.1f} GB in fp32, and one ONNX file holds 2 GB",
            where=encoder.source,
            hint="distil a smaller student",
        )
    if opset < MIN_OPSET:
        raise UserError(f"opset {opset} is too old", where="opset", hint=f"give {MIN_OPSET} or more")
    if opset > onnx.defs.onnx_opset_version():  # torch tries, and prints what its converter thinks of that
        raise UserError(f"there is no opset {opset}", where="opset", hint=f"give {MIN_OPSET}")
    names, outputs = input_names(encoder), OUTPUT_NAMES[encoder.task]
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, 5:] = 0
    example = tuple(mask if name == "attention_mask" else torch.zeros_like(mask) for name in names)
    dynamic = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    wrapped = _ExportedEncoder(_eager_copy(encoder.model), names, outputs, encoder.pooling).eval()
    try:
        with _quiet_exporter(), torch.no_grad():
            program = torch.onnx.export(
                wrapped,
                example,
                dynamo=True,
                opset_version=opset,
                input_names=list(names),
                output_names=list(outputs),
                dynamic_shapes=((dynamic,) * len(names),),  # one entry for `*inputs`
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = next(
            (line for line in str(error.__cause__ or error).splitlines() if line.strip()), type(error).__name__
        )
        raise UserError(
            f"torch {torch.__version__} cannot export this {type(encoder.model).__name__} of transformers "
            f"{transformers.__version__} ({reason.strip()})",
            where=encoder.source,
            hint="try the versions of constraints.txt",
        ) from error
    assert program is not None
    model: ir.Model = program.model
    if model.opset_imports[""] != opset:
        raise UserError(f"torch cannot write opset {opset}", where="opset", hint=f"give {MIN_OPSET}")
    unfold_gemms(model)
    ClearMetadataAndDocStringPass()(model)  # the exporter leaves a stack trace at every node: 0.4 MB
    return model


def describe(model: ir.Model, properties: dict[str, str]) -> None:
    """Write properties into the file's own metadata."""
    model.metadata_props.update({f"homoexport.{name}": value for name, value in properties.items()})
    model.producer_name = "homoexport"
