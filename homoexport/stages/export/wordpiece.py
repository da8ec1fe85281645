"""A WordPiece tokenizer as ONNX nodes: strings in, padded token ids out.

onnxruntime-extensions' own `BertTokenizer` lower-cases and strips accents by short tables of its own, takes one text
at a time, and keeps the first pieces of a word that it then calls unknown. Two other operators of that library are
exact and quicker: `TrieTokenizer`, the longest match out of a list of strings, and `TrieDetokenizer`, which writes a
string for each number. So:

    text -TrieTokenizer-> characters -Where-> images -TrieDetokenizer-> words apart by spaces
         -TrieTokenizer-> pieces -CumSum, ScatterElements-> token ids

The first list is the tokenizer's own normaliser and pre-tokenizer, asked for the image of every code point: BERT's
work on one character at a time. Every byte is in it, too, so that a character without an entry passes as its bytes;
what whole pages of 64 code points have in common (private use vanishes, ideographs stand alone) is told from these.
The second is the vocabulary, a first piece with a space before it. A single byte there means an unknown word.

B batch, C characters and bytes of the longest text, P pieces of the longest one, S sequence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from homoexport.stages.export.sequences import EXTENSIONS_DOMAIN, GraphWriter, backend_of, refusal

WORDPIECE_OPERATORS = ("TrieTokenizer", "TrieDetokenizer")
PAGE = 64  # code points that differ in the last byte of UTF-8 alone
KEEP, DROP, ISOLATE = 0, 1, 2
# Numbers of the first list: a byte by itself, with a space before it, with one behind it; nothing; the entries.
BYTES, SPACED_BEFORE, SPACED_BEHIND, NOTHING = 1, 257, 513, 769
_LAST_CODE_POINT = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)
_BETWEEN = "\U00010900"  # a letter without case, accents or a meaning to any normaliser
_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
_NOT_WRITTEN = "\ufffe\uffff"  # TrieDetokenizer takes them for invalid UTF-8


@dataclass(frozen=True)
class WordPiece:
    """What there is to know of a WordPiece tokenizer.

    `images` are what normaliser and pre-tokenizer make of a character, where that is not itself; words are apart by
    spaces, and the image of a character that stands alone has one on either side.
    """

    vocabulary: Mapping[str, int]
    continuation: str  # what pieces inside of a word begin with
    unknown_id: int
    longest_word: int
    images: Mapping[str, str]
    pages: NDArray[np.int64]  # KEEP, DROP or ISOLATE for every `PAGE` code points that are all treated so
    added: Sequence[tuple[str, str, int]]  # content, image and id of each added token


def read_wordpiece(tokenizer: PreTrainedTokenizerBase) -> WordPiece:
    """Ask a tokenizer for all that its graph needs; every code point is normalised once (about 1.5 seconds).

    Raises:
        UserError: it is not WordPiece as BERT has it, or has a setting that the graph cannot express.
    """
    backend = backend_of(tokenizer)
    spec = json.loads(backend.to_str())
    model = spec["model"]
    wanted_types = {"model": "WordPiece", "normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"}
    for part, wanted in wanted_types.items():
        found = (spec[part] or {}).get("type")
        if found != wanted:
            raise refusal(f"its {part.replace('_', '-')} is {found}, not {wanted}")
    if model["unk_token"] not in model["vocab"]:
        raise refusal(f"its unknown token {model['unk_token']!r} is not in its vocabulary")
    tokens = backend.get_added_tokens_decoder()
    known = set().union(*model["vocab"], *(token.content for token in tokens.values()))
    unused = [character for character in _NONCHARACTERS if character not in known]
    if len(unused) < 2 or _BETWEEN in known:
        raise refusal("its vocabulary holds Unicode's noncharacters")
    images, pages = _images_of(backend, mark=unused[0], stand_in=unused[1])
    return WordPiece(
        vocabulary=model["vocab"],
        continuation=model["continuing_subword_prefix"],
        unknown_id=model["vocab"][model["unk_token"]],
        longest_word=model["max_input_chars_per_word"],
        images=images,
        pages=pages,
        added=[_added_token(number, token, images, mark=unused[0]) for number, token in tokens.items()],
    )


def _added_token(number: int, token: AddedToken, images: Mapping[str, str], *, mark: str) -> tuple[str, str, int]:
    """Content, image, id. White space around it, which some take along, means nothing between words."""
    content = token.content
    if token.single_word:
        raise refusal(f"its added token {content!r} is found as a whole word only")
    if not token.normalized:
        return content, f" {mark}{content} ", number  # the mark: no other text has this image
    # Found in the normalised text, where its image ends in spaces if it is to be found within words, too.
    image = "".join(images.get(character, character) for character in content)
    if not (image.startswith(" ") and image.endswith(" ")):
        raise refusal(f"its added token {content!r} is found in normalised text, inside of words")
    return "", image, number


def _images_of(backend: Tokenizer, *, mark: str, stand_in: str) -> tuple[dict[str, str], NDArray[np.int64]]:
    """`WordPiece.images` and `.pages`. `mark` and what cannot pass become `stand_in`, as unknown as they are."""
    images: dict[str, str] = {}
    pages = np.zeros((_LAST_CODE_POINT + 1) // PAGE, dtype=np.int64)
    step = 64 * PAGE
    for start in range(0, _LAST_CODE_POINT + 1, step):
        characters = [chr(code) for code in range(start, start + step) if code not in _SURROGATES]
        found = dict(zip(characters, _images(backend, characters), strict=True))
        found.update({each: stand_in for each in [mark, *_NOT_WRITTEN] if found.get(each) == each})
        for first in range(start, start + step, PAGE):
            page = {chr(code): found[chr(code)] for code in range(first, first + PAGE) if chr(code) in found}
            treatment = _common_treatment(page) if first >= 0x800 else KEEP  # below, a character has two bytes
            pages[first // PAGE] = treatment
            if treatment == KEEP:
                images.update({each: image for each, image in page.items() if image != each})
    images.pop("\0", None)  # the operators take a text to end there
    return images, pages


def _images(backend: Tokenizer, characters: Sequence[str]) -> list[str]:
    """What normaliser and pre-tokenizer make of each of some characters."""
    text = backend.normalizer.normalize_str(_BETWEEN + _BETWEEN.join(characters) + _BETWEEN)
    words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    images = " ".join(words).split(_BETWEEN)[1:-1]
    if _BETWEEN in characters:
        at = characters.index(_BETWEEN)
        images[at : at + 2] = [_BETWEEN]  # it was cut at itself, into two empty ones
    return images


def _common_treatment(page: Mapping[str, str]) -> int:
    if page and all(image == "" for image in page.values()):
        return DROP
    if page and all(image == f" {character} " for character, image in page.items()):
        return ISOLATE
    return KEEP


def write_wordpiece(op: GraphWriter, text: ir.Value, tokenizer: PreTrainedTokenizerBase) -> tuple[ir.Value, ir.Value]:
    """Token ids int64 [B, P] of strings [B], and which of them are tokens; see `read_wordpiece`."""
    pieces = read_wordpiece(tokenizer)
    return _write_ids(op, _write_words(op, text, pieces), pieces)


def _write_words(op: GraphWriter, text: ir.Value, pieces: WordPiece) -> ir.Value:
    """Texts [B] normalised, each word with a space before it."""
    entries = {**pieces.images, **{content: image for content, image, _ in pieces.added if content}}
    keys, images = _byte_lines(BYTES, b"%b"), _byte_lines(BYTES, b"%b")
    images += _byte_lines(SPACED_BEFORE, b" %b") + _byte_lines(SPACED_BEHIND, b"%b ") + [_line(NOTHING, "")]
    for number, (key, image) in enumerate(entries.items(), start=NOTHING + 1):
        keys.append(_line(number, key))
        images.append(_line(number, image))
    numbers = op("TrieTokenizer", text, domain=EXTENSIONS_DOMAIN, vocab="\n".join(keys))  # [B, C]
    byte = op("Sub", numbers, BYTES)
    is_three = op("And", op("GreaterOrEqual", byte, 0xE0), op("Less", byte, 0xF0))
    is_four = op("And", op("GreaterOrEqual", byte, 0xF0), op("Less", byte, 0x100))
    second, third = (op("Sub", _shifted(op, byte, -count), 0x80) for count in (1, 2))
    page_of_three = op("Add", op("Mul", op("Sub", byte, 0xE0), 64), second)
    page_of_four = op("Add", op("Add", op("Mul", op("Sub", byte, 0xF0), 64 * 64), op("Mul", second, 64)), third)
    page = op("Where", is_three, page_of_three, op("Where", is_four, page_of_four, 0))
    page = op("Max", op("Min", page, len(pieces.pages) - 1), 0)  # bytes that are no UTF-8
    treatment = op("Gather", pieces.pages, page)  # [B, C] at a character's first byte, KEEP elsewhere
    is_three, is_four = (op("Cast", each, to=ir.DataType.INT64) for each in (is_three, is_four))

    isolated = op("Cast", op("Equal", treatment, ISOLATE), to=ir.DataType.INT64)
    last = op("Add", _shifted(op, op("Mul", isolated, is_three), 2), _shifted(op, op("Mul", isolated, is_four), 3))
    spaced = op("Add", numbers, op("Mul", isolated, SPACED_BEFORE - BYTES))
    spaced = op("Add", spaced, op("Mul", last, SPACED_BEHIND - BYTES))
    dropped = op("Cast", op("Equal", treatment, DROP), to=ir.DataType.INT64)
    rest = [_shifted(op, dropped, 1), _shifted(op, dropped, 2), _shifted(op, op("Mul", dropped, is_four), 3)]
    gone = op("Max", dropped, *rest)
    # Padding, too: TrieDetokenizer would write a number that it does not know into its own table.
    nothing = op("Or", op("Greater", gone, 0), op("Equal", numbers, 0))
    written = op("Where", nothing, NOTHING, spaced)
    # A space goes before all: what is empty it takes for invalid.
    written = op("Pad", written, [0, 1, 0, 0], BYTES + ord(" "))
    return op("TrieDetokenizer", written, domain=EXTENSIONS_DOMAIN, vocab="\n".join(images))


def _shifted(op: GraphWriter, values: ir.Value, count: int) -> ir.Value:
    """[B, C] moved by some places to the right (to the left, where negative), with 0 coming in."""
    if count < 0:
        return op("Slice", op("Pad", values, [0, 0, 0, -count]), [-count], [np.iinfo(np.int64).max], [1])
    return op("Slice", op("Pad", values, [0, count, 0, 0]), [0], [-count], [1])


def _write_ids(op: GraphWriter, words: ir.Value, pieces: WordPiece) -> tuple[ir.Value, ir.Value]:
    lines, table = _piece_table(pieces)
    numbers = op("TrieTokenizer", words, domain=EXTENSIONS_DOMAIN, vocab="\n".join(lines))  # [B, P], padded with 0
    ids, starts, characters, flawed = (op("Gather", column, numbers) for column in table.T)
    word = op("CumSum", starts, 1)  # [B, P] from 1 on
    none = op("Mul", op("Pad", starts, [0, 0, 0, 1]), 0)  # [B, P + 1]
    length, flaws = (
        op("GatherElements", op("ScatterElements", none, word, each, axis=1, reduction="add"), word, axis=1)
        for each in (characters, flawed)
    )
    unknown = op("Or", op("Greater", flaws, 0), op("Greater", length, pieces.longest_word))
    # An unknown word has one token, at its first piece. A word without characters was a space too many.
    kept = op("And", op("Greater", length, 0), op("Or", op("Greater", starts, 0), op("Not", unknown)))
    kept = op("And", kept, op("Greater", numbers, 0))
    return op("Where", unknown, pieces.unknown_id, ids), kept


def _piece_table(pieces: WordPiece) -> tuple[list[str], NDArray[np.int64]]:
    """Lines of the second list; and of every number in it: id, whether a word starts, characters, whether unknown.

    The space alone starts a word that no piece begins: unknown, unless nothing follows.
    """
    lines = _byte_lines(BYTES, b"%b")
    rows = [(0, 0, 0, 0)]
    rows += [(0, int(byte == ord(" ")), int(byte & 0xC0 != 0x80 and byte != ord(" ")), 1) for byte in range(256)]
    entries: dict[str, tuple[int, int, int, int]] = {}
    for piece, number in pieces.vocabulary.items():
        inside = piece.startswith(pieces.continuation)
        body = piece.removeprefix(pieces.continuation)
        images = [pieces.images.get(character, character) for character in body]
        alone = not inside and images == [f" {body} "]
        if body and (alone or "".join(images) == body):  # others are in no word
            entries[body if inside else f" {body}"] = (number, int(not inside), len(body), 0)
    entries.update({image.removesuffix(" "): (number, 1, 1, 0) for _, image, number in pieces.added})
    for number, (key, row) in enumerate(entries.items(), start=len(rows)):
        lines.append(_line(number, key))
        rows.append(row)
    return lines, np.array(rows, dtype=np.int64)


def _byte_lines(first: int, pattern: bytes) -> list[str]:
    """One entry for each byte, in Python's notation for bytes."""
    made = [pattern % bytes([byte]) for byte in range(256)]
    written = ["".join(f"\\x{byte:02x}" for byte in each) for each in made]
    return [f"{first + index} b'{each}' {len(pattern) - 1}" for index, each in enumerate(written)]


def _line(number: int, content: str) -> str:
    """An entry of a list: number, text in Python's notation, bytes."""
    escaped = content.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"{number} '{escaped}' {len(content.encode())}"
