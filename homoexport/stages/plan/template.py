"""Graphs of any size out of one export, to measure before there is a student.

Latency and memory hardly depend on what the weights are, and exporting takes seconds where measuring takes one. So a
model of small, odd sizes is exported and quantized as a student is, once for each number of layers; in its graph the
sizes are recognized by their numbers, and a graph of other sizes is the same graph with other numbers in their place.

Letters: L layers, D hidden size, F ffn width, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from homoexport.choices import EmbeddingPrecision, Scheme
from homoexport.documents.package import parts_of, runtime_of
from homoexport.encoder import Encoder, family_of, start_from_scratch
from homoexport.errors import UserError
from homoexport.schemes import INT4_TABLE_BLOCK, NUMBERS_OF_CODE, SCHEMES, VALUES_OF_CODE
from homoexport.shape import Shape
from homoexport.stages.plan.instruments import Instruments, WriteGraph

# Primes, so that each product is of one kind; head widths are four of one, so that words in fewer bits come out even.
_HEADS, _HEAD_WIDTHS, _FFN = (7, 11, 13), (4 * 5, 4 * 7, 4 * 11), (211, 223, 227)
_WORDS = 256  # different ones of a template: what words are makes no difference, and these are quantized at once
_MULTIPLES = 4  # of a size in one number: projections side by side, the two halves of a gated layer
_SHORT = 8  # elements of a tensor of numbers that can be a shape; longer ones are positions and the like

Stored = tuple[Scheme, EmbeddingPrecision]  # how a graph keeps its weights, and its embedding tables
Rank = Callable[[Sequence[Path]], Sequence[float]]  # what files cost, lower is better


class Templates:
    """Graphs of an encoder's architecture (family, vocabulary, task and pooling) at any widths.

    `folder` is for files that are kept until the work is done.
    """

    def __init__(
        self, encoder: Encoder, folder: Path, instruments: Instruments, progress: Callable[[str], None]
    ) -> None:
        self.encoder, self.folder, self.instruments, self.progress = encoder, folder, instruments, progress
        self._odd = _odd_shape(encoder)
        self._writers: dict[int, WriteGraph] = {}
        self._left_out: dict[str, str] = {}

    def best_form(self, forms: Mapping[str, Sequence[str]], shape: Shape, stored: Stored, rank: Rank) -> str:
        """The name of the form that is fastest at a shape, found as an export finds a student's.

        Forms have their variants with them, which are tried if it is the fastest.
        """
        form = self._fastest(list(forms), shape, stored, rank)
        return self._fastest([form, *forms[form]], shape, stored, rank)

    def _fastest(self, forms: Sequence[str], shape: Shape, stored: Stored, rank: Rank) -> str:
        files: dict[str, Path] = {}
        for form in forms:
            if file := self.write(self.folder / f"form-{form}.onnx", shape, form, stored):
                files[form] = file
        if not files:
            reasons = "; ".join(f"{form}: {reason}" for form, reason in self._left_out.items())
            raise UserError(
                f"no graph of this architecture answers as the model does ({reasons})", where=self.encoder.source
            )
        self.progress("measuring the forms of the graph")
        medians = dict(zip(files, rank(list(files.values())), strict=True))
        for file in files.values():
            remove(file)
        return min(files, key=lambda form: medians[form])

    def write(self, file: Path, shape: Shape, form: str, stored: Stored) -> Path | None:
        """Write the graph of a model of this shape; what its runtime opens, which is `file` but for its suffix, or in a
        folder of that name.

        None where the form is not right for the architecture.
        """
        of_model = self.instruments.from_models.get(form)
        if of_model is None:
            made = self._writer(shape.num_hidden_layers)(form, *stored)
        else:
            made = of_model(self._from_scratch(shape), file.with_suffix(""), *stored)
        if isinstance(made, str):
            self._left_out[form] = made
            return None
        if of_model is not None:
            return made
        odd = replace(self._odd, num_hidden_layers=shape.num_hidden_layers)
        sizes = (_sizes_of(each, self.encoder) for each in (odd, shape))
        ir.save(_resized(ir.load(made), dict(zip(*sizes, strict=True))), file)
        return self.instruments.converted(file, form, stored[0])

    def _writer(self, layers: int) -> WriteGraph:
        if layers not in self._writers:
            self.progress(f"exporting a graph of {layers} layer{'s' * (layers > 1)}")
            odd = replace(self._odd, num_hidden_layers=layers)
            small = self._from_scratch(odd)
            words = small.model.get_input_embeddings().weight.data
            words.copy_(words[torch.arange(len(words)) % _WORDS])
            folder = self.folder / f"{layers}-layers"
            folder.mkdir()
            self._writers[layers] = self.instruments.make_graphs(small, folder)
        return self._writers[layers]

    def _from_scratch(self, shape: Shape) -> Encoder:
        """A student of this shape, with random weights."""
        model = start_from_scratch(self.encoder.model, family_of(self.encoder.model.config), shape)
        return replace(self.encoder, model=model, dense=())


def remove(file: Path) -> None:
    """Remove a model's files, and their folder where it was made for them."""
    for part in parts_of(file):
        part.unlink()
    if runtime_of(file) == "ctranslate2":
        file.parent.rmdir()


def refuse_blocks(scheme: Scheme) -> None:
    """Refuse (UserError) 4-bit weights, which are packed in blocks whose numbers are none of the sizes."""
    if SCHEMES[scheme].in_blocks:
        raise UserError(
            "4-bit weights are stored in blocks, which have to be exported to be measured",
            where="export.quantize",
            hint="plan with int8, and export with int4 afterwards",
        )


def _sizes_of(shape: Shape, encoder: Encoder) -> list[int]:
    """Every number in a graph that depends on the shape, in a fixed order."""
    family = family_of(encoder.model.config)
    heads, head_dim, hidden = shape.num_attention_heads, shape.head_dim, shape.hidden_size
    widened = heads * (head_dim + 1)  # where the mask is a dimension of each key
    sizes = [times * size for size in (shape.intermediate_size, widened) for times in range(1, _MULTIPLES + 1)]
    # All layers of DeBERTa project the same positions, twice, which can be one product. Of 64 times, see the codes.
    codes = hidden // NUMBERS_OF_CODE
    multiples = set(range(1, max(_MULTIPLES, 2 * shape.num_hidden_layers) + 1)) - {VALUES_OF_CODE // NUMBERS_OF_CODE}
    sizes += [times * hidden for times in sorted(multiples)]
    sizes += [hidden // 2, codes, codes * VALUES_OF_CODE]  # words in 4 bits, and product-quantized ones
    sizes += [2 * widened + hidden, heads, *([head_dim, head_dim + 1] if family.prunes_head_width else [])]
    if not family.heads_make_hidden:
        queries = family.widths(encoder.model).queries_per_key  # of each key
        keys = heads // queries
        sizes += [keys] * (queries > 1)
        # Keys, with values, with both and the queries, and queries.
        of_keys = {1, 2, 2 + queries, *(times * queries for times in range(1, _MULTIPLES + 1))}
        sizes += [times * keys * head_dim for times in sorted(of_keys)]
    return sizes


def _odd_shape(encoder: Encoder) -> Shape:
    """A shape whose numbers are all different, and none of the others in the model's config."""
    config, family = encoder.model.config, family_of(encoder.model.config)
    widths = family.widths(encoder.model)
    own_width = None if family.heads_make_hidden else widths.head_dim
    of_hidden = _HEAD_WIDTHS if family.prunes_head_width or own_width else (widths.head_dim,)
    others = {value for value in config.to_dict().values() if isinstance(value, int)} | {config.num_labels}
    for number, width, ffn in product(_HEADS, of_hidden, _FFN):
        heads = number * widths.queries_per_key
        shape = Shape(widths.num_hidden_layers, heads * width, ffn, heads, own_width)
        sizes = _sizes_of(shape, encoder)
        if len(set(sizes)) == len(sizes) and not others & set(sizes):
            return shape
    what = "its config has sizes that a plan's graphs cannot be told from"
    raise UserError(what, where=encoder.source, hint="name the student's shape, which needs no plan")


def _resized(model: ir.Model, sizes: Mapping[int, int]) -> ir.Model:
    """A graph of the odd model with other sizes; the one given is used up. Its weights are the odd ones, repeated."""
    in_4_bits = {}  # scales of words, with the bytes of one
    for node in model.graph:
        if node.op_type == "GatherBlockQuantized":
            words, _, scales = node.inputs
            assert words is not None
            assert words.const_value is not None
            in_4_bits[scales] = int(words.const_value.numpy().shape[1])
    for name, value in list(model.graph.initializers.items()):
        assert value.const_value is not None
        array = value.const_value.numpy()
        if value in in_4_bits:
            width = 2 * sizes.get(in_4_bits[value], in_4_bits[value])  # which two numbers are in
            blocks = -(-width // INT4_TABLE_BLOCK)
            value.const_value = ir.Tensor(np.resize(array, (len(array), blocks)), name=name)
        else:
            value.const_value = _tensor(array, sizes, name)
        value.shape = ir.Shape(value.const_value.numpy().shape)
    for node in model.graph:
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.INT and name.endswith("num_heads"):
                node.attributes[name] = ir.AttrInt64(name, sizes.get(attribute.as_int(), attribute.as_int()))
            elif node.op_type == "Constant" and attribute.type == ir.AttributeType.TENSOR:
                tensor = _tensor(attribute.as_tensor().numpy(), sizes, name)
                node.attributes[name] = ir.AttrTensor(name, tensor)
        for output in node.outputs:
            output.shape = None
    return model


def _tensor(array: NDArray[Any], sizes: Mapping[int, int], name: str) -> ir.TensorProtocol:
    if array.dtype in (np.int64, np.int32) and array.size <= _SHORT:
        numbers = [sizes.get(int(number), int(number)) for number in array.flat]
        return ir.Tensor(np.array(numbers, array.dtype).reshape(array.shape), name=name)
    return ir.Tensor(np.resize(array, tuple(sizes.get(length, length) for length in array.shape)), name=name)
