"""Every family and task: exported, fused and quantized graphs against Hugging Face's own forward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import transformers

from homoexport.choices import OUTPUT_NAMES, ModelTask
from homoexport.encoder import Encoder, input_names, load_encoder, max_length_of, pool, weights_digest
from homoexport.runtime.ctranslate2_session import CTranslate2Session
from homoexport.stages.export import graph
from homoexport.stages.export.candidates import Maker
from homoexport.stages.export.ctranslate2_file import write_folder
from homoexport.stages.export.forms import ATTENTION_FORMS
from homoexport.stages.export.quantize import products_of
from tests.conftest import FAMILY_CONFIGS, tiny_model, tiny_tokenizer
from tests.stages.export.conftest import SUMS_OVERFLOW, needs_exact_sums

HEADS: dict[ModelTask, str] = {
    "fill-mask": "masked-lm",
    "sentence-similarity": "model",
    "feature-extraction": "model",
    "text-classification": "sequence",
    "token-classification": "token",
}
# Every family and every task once or more; the other pairs are slow together.
QUICK = [
    ("bert", "text-classification"),
    ("roberta", "token-classification"),
    ("electra-projected", "fill-mask"),
    ("distilbert", "feature-extraction"),
    ("mpnet", "sentence-similarity"),
    ("modernbert-biased", "text-classification"),
    ("albert", "sentence-similarity"),
    ("deberta-v2", "text-classification"),
    ("nomic_bert", "sentence-similarity"),
    ("eurobert", "text-classification"),
]
# These export as another kind of their family does.
TWINS = {"xlm-roberta", "camembert", "electra", "modernbert", "deberta-v2-unshared"}
CONFIGS = {"modernbert-biased": {"classifier_pooling": "mean"}}  # its head reads the mask, too
PAIRS = [
    pytest.param(kind, task, marks=[] if (kind, task) in QUICK else pytest.mark.slow)
    for kind in FAMILY_CONFIGS
    for task in HEADS
    if kind not in TWINS
]
MISSING = {  # relative positions, local windows, turned queries
    "mpnet": {"standard", "flash"},
    "modernbert-biased": {"flash"},
    "deberta-v2": {"standard", "flash"},
    "nomic_bert": {"flash"},
    "eurobert": {"flash"},
}
LENGTHS = [(9,), (3, 58), (1, 2, 17, 30, 11), (40,) * 7]  # in words; local layers see 2 tokens to either side

Make = Callable[..., Encoder]


@pytest.fixture
def family_encoder(tmp_path) -> Make:
    """A tiny random model of a family, loaded for a task."""

    def make(kind: str, task: ModelTask) -> Encoder:
        torch.manual_seed(0)
        folder = tmp_path / "model"
        model = tiny_model(kind, HEADS[task], layers=3)
        model.config.update(CONFIGS.get(kind, {}))
        model.save_pretrained(folder)
        tokenizer = tiny_tokenizer()
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
        tokenizer.save_pretrained(folder)
        return load_encoder(str(folder), task=task)

    return make


def maker_of(encoder: Encoder, folder: Path) -> Maker:
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in rng.integers(0, 95, length)) for length in (1, 3, 58, 7, 20, 5, 2, 40)]
    return Maker(encoder, folder, max_length_of(encoder), texts)


def tokens_of(encoder: Encoder, lengths: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    texts = [" ".join(f"w{word}" for word in rng.integers(0, 95, length)) for length in lengths]
    tokens = encoder.tokenizer(texts, padding=True, truncation=True, return_tensors="np")
    tokens["token_type_ids"] = rng.integers(0, 2, tokens["input_ids"].shape)
    return {name: tokens[name] for name in input_names(encoder)}


def answers_of_torch(encoder: Encoder, tokens: dict[str, np.ndarray]) -> list[list[np.ndarray]]:
    """For each text what the graph should give for it, each asked alone and without padding."""
    rows = []
    for row, length in enumerate(tokens["attention_mask"].sum(axis=1)):
        alone = {name: torch.from_numpy(value[row : row + 1, :length]) for name, value in tokens.items()}
        with torch.no_grad():
            output = encoder.model(**alone)
        if OUTPUT_NAMES[encoder.task] == ("logits",):
            answers = [output.logits]
        else:
            answers = [output.last_hidden_state]
            if encoder.pooling is not None:
                answers.insert(0, pool(answers[0], alone["attention_mask"], encoder.pooling))
        rows.append([answer[0].numpy() for answer in answers])
    return rows


def run(file: Path, tokens: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == list(tokens)
    return session.run(None, tokens)


@pytest.mark.parametrize(("kind", "task"), PAIRS)
def test_graphs_answer_padded_batches_as_torch_answers_each_text_alone(family_encoder, tmp_path, kind, task):
    encoder = family_encoder(kind, task)
    maker = maker_of(encoder, tmp_path)
    written = {form.name: candidate for form in ATTENTION_FORMS if (candidate := maker.write(form)) is not None}
    assert all(candidate.sound for candidate in written.values())
    assert set(written) == {form.name for form in ATTENTION_FORMS} - MISSING.get(kind, set())
    assert set(maker.left_out) == MISSING.get(kind, set())
    assert all(maker.left_out.values())
    assert {node.domain for node in ir.load(written["unfused+merged"].file).graph} == {""}
    for seed, lengths in enumerate(LENGTHS):
        tokens = tokens_of(encoder, lengths, seed)
        expected = answers_of_torch(encoder, tokens)
        for candidate in written.values():
            outputs = run(candidate.file, tokens)
            for row, answers in enumerate(expected):
                for output, answer in zip(outputs, answers, strict=True):
                    actual = output[row] if answer.ndim == 1 else output[row, : len(answer)]
                    np.testing.assert_allclose(actual, answer, atol=1e-4, err_msg=candidate.name)
    form = next(candidate.form for candidate in written.values())
    for scheme in ("int8-7-bit",) if SUMS_OVERFLOW else ("int8", "int8-static"):
        made = maker.quantize(form, scheme, "int8")
        assert made is not None, maker.left_out
        checked = maker.check(made)
        assert checked is not None, maker.left_out
        # The likeliest word of a random model is a close call, so that there the logits themselves are held.
        assert checked.sound or (task == "fill-mask" and checked.parity.mean_cosine > 0.97), checked


@needs_exact_sums
def test_products_without_a_bias_are_calibrated_too(family_encoder, tmp_path):
    encoder = family_encoder("bert", "text-classification")
    for layer in (encoder.model.bert.pooler.dense, encoder.model.classifier):
        layer.bias.data.zero_()  # the exporter leaves such a bias out
    maker = maker_of(encoder, tmp_path)
    form = ATTENTION_FORMS[-1]
    assert maker.write(form).sound
    made = maker.check(maker.quantize(form, "int8-static", "int8"))
    assert maker.left_out == {}
    assert made.parity.min_cosine > 0.99
    assert len(maker.products(form)) == 3 * 4 + 2  # queries, keys and values are one product
    assert products_of(made.file) == []
    assert "Gemm" not in {node.op_type for node in ir.load(made.file).graph}


def test_inputs_are_those_that_the_model_needs_of_what_the_tokenizer_gives(family_encoder):
    three = ("input_ids", "token_type_ids", "attention_mask")
    two = ("input_ids", "attention_mask")
    needed = {"distilbert": two, "mpnet": two, "modernbert": two, "bert": three, "roberta": three}
    assert {kind: input_names(family_encoder(kind, "feature-extraction")) for kind in needed} == needed
    encoder = family_encoder("roberta", "feature-extraction")
    encoder.model.config.type_vocab_size = 1
    assert input_names(encoder) == two


def test_what_torch_cannot_export_is_refused_in_one_line(family_encoder, monkeypatch):
    encoder = family_encoder("bert", "feature-extraction")

    def fail(*_arguments: object, **_settings: object) -> None:
        raise torch.onnx.OnnxExporterError("cannot be traced\nat line 7")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(graph.UserError, match="cannot export this BertModel of transformers") as caught:
        graph.torch_to_onnx(encoder, opset=18)
    assert "\n" not in str(caught.value)
    assert transformers.__version__ in str(caught.value)
    assert "(cannot be traced)" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("bert", "text-classification"),
        ("bert", "token-classification"),
        ("roberta", "text-classification"),
        ("xlm-roberta", "feature-extraction"),
        ("camembert", "sentence-similarity"),
        ("distilbert", "text-classification"),
    ],
)
def test_ctranslate2_answers_as_torch_does(family_encoder, tmp_path, kind, task):
    encoder = family_encoder(kind, task)
    before = weights_digest(encoder)
    write_folder(encoder, tmp_path / "int8", "int8", work=tmp_path)
    assert weights_digest(encoder) == before  # the library would scale them where they lie
    session = CTranslate2Session(write_folder(encoder, tmp_path / "fp32", "fp32", work=tmp_path), threads=1)
    names = OUTPUT_NAMES[task]
    for seed, lengths in enumerate(LENGTHS):
        tokens = tokens_of(encoder, lengths, seed)
        answers = session.run(names, tokens)
        for row, expected in enumerate(answers_of_torch(encoder, tokens)):
            for one, wanted in zip(answers, expected, strict=True):
                got = one[row] if wanted.ndim == 1 else one[row, : len(wanted)]
                np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=2e-4)
