"""Forms of a graph: the same function in other operators. Which one is fastest is measured, not known.

Every form but `unfused` is made from the graph that onnxscript fuses for ONNX Runtime.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir
from onnxscript.rewriter.ort_fusions import optimize_for_ort

from homoexport.choices import AttentionForm, GraphChoice
from homoexport.stages.export.attention import MICROSOFT, STANDARD_OPSET, fold_mask, use_standard_attention
from homoexport.stages.export.fuse import (
    merge_projections,
    split_bias_gelu,
    split_projections,
    sum_residuals,
    use_standard_gelu,
)
from homoexport.stages.export.quiet import quiet


class NotThisForm(Exception):
    """The graph cannot be written so, or it would be no other than without; the message says why."""


@dataclass(frozen=True)
class Form:
    """How a graph is written."""

    attention: AttentionForm  # unfused: products and Softmax; else see `stages.export.attention`
    merged: bool = False  # query, key and value are one product, split afterwards
    skip_layer_norm: bool = False  # residual additions and GELU's bias are fused into what follows them
    smoothing: float | None = None  # the strength that products' inputs are smoothed with

    @property
    def name(self) -> str:
        variants = [*["merged"] * self.merged, *["skip-layer-norm"] * self.skip_layer_norm]
        smoothed = [] if self.smoothing is None else [f"smoothed-{self.smoothing:g}"]
        return "+".join([self.attention, *variants, *smoothed])


ATTENTION_FORMS = (Form("standard"), Form("flash"), Form("multi-head"), Form("unfused", merged=True))


def forms_of(graph: GraphChoice) -> dict[Form, tuple[Form, ...]]:
    """The forms to try for a choice, each with the variants to try if it is the fastest."""
    if graph == "auto":
        return {form: variants_of(form) for form in ATTENTION_FORMS}
    return {form: () for form in ATTENTION_FORMS if form.attention == graph}


def variants_of(form: Form) -> tuple[Form, ...]:
    """The form with one other thing changed at a time; fusing is not always a gain."""
    if form.attention == "unfused":
        return (replace(form, merged=not form.merged),)
    return replace(form, merged=not form.merged), replace(form, skip_layer_norm=not form.skip_layer_norm)


def fused_base(model: ir.Model, *, skip_layer_norm: bool) -> ir.Model:
    """What the fused forms of an exported graph begin with; the model given is used up.

    Raises:
        NotThisForm: nothing in the graph could be fused.
    """
    if not skip_layer_norm:
        sum_residuals(model)
    merge_projections(model)
    fused: ir.Model
    with quiet():  # it tells of each node that it does not fold
        fused, _ = optimize_for_ort(model, clear_metadata=True)
    if all(node.domain != MICROSOFT for node in fused.graph):
        raise NotThisForm("nothing in the graph could be fused")
    if not skip_layer_norm:
        split_bias_gelu(fused)
    return fused


def write_as(model: ir.Model, form: Form, *, max_opset: int | None = None) -> ir.Model:
    """The graph in another form; the model given is used up.

    It is for an unfused form what `stages.export.graph.torch_to_onnx` gave, for the others `fused_base`. `max_opset`
    is the newest operator set that may be used, where there is a limit.

    Raises:
        NotThisForm: the graph is no other so, or the form needs newer operators.
    """
    if form.attention == "unfused":
        if not form.skip_layer_norm:
            sum_residuals(model)
        if form.merged:
            merge_projections(model)
        return model
    if form.attention == "standard" and max_opset is not None and max_opset < STANDARD_OPSET:
        raise NotThisForm(f"Attention is an operator of opset {STANDARD_OPSET}")
    split_projections(model)
    if form.attention == "flash" and not fold_mask(model):
        raise NotThisForm(
            "its attention's bias is not known to be a mask of padding alone (layers are causal or local, positions "
            "relative or rotary, or the model has no adapter)"
        )
    if form.attention == "standard":
        if not use_standard_attention(model):
            raise NotThisForm("no attention was fused")
        use_standard_gelu(model)
    if form.merged:
        merge_projections(model)
    return model
