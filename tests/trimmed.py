"""Tokenizers of each kind, trained on a few sentences, and tiny models with them whose vocabulary is trimmed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    RobertaTokenizerFast,
    XLMRobertaTokenizerFast,
)

from homoexport.data import sample_text
from homoexport.documents.recipe import TextSettings, TextSource
from homoexport.encoder import Encoder, load_encoder, save_tokenizer
from homoexport.stages.measure import host_of
from homoexport.text.awkward import awkward_texts
from homoexport.workflow.trim import trim
from tests.conftest import BERT_TINY, SPECIAL, made_once, sentence_vectors, with_berts_tokens
from tests.stages.export.conftest import export_package

TEXTS = [*sample_text(), *(text.upper() for text in sample_text()), "naïve café, 東京 und Straße"]
KINDS = ("WordPiece", "BPE of bytes", "BPE with bytes to fall back on", "BPE as of SentencePiece", "Unigram")
TRIMMED_BY = sample_text()[:16]
# Of each way in which a tokenizer is loaded a family that has it; the packaged one is trimmed to so many pieces.
FAMILIES = {
    "bert": "WordPiece",
    "roberta": "BPE of bytes",
    "xlm-roberta": "Unigram",
    "electra": "BPE with bytes to fall back on",
}
INSIDE = ("bert", "roberta", "xlm-roberta")  # families whose tokenizer can be packed into a file
_PIECES = 3_000
each_family = pytest.mark.parametrize(
    "family", [pytest.param(family, marks=[pytest.mark.weights] * (family == "bert")) for family in FAMILIES]
)


def trained(
    kind: str, special: list[str] = SPECIAL, unknown: str = "[UNK]", around: tuple[str, str] = ("[CLS]", "[SEP]")
) -> Tokenizer:
    """A tokenizer of a few hundred pieces, and an added token that is none of its model's."""
    if kind == "WordPiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special)
    elif kind == "BPE of bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet)
    elif kind.startswith("BPE"):
        tokenizer = Tokenizer(models.BPE(unk_token=unknown, byte_fallback=True, fuse_unk=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        bytes_ = [f"<0x{index:02X}>" for index in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*special, *bytes_])
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token=unknown)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.add_special_tokens(["<query>"])
    before, after = around
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{before} $A {after}", special_tokens=[(name, tokenizer.token_to_id(name)) for name in around]
    )
    return _with_every_split(tokenizer) if kind == "BPE as of SentencePiece" else tokenizer


def _with_every_split(tokenizer: Tokenizer) -> Tokenizer:
    """With each split of a piece into two as a merge, in the order of the pieces, as converters of SentencePiece do."""
    file = json.loads(tokenizer.to_str())
    vocab = file["model"]["vocab"]
    merges = []
    for piece in sorted(vocab, key=vocab.__getitem__):
        halves = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        merges += sorted((pair for pair in halves if vocab.keys() >= set(pair)), key=lambda pair: vocab[pair[0]])
    file["model"]["merges"] = [list(pair) for pair in merges]
    return Tokenizer.from_str(json.dumps(file))


def write_whole(family: str, folder: Path) -> Encoder:
    """A tiny random model of a family with a tokenizer of its class; of BERT the packaged one."""
    if family == "bert":
        return load_encoder(BERT_TINY, task="sentence-similarity")
    begin, end = "<s>", "</s>"
    tokenizer = trained(FAMILIES[family], ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "<unk>", (begin, end))
    if family == "xlm-roberta":  # whose class knows no other way
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
        )
    names = {"bos_token": begin, "cls_token": begin, "eos_token": end, "sep_token": end}
    names |= {"pad_token": "<pad>", "unk_token": "<unk>"}
    mask = AddedToken("<mask>", lstrip=True, special=True)  # as theirs is: the space before it goes
    kind = {"roberta": RobertaTokenizerFast, "xlm-roberta": XLMRobertaTokenizerFast}.get(
        family, PreTrainedTokenizerFast
    )
    save_tokenizer(kind(tokenizer_object=tokenizer, model_max_length=64, mask_token=mask, **names), folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=64,
        num_hidden_layers=2,
        max_position_embeddings=66,
        initializer_range=0.2,
        bos_token_id=0,
        cls_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        sep_token_id=2,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    return load_encoder(str(folder), task="sentence-similarity")


def write_wordy_teacher(folder: Path) -> Path:
    """A tiny BERT of 300 pieces, which more text was read for than there is now."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL)
    tokenizer.train_from_iterator([*sample_text(), "zebra zebras quagga okapi " * 20], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    with_berts_tokens(tokenizer, model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=64,
        num_hidden_layers=2,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def write_windows(path: Path) -> Path:
    """Every eight words of our sentences that follow each other, a line each."""
    words = " ".join(sample_text()).split()
    path.write_text("\n".join(" ".join(words[at : at + 8]) for at in range(0, len(words) - 8)))
    return path


def trimmed_once(factory: pytest.TempPathFactory, family: str) -> Path:
    """A folder with the model of `write_whole`, and `trimmed`, with the pieces that half of our sentences have."""

    def make(folder: Path) -> None:
        text = folder / "text.txt"
        text.write_text("\n".join(TRIMMED_BY), encoding="utf-8")
        encoder = write_whole(family, folder)
        settings = TextSettings(sources=(TextSource(files=str(text)),), max_length=32, held_out=3)
        size = _PIECES if family == "bert" else None
        trim(encoder, text=settings, output=folder / "trimmed", vocab_size=size)
        save_tokenizer(encoder.tokenizer, folder / "whole")

    return made_once(factory, f"trimmed-{family}", make)


def package_once(factory: pytest.TempPathFactory, family: str) -> Path:
    """The trimmed model in int8, and the tokenizer inside a file where its kind can be."""

    def make(folder: Path) -> None:
        encoder = load_encoder(str(trimmed_once(factory, family) / "trimmed"))
        export_package(
            encoder,
            out_dir=folder / "package",
            rank=lambda files: [1.0 + index for index, _ in enumerate(files)],
            quantize="int8",
            graph="standard",
            target=host_of("cpu"),
            with_tokenizer=family in INSIDE,
        )

    return made_once(factory, f"trimmed-{family}-package", make) / "package"


def texts_for(folder: Path) -> list[str]:
    """Plain texts and awkward ones, with the added tokens of a tokenizer in some."""
    added = [token.content for token in alone(folder).get_added_tokens_decoder().values()]
    return [*TEXTS, *chain.from_iterable(awkward_texts(token for token in added if "0x" not in token).values())]


def alone(folder: Path) -> Tokenizer:
    """The tokenizer of a folder as its file has it, without any class around it."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def ids_alone(folder: Path, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
    """What the file by itself makes of texts."""
    tokenizer = alone(folder)
    if max_length is not None:
        tokenizer.enable_truncation(max_length)
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]


def rows_of(ids: Any, mask: Any) -> list[list[int]]:
    """Ids without what fills a batch up, which lies on the right."""
    return [row[: int(attended.sum())].tolist() for row, attended in zip(ids, mask, strict=True)]


def whole_of(folder: Path) -> Encoder:
    """The model that `trimmed_once` has trimmed."""
    return load_encoder(BERT_TINY if folder.name.endswith("-bert") else str(folder), task="sentence-similarity")


def told_alike(folder: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Texts that the trimmed tokenizer splits as the whole one did, and what the whole model makes of them."""
    split = [[each.tokens for each in alone(folder / name).encode_batch(TRIMMED_BY)] for name in ("whole", "trimmed")]
    texts = [text for text, before, after in zip(TRIMMED_BY, *split, strict=True) if before == after]
    assert len(texts) >= 8
    return texts, sentence_vectors(whole_of(folder), texts)
