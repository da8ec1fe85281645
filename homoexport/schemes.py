"""The table of export schemes: how the numbers of a graph can be stored, and all that is known of each way.

`stages.export.quantize` makes them. docs/adding-an-export-scheme.md says how to add one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from homoexport.choices import (
    BROWSER_PROVIDERS,
    EmbeddingChoice,
    EmbeddingPrecision,
    Quantization,
    Runtime,
    Scheme,
    WeightPrecision,
)
from homoexport.errors import UserError

CPU_PROVIDER = "CPUExecutionProvider"
# Exactly, four products a sum; without, AVX2 adds pairs of them in 16 bits, which can overflow.
_MULTIPLIES_BYTES = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_MULTIPLIES_BF16 = frozenset({"avx512_bf16", "amx_bf16"})


@dataclass(frozen=True)
class StoredAs:
    """Names of a file whose weights have a precision."""

    file: str  # inside a package, as transformers.js calls it
    transformers_js_dtype: str  # as config.json has it, where this is the file to load unless told otherwise


PRECISIONS: dict[WeightPrecision, StoredAs] = {
    "fp32": StoredAs("onnx/model.onnx", "fp32"),
    "int8": StoredAs("onnx/model_quantized.onnx", "q8"),
    "int4": StoredAs("onnx/model_q4.onnx", "q4"),
    "fp16": StoredAs("onnx/model_fp16.onnx", "fp16"),
}
INT4_TABLE_BLOCK = 128  # numbers of a 4-bit word that share a scale
NUMBERS_OF_CODE, VALUES_OF_CODE = 4, 256  # of a product-quantized word, a code of a byte: 2 bits a number
EMBEDDINGS: dict[EmbeddingPrecision, str] = {
    "fp32": "fp32 tables",
    "int8": "uint8 tables, one scale each",
    "int4": "4-bit word table, a scale for each 128; uint8 tables of positions and token types",
    "pq": "product-quantized word table, 2 bits a number; uint8 tables of positions and token types",
}


@dataclass(frozen=True)
class SchemeFacts:
    """What is known of a scheme; docs/adding-an-export-scheme.md has more on each part."""

    precision: WeightPrecision  # of the weights of matrix products; it says which bounds of parity apply, too
    asked_as: Quantization
    description: str
    automatic: bool = False  # `--quantize auto` tries it
    automatic_in_browsers: bool = False  # it does in a browser
    calibrated: bool = False  # its scales are made from text beforehand; `auto` tries it only if there is some
    follows_batch: bool = False  # its scales follow the values as they come, so that an answer depends on the batch
    where_sums_overflow: bool = False  # it is for processors alone that add products of bytes in 16 bits
    on_cpu_provider: bool = True  # `auto` tries it on onnxruntime's CPU provider, too
    in_blocks: bool = False  # weights are packed in blocks, so that no graph of other widths can be made from the file
    tables: EmbeddingPrecision = "int8"  # how embedding tables are stored unless asked otherwise
    own_tables: str | None = None  # the description of tables that have its own precision, and no other


# In the order in which they are tried: the likeliest first, and fp32, which the others are held against, last.
SCHEMES: dict[Scheme, SchemeFacts] = {
    "int8": SchemeFacts(
        precision="int8",
        asked_as="int8",
        description="dynamic int8: signed weights per output column, uint8 activations per tensor, scaled as they come",
        automatic=True,
        follows_batch=True,
    ),
    "int8-7-bit": SchemeFacts(
        precision="int8",
        asked_as="int8",
        description="dynamic int8 of 7 bits: signed weights per output column, so that no 16-bit sum overflows",
        automatic=True,
        follows_batch=True,
        where_sums_overflow=True,
    ),
    "int8-unsigned": SchemeFacts(
        precision="int8",
        asked_as="int8",
        description="dynamic int8: unsigned weights per output column, uint8 activations per tensor",
        automatic=True,
        follows_batch=True,
        where_sums_overflow=True,
    ),
    "int8-static": SchemeFacts(
        precision="int8",
        asked_as="int8-static",
        description="static int8: signed weights per output column, uint8 activations with calibrated scales",
        automatic=True,
        calibrated=True,
    ),
    "int8-qdq": SchemeFacts(
        precision="int8",
        asked_as="int8-static",
        description="static int8 in QuantizeLinear and DequantizeLinear pairs: weights per output column",
        automatic=True,
        calibrated=True,
        on_cpu_provider=False,
    ),
    "int4": SchemeFacts(
        precision="int4",
        asked_as="int4",
        description="4-bit weights in blocks of 32, products with int8 activations",
        in_blocks=True,
    ),
    "fp16": SchemeFacts(
        precision="fp16",
        asked_as="fp16",
        description="fp16 weights and arithmetic, fp32 inputs and outputs",
        tables="fp32",
        own_tables="fp16 tables",
        automatic_in_browsers=True,
    ),
    "fp32": SchemeFacts(precision="fp32", asked_as="none", description="none", automatic=True, tables="fp32"),
}
NO_TEXT = "was not tried, for its scales are calibrated on text: give a file of it with --text"
_IN_OPENVINO: dict[Scheme, tuple[Quantization, ...]] = {
    "int8-static": ("auto", "int8", "int8-static"),
    "fp32": ("auto", "none"),
}
_IN_CTRANSLATE2: dict[Scheme, tuple[Quantization, ...]] = {"int8": ("auto", "int8"), "fp32": ("auto", "none")}
_IN_OTHERS: dict[Runtime, dict[Scheme, tuple[Quantization, ...]]] = {
    "openvino": _IN_OPENVINO,
    "ctranslate2": _IN_CTRANSLATE2,
}
QUANTIZE_HELP: dict[Quantization, str] = {
    "auto": "the fastest that passes the accuracy gate",
    "none": "fp32",
    "int8": "scales follow the values as they come",
    "int8-static": "calibrated scales, the same answer in any batch",
    "int4": "4-bit weights, for size",
    "fp16": "for GPUs and browsers",
}


def schemes_for(
    quantize: Quantization,
    instruction_sets: Collection[str],
    *,
    x86: bool,
    calibrated: bool,
    provider: str = CPU_PROVIDER,
) -> tuple[Scheme, ...]:
    """The schemes to try on a target, the likeliest first; fp32 is among them as what the others are held against.

    `calibrated`: whether there is text of the user's own. Calibrated scales clip what no text of the calibration
    reached, so without they ship on demand alone. Other providers than the CPU's know them as QDQ.
    """
    overflows = x86 and not _MULTIPLIES_BYTES & set(instruction_sets)

    def is_tried(facts: SchemeFacts) -> bool:
        if facts.where_sums_overflow and not overflows:
            return False
        if quantize != "auto":
            return facts.asked_as in (quantize, "none")
        has_scales = calibrated or not facts.calibrated
        automatic = facts.automatic or (facts.automatic_in_browsers and provider in BROWSER_PROVIDERS)
        return automatic and has_scales and (facts.on_cpu_provider or provider != CPU_PROVIDER)

    return tuple(scheme for scheme, facts in SCHEMES.items() if is_tried(facts))


def attends_in_int8(instruction_sets: Collection[str]) -> bool:
    """Whether OpenVINO computes attention's products faster in int8 than in floats, as bench/export_peers.py found."""
    return bool(_MULTIPLIES_BYTES & set(instruction_sets)) and not _MULTIPLIES_BF16 & set(instruction_sets)


def schemes_in(runtime: Runtime, quantize: Quantization, *, calibrated: bool) -> tuple[Scheme, ...]:
    """The schemes to try in another runtime; what has calibrated scales only where there is text."""
    return tuple(
        scheme
        for scheme, asked in _IN_OTHERS[runtime].items()
        if quantize in asked and (calibrated or not SCHEMES[scheme].calibrated)
    )


def embeddings_of(choice: EmbeddingChoice, scheme: Scheme) -> EmbeddingPrecision:
    """How a scheme's embedding tables are stored: where nothing else was asked for, in 8 bits if its weights are.

    Raises:
        UserError: tables of fewer bits in a scheme that has tables of its own.
    """
    facts = SCHEMES[scheme]
    if facts.own_tables and choice in ("int8", "int4", "pq"):
        what = f"{scheme} has its tables in {facts.precision}, not in {choice}"
        raise UserError(what, where="--embeddings", hint="leave it out")
    return facts.tables if choice == "auto" else choice


def refuse_scales_without_text(quantize: Quantization, *, calibrated: bool) -> None:
    """Refuse to calibrate on nothing.

    Raises:
        UserError: what was asked for has calibrated scales, and there is no text.
    """
    if not calibrated and any(facts.calibrated and facts.asked_as == quantize for facts in SCHEMES.values()):
        raise UserError("its scales are calibrated on text", where=quantize, hint="give a file of it with --text")
