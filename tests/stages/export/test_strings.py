"""Texts in place of token ids: the packed tokenizer against Hugging Face's, string by string."""

from __future__ import annotations

import dataclasses
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from homoexport.data import sample_text
from homoexport.documents.package import PackedTokenizer
from homoexport.encoder.loading import resolve_folder
from homoexport.errors import ParityError, UserError
from homoexport.stages.export import strings, wordpiece
from homoexport.stages.export.strings import extensions_library, pack_tokenizer
from homoexport.stages.export.wordpiece import read_wordpiece
from homoexport.text.awkward import PLAIN_ENGLISH, awkward_texts
from tests.conftest import BERT_TINY, MINILM, SPECIAL, WORDS, tiny_tokenizer, with_berts_tokens
from tests.encoder.weights import MPNET, needs_mpnet

PIECES = ["the", "##ing", "##s", "word", "##bc", "ab", "e", "##e", "##é", "café"]
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
CASED = {"lowercase": False, "strip_accents": None}


@pytest.fixture(scope="module")
def characters() -> list[str]:
    """Every character of the awkward texts and of their usual forms, so that none hides behind [UNK]."""
    texts = [text for kind in awkward_texts(SPECIAL).values() for text in kind]
    forms = {form for text in texts for form in (text, text.lower(), unicodedata.normalize("NFD", text.lower()))}
    return sorted({character for form in forms for character in form} - set("\0\ufffe\uffff\ufdd0\ufdd1 "))


def wordpiece_tokenizer(
    pieces: Sequence[str], *, special: bool = True, **settings: bool | None
) -> PreTrainedTokenizerFast:
    """BERT's tokenizer around a vocabulary; settings are its normalizer's."""
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys([*SPECIAL, *pieces]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(**settings)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if special:
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return with_berts_tokens(tokenizer, model_max_length=64)


@pytest.fixture
def echo(tmp_path: Path) -> Callable[..., Path]:
    """Writes a graph that gives its inputs back, each as `echo_NAME`."""

    def write(*names: str) -> Path:
        kind, shape = ir.TensorType(ir.DataType.INT64), ir.Shape(["batch", "sequence"])
        inputs = [ir.Value(name=name, type=kind, shape=shape) for name in names]
        nodes = [ir.node("Identity", [value], name=f"echo_{value.name}") for value in inputs]
        for node, name in zip(nodes, names, strict=True):
            node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = f"echo_{name}", kind, shape
        outputs = [node.outputs[0] for node in nodes]
        graph = ir.Graph(inputs, outputs, nodes=nodes, opset_imports={"": 18}, name="echo")
        ir.save(ir.Model(graph, ir_version=9), tmp_path / "echo.onnx")
        return tmp_path / "echo.onnx"

    return write


def open_packed(file: Path) -> Callable[..., list[np.ndarray]]:
    options = ort.SessionOptions()
    options.register_custom_ops_library(extensions_library())
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["text"]
    return lambda *texts: session.run(None, {"text": np.array(texts, dtype=object)})


def packed(model: Path, tokenizer: PreTrainedTokenizerFast, max_length: int = 32) -> tuple[Path, PackedTokenizer]:
    target = model.with_name("packed.onnx")
    return target, pack_tokenizer(model, tokenizer, max_length=max_length, target=target)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        CASED,
        pytest.param({"lowercase": False, "strip_accents": True}, marks=pytest.mark.slow),
        pytest.param({"strip_accents": False, "handle_chinese_chars": False}, marks=pytest.mark.slow),
        pytest.param({"lowercase": False, "clean_text": False, "handle_chinese_chars": False}, marks=pytest.mark.slow),
    ],
    ids=["uncased", "cased", "cased without accents", "uncased with accents", "as it is"],
)
def test_equals_hugging_face_on_every_kind_under_every_setting(echo, characters, settings):
    pieces = [*PIECES, *characters, *(f"##{character}" for character in characters)]
    _, report = packed(echo(*INPUTS), wordpiece_tokenizer(pieces, **settings), max_length=20_000)
    strips = settings.get("strip_accents", True) is not False and settings.get("lowercase", True)
    strips = strips or settings.get("strip_accents") is True
    assert report.differing_kinds == (("NUL", "reordered marks") if strips else ("NUL",))
    assert sum(kind.strings for kind in report.kinds.values()) > 1_300
    assert len(report.kinds) == 25


@pytest.mark.weights
@pytest.mark.parametrize(
    "source", [BERT_TINY, *(pytest.param(each, marks=[needs_mpnet, pytest.mark.slow]) for each in (MINILM, MPNET))]
)
def test_packaged_tokenizers_differ_on_nul_alone(echo, source):
    tokenizer = AutoTokenizer.from_pretrained(resolve_folder(source))
    target, report = packed(echo(*INPUTS), tokenizer, max_length=128)
    assert report.differing_kinds == ("NUL",)
    assert report.kinds[PLAIN_ENGLISH].equal == report.kinds[PLAIN_ENGLISH].strings > 100

    run = open_packed(target)
    everything = [chr(code) for code in range(1, 0x30000) if not 0xD800 <= code < 0xE000]
    lines = ["".join(f"x{character}y " for character in everything[at : at + 20]) for at in range(0, 0x2F7FF, 20)]
    for start in range(0, len(lines), 256):
        batch = lines[start : start + 256]
        wanted = tokenizer(batch, padding="longest", truncation=True, max_length=128, return_tensors="np")
        np.testing.assert_array_equal(run(*batch)[0], wanted["input_ids"])


def test_batches_are_padded_and_truncated_as_hugging_face_does(echo):
    tokenizer = wordpiece_tokenizer(PIECES)
    target, _ = packed(echo(*INPUTS), tokenizer, max_length=8)
    run = open_packed(target)
    texts = [
        "the words",
        "",
        "Abc ings café " * 20,
        "word",
        " ",
        "the the the the the the",
        "the the the the the the the",
    ]
    settings = {"padding": "longest", "truncation": True, "max_length": 8, "return_token_type_ids": True}
    wanted = tokenizer(texts, return_tensors="np", **settings)
    together = run(*texts)
    for found, name in zip(together, INPUTS, strict=True):
        np.testing.assert_array_equal(found, wanted[name])
    for row, text in enumerate(texts):
        (ids,), (mask,), _ = run(text)
        assert ids.tolist() == tokenizer(text, truncation=True, max_length=8)["input_ids"]
        assert mask.all()
        assert ids.tolist() == together[0][row, : len(ids)].tolist()
    assert run("word")[0].shape == (1, 3)


def test_an_unknown_word_has_one_token_however_much_of_it_is_known(echo):
    tokenizer = wordpiece_tokenizer(PIECES)
    target, _ = packed(echo("input_ids", "attention_mask"), tokenizer, max_length=64)
    for text in ["the ab\u0414 word", "abbcx", "\u0414ing ing", "s", "ab" + "bc" * 49, "ab" + "bc" * 50]:
        assert open_packed(target)(text)[0][0].tolist() == tokenizer(text)["input_ids"], text


def test_without_special_tokens_an_empty_text_is_one_padding_token(echo):
    target, _ = packed(echo("input_ids", "attention_mask"), wordpiece_tokenizer(PIECES, special=False))
    assert [array.tolist() for array in open_packed(target)("")] == [[[0]], [[1]]]
    assert [array.tolist() for array in open_packed(target)("", "the ab")] == [[[0, 0], [5, 10]], [[1, 0], [1, 1]]]


def test_added_tokens(echo):
    tokenizer = wordpiece_tokenizer([*PIECES, "<", ">", "!"])
    tokenizer.add_tokens([AddedToken("New York", normalized=False), AddedToken("<the>", normalized=True)])
    target, report = packed(echo("input_ids", "attention_mask"), tokenizer)
    assert report.kinds["special tokens"].equal == report.kinds["special tokens"].strings
    run = open_packed(target)
    for text in [
        "ab New York!",
        "new york",
        "New  York",
        "abNew Yorks",
        "<the>",
        "a<THE>b",
        "< the >",
        "<\tthe>",
        "[MASK]s",
    ]:
        assert run(text)[0][0].tolist() == tokenizer(text)["input_ids"], text


def test_answers_are_those_of_the_model(exported, tmp_path):
    model = exported("sentence-similarity")
    target, tokenizer = tmp_path / "packed.onnx", wordpiece_tokenizer(WORDS)
    pack_tokenizer(model, tokenizer, max_length=64, target=target)
    texts = ["w1 w2 w3", "w94 nothing"]
    plain = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    ids = tokenizer(texts, padding=True, return_tensors="np")
    wanted = plain.run(None, {value.name: ids[value.name] for value in plain.get_inputs()})
    found = open_packed(target)(*texts)
    assert len(found) == 2
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_report_is_json(echo):
    _, report = packed(echo("input_ids", "attention_mask"), wordpiece_tokenizer(PIECES))
    content = report.model_dump(mode="json")
    assert content["differing_kinds"] == ["NUL"]
    assert content["kinds"]["NUL"]["equal"] < content["kinds"]["NUL"]["strings"]
    assert content["strings"] - content["equal"] == sum(
        kind["strings"] - kind["equal"] for kind in content["kinds"].values()
    )
    assert content["operators"] == ["ai.onnx.contrib::TrieTokenizer", "ai.onnx.contrib::TrieDetokenizer"]


def bpe_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE({"a": 0, "<pad>": 1}, [])), pad_token="<pad>", model_max_length=64
    )


def wordless(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    backend = tokenizer.backend_tokenizer
    backend.model = models.BPE({"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3}, [])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def unigram_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0)), pad_token="<unk>"
    )


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerFast:
    """RoBERTa's tokenizer, of 700 pieces that are learned from our own sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        show_progress=False,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([text for kind in awkward_texts([]).values() for text in kind], trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="<s>",
        bos_token="<s>",
        sep_token="</s>",
        eos_token="</s>",
        mask_token="<mask>",
        model_max_length=64,
    )


def test_byte_level_bpe_differs_on_few_kinds(echo, byte_level):
    _, report = packed(echo(*INPUTS), byte_level, max_length=20_000)
    assert report.operators == ("ai.onnx.contrib::RobertaTokenizer",)
    assert set(report.differing_kinds) <= {"NUL", "special tokens", "control characters", "mixed"}
    assert {"NUL", "special tokens"} <= set(report.differing_kinds)
    control = report.kinds["control characters"]
    assert control.equal >= control.strings - 2


def test_byte_level_batches_are_padded_and_truncated(echo, byte_level):
    target, _ = packed(echo(*INPUTS), byte_level, max_length=8)
    run = open_packed(target)
    texts = ["The kettle", "", "Where is the invoice? " * 9, "a<b<s></s>", " ", "naïve \u65e5\u672c"]
    settings = {"padding": "longest", "truncation": True, "max_length": 8, "return_token_type_ids": True}
    wanted = byte_level(texts, return_tensors="np", **settings)
    for found, name in zip(run(*texts), INPUTS, strict=True):
        np.testing.assert_array_equal(found, wanted[name])
    assert run("")[0].tolist() == [[0, 2]]


@pytest.fixture(scope="module")
def unigram() -> PreTrainedTokenizerFast:
    """XLM-RoBERTa's tokenizer, but for its table of characters; its pieces are learned from our own sentences."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=400, show_progress=False, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator([*sample_text(), "naïve café, 東京 und Straße"], trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])  # beyond the model's own
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
    tokens = {f"{name}_token": token for name, token in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **tokens)


def test_unigram_differs_on_few_kinds(echo, unigram):
    _, report = packed(echo(*INPUTS), unigram, max_length=20_000)
    assert report.operators == ("ai.onnx.contrib::SentencepieceTokenizer",)
    assert {"NUL", "special tokens"} <= {*report.differing_kinds}
    assert report.equal > 0.85 * report.strings


def test_unigram_batches_are_padded_and_truncated(echo, unigram):
    target, _ = packed(echo(*INPUTS), unigram, max_length=8)
    run = open_packed(target)
    texts = ["The kettle", "", "Where is the invoice? " * 9, "  two   spaces ", "naïve \u65e5\u672c"]
    settings = {"padding": "longest", "truncation": True, "max_length": 8, "return_token_type_ids": True}
    wanted = unigram(texts, return_tensors="np", **settings)
    for found, name in zip(run(*texts), INPUTS, strict=True):
        np.testing.assert_array_equal(found, wanted[name])
    assert run("")[0].tolist() == [[0, 2]]
    assert run("a <mask>")[0].tolist()[0][-2] == unigram.mask_token_id


def changed_unigram(change: Callable[[Tokenizer], object]) -> Callable[[], PreTrainedTokenizerFast]:
    def make() -> PreTrainedTokenizerFast:
        tokenizer = unigram_tokenizer()
        change(tokenizer.backend_tokenizer)
        return tokenizer

    return make


def changed(change: Callable[[PreTrainedTokenizerFast], object]) -> Callable[[], PreTrainedTokenizerFast]:
    def make() -> PreTrainedTokenizerFast:
        tokenizer = wordpiece_tokenizer(PIECES)
        change(tokenizer)
        return tokenizer

    return make


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (tiny_tokenizer, "its model is WordLevel, not WordPiece"),
        (bpe_tokenizer, "its model is BPE, but does not split text as RoBERTa's"),
        (lambda: wordless(bpe_tokenizer()), "it makes nothing of the letter a"),
        (unigram_tokenizer, "its model is Unigram, but does not split text as SentencePiece does"),
        (
            changed_unigram(lambda each: setattr(each, "normalizer", normalizers.NFKC())),
            "its model is Unigram behind a NFKC normalizer",
        ),
        (
            changed(lambda each: setattr(each.backend_tokenizer, "normalizer", normalizers.NFKC())),
            "its normalizer is NFKC, not BertNormalizer",
        ),
        (
            changed(lambda each: setattr(each.backend_tokenizer, "pre_tokenizer", None)),
            "its pre-tokenizer is None, not BertPreTokenizer",
        ),
        (changed(lambda each: setattr(each, "truncation_side", "left")), "it truncates on the left"),
        (changed(lambda each: setattr(each, "pad_token", None)), "it has no padding token"),
        (
            changed(lambda each: each.add_tokens(AddedToken("abc", single_word=True))),
            "its added token 'abc' is found as a whole word only",
        ),
        (
            changed(lambda each: each.add_tokens(AddedToken("abc", normalized=True))),
            "its added token 'abc' is found in normalised text, inside of words",
        ),
    ],
)
def test_refuses_what_it_cannot_express(echo, make, what):
    model = echo(*INPUTS)
    with pytest.raises(UserError, match="cannot be packed") as caught:
        packed(model, make())
    assert what in str(caught.value)
    assert "WordPiece with BERT's normalizer" in caught.value.hint
    assert not model.with_name("packed.onnx").exists()


def test_refuses_what_no_text_fits_in(echo):
    with pytest.raises(UserError, match="2 tokens hold no text beside 2 special ones"):
        packed(echo(*INPUTS), wordpiece_tokenizer(PIECES), max_length=2)


@pytest.mark.parametrize("names", [("input_ids", "attention_mask", "pixel_values"), ("input_ids",)])
def test_refuses_a_graph_of_other_inputs(echo, names):
    with pytest.raises(UserError, match=f"its graph takes {', '.join(names)}; name a graph"):
        packed(echo(*names), wordpiece_tokenizer(PIECES))


def test_needs_the_extension(echo, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", None)
    with pytest.raises(UserError, match=r"pip install 'homoexport\[strings\]'"):
        packed(echo(*INPUTS), wordpiece_tokenizer(PIECES))


def test_refuses_one_that_differs_on_plain_english(echo, monkeypatch):
    model = echo(*INPUTS)
    monkeypatch.setattr(
        wordpiece, "read_wordpiece", lambda each: dataclasses.replace(read_wordpiece(each), longest_word=3)
    )
    with pytest.raises(UserError, match=r"differs from this one on \d+ of 128 plain English texts"):
        packed(model, wordpiece_tokenizer([*PIECES, "kettle"]))
    assert not model.with_name("packed.onnx").exists()


def test_answers_that_are_not_the_models_are_an_error(echo, monkeypatch):
    def write(*arguments, **settings):
        tokens = write_sequences(*arguments, **settings)
        return {**tokens, "token_type_ids": arguments[0]("Add", tokens["token_type_ids"], 1)}

    write_sequences = strings.write_sequences
    monkeypatch.setattr(strings, "write_sequences", write)
    model = echo(*INPUTS)
    with pytest.raises(ParityError, match="does not answer texts"):
        packed(model, wordpiece_tokenizer(PIECES))
    assert not model.with_name("packed.onnx").exists()
