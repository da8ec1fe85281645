"""Packing a tokenizer into an ONNX file, so that a program in any language passes strings.

The file then needs operators of onnxruntime-extensions: one shared library to register with the session. The library
has all of them unless it was built with a selection, as its packages for Android and iOS are, which lack those of
WordPiece: there, build it with `ai.onnx.contrib;1;TrieTokenizer,TrieDetokenizer` in the selection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerBase

from homoexport.documents.package import PackedTokenizer, TokenizerKind
from homoexport.errors import HomoexportError, ParityError, UserError
from homoexport.runtime.session import OnnxSession
from homoexport.runtime.worker.inputs import padded_tokens
from homoexport.stages.export.byte_level import BYTE_LEVEL_OPERATORS, write_byte_level
from homoexport.stages.export.sequences import EXTENSIONS_DOMAIN, GraphWriter, backend_of, read_frame, write_sequences
from homoexport.stages.export.unigram import UNIGRAM_OPERATORS, write_unigram
from homoexport.stages.export.wordpiece import WORDPIECE_OPERATORS, write_wordpiece
from homoexport.text.awkward import PLAIN_ENGLISH, awkward_texts

TEXT_INPUT = "text"
_COMPARED = ("input_ids", "attention_mask")
_BATCH = 64  # texts of one run of the comparison
_ANSWERED = 4  # texts whose answers are compared, too


def extensions_library() -> str:
    """Path of the operators' shared library, for `SessionOptions.register_custom_ops_library`.

    Raises:
        UserError: onnxruntime-extensions is not installed.
    """
    try:
        import onnxruntime_extensions
    except ImportError:
        what, hint = "onnxruntime-extensions is not installed", "pip install 'homoexport[strings]'"
        raise UserError(what, where="--with-tokenizer", hint=hint) from None
    return str(onnxruntime_extensions.get_library_path())


def refuse_inexpressible(tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
    """Raise what would stop `pack_tokenizer`, before a graph is made; takes a second or two."""
    extensions_library()
    _write_tokens(GraphWriter(), _text_input(), tokenizer, max_length=max_length)


def _text_input() -> ir.Value:
    return ir.Value(name=TEXT_INPUT, type=ir.TensorType(ir.DataType.STRING), shape=ir.Shape(["batch"]))


def pack_tokenizer(
    model_file: Path, tokenizer: PreTrainedTokenizerBase, *, max_length: int, target: Path
) -> PackedTokenizer:
    """Write a copy of an ONNX file that takes texts in place of token ids, and compare it with the tokenizer.

    Its one input is `text`, strings [B]; its outputs are those of `model_file`. Texts are truncated to `max_length`
    tokens and padded to the longest one of the batch, both on the right. The comparison takes a few seconds.

    The inputs of `model_file` are `input_ids`, `attention_mask` and, where it has a use for them, `token_type_ids`,
    each int64 [B, S].

    Raises:
        UserError: onnxruntime-extensions is not installed; a tokenizer that cannot be expressed, or that the packed
            one differs from on plain English; other inputs than these; a `max_length` without room for text.
        ParityError: the packed file does not answer some texts as `model_file` answers their ids.
    """
    library = extensions_library()
    writer = GraphWriter()
    text = _text_input()
    tokens, operators = _write_tokens(writer, text, tokenizer, max_length=max_length)
    model = ir.load(model_file)
    _replace_inputs(model, text, tokens, where=str(model_file))
    model.graph.insert_before(model.graph[0], writer.nodes)
    for constant in writer.initializers:
        model.graph.register_initializer(constant)
    model.graph.opset_imports[EXTENSIONS_DOMAIN] = 1
    RemoveUnusedNodesPass()(model)
    ir.save(model, target)

    try:
        kinds = _check(target, model_file, tokenizer, max_length=max_length, library=library)
    except HomoexportError:
        target.unlink()
        raise
    return PackedTokenizer(
        file=target.name,
        input=TEXT_INPUT,
        onnxruntime_extensions=metadata.version("onnxruntime-extensions"),
        operators=tuple(f"{EXTENSIONS_DOMAIN}::{operator}" for operator in operators),
        strings=sum(kind.strings for kind in kinds.values()),
        equal=sum(kind.equal for kind in kinds.values()),
        differing_kinds=tuple(name for name, kind in kinds.items() if kind.equal < kind.strings),
        kinds=kinds,
    )


def _write_tokens(
    writer: GraphWriter, text: ir.Value, tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> tuple[dict[str, ir.Value], Sequence[str]]:
    """Token ids of texts, and the operators of onnxruntime-extensions that they take."""
    operators: Sequence[str]
    kind = type(backend_of(tokenizer).model)
    if kind is models.BPE:
        (ids, kept), operators = write_byte_level(writer, text, tokenizer), BYTE_LEVEL_OPERATORS
    elif kind is models.Unigram:
        (ids, kept), operators = write_unigram(writer, text, tokenizer), UNIGRAM_OPERATORS
    else:
        (ids, kept), operators = write_wordpiece(writer, text, tokenizer), WORDPIECE_OPERATORS
    frame = read_frame(tokenizer)
    if max_length <= frame.special_tokens:
        what = f"{max_length} tokens hold no text beside {frame.special_tokens} special ones"
        raise UserError(what, where="max_length", hint="give more")
    return write_sequences(writer, ids, kept, frame, max_length=max_length), operators


def _check(
    packed: Path, model_file: Path, tokenizer: PreTrainedTokenizerBase, *, max_length: int, library: str
) -> dict[str, TokenizerKind]:
    """The comparison by kinds, and what else `pack_tokenizer` raises of its file."""
    texts = awkward_texts(token.content for token in tokenizer.added_tokens_decoder.values())
    oracle, pad_id = backend_of(tokenizer), tokenizer.pad_token_id
    oracle.enable_truncation(max_length)
    alone = ir.to_proto(_tokens_alone(packed)).SerializeToString()
    tokens_alone = OnnxSession(alone, threads=1, library=library)
    kinds = {name: _compare(tokens_alone, oracle, kind, pad_id) for name, kind in texts.items()}
    figures = kinds[PLAIN_ENGLISH]
    if differing := figures.strings - figures.equal:
        what = f"the packed tokenizer differs from this one on {differing} of {figures.strings} plain English texts"
        raise UserError(what, where="--with-tokenizer", hint="export without it")
    _check_answers(model_file, packed, oracle, texts[PLAIN_ENGLISH][:_ANSWERED], pad_id, library)
    return kinds


def _replace_inputs(model: ir.Model, text: ir.Value, tokens: Mapping[str, ir.Value], *, where: str) -> None:
    """Whatever read the model's inputs reads `tokens` of the same names from now on."""
    taken = list(model.graph.inputs)
    names = [str(value.name) for value in taken]
    if not set(_COMPARED) <= set(names) <= set(tokens):
        hint = "name a graph that takes input_ids and attention_mask, and at most token_type_ids beside them"
        raise UserError(f"its graph takes {', '.join(names)}", where=where, hint=hint)
    model.graph.inputs[:] = [text]
    for value, name in zip(taken, names, strict=True):
        token = tokens[name]
        value.replace_all_uses_with(token)
        token.name, token.type, token.shape = name, value.type, value.shape


def _tokens_alone(packed: Path) -> ir.Model:
    """The part of a packed file that makes token ids and their mask."""
    model = ir.load(packed)
    made = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs[:] = [made[name] for name in _COMPARED]
    RemoveUnusedNodesPass()(model)
    return model


def _compare(packed: OnnxSession, oracle: Tokenizer, texts: Sequence[str], pad_id: int) -> TokenizerKind:
    equal = 0
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        found, mask = packed.run(list(_COMPARED), {TEXT_INPUT: np.array(batch, dtype=object)})
        for row, attended, encoding in zip(found, mask, oracle.encode_batch(batch), strict=True):
            wanted = padded_tokens([encoding.ids], pad_id, width=len(row))
            ids, mask = wanted["input_ids"][0], wanted["attention_mask"][0]
            equal += np.array_equal(row, ids) and np.array_equal(attended, mask)
    return TokenizerKind(strings=len(texts), equal=equal)


def _check_answers(
    model_file: Path, packed: Path, oracle: Tokenizer, texts: Sequence[str], pad_id: int, library: str
) -> None:
    """Refuse a packed file that does not answer texts as the other one answers their ids, to the last bit."""
    rows = [encoding.ids for encoding in oracle.encode_batch(texts)]
    given = padded_tokens(rows, pad_id)
    plain = OnnxSession(model_file, threads=1, library=library)
    wanted = plain.run(None, {value.name: given[value.name] for value in plain.get_inputs()})
    found = OnnxSession(packed, threads=1, library=library).run(None, {TEXT_INPUT: np.array(texts, dtype=object)})
    if not all(map(np.array_equal, found, wanted)):
        raise ParityError(f"{packed} does not answer texts as {model_file} answers their token ids")
