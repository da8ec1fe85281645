"""Graphs of other sizes out of one export: the same as if each had been exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import openvino
import pytest
import torch
from transformers import AutoConfig, AutoModel

from homoexport.choices import EmbeddingPrecision, Scheme
from homoexport.documents.package import parts_of
from homoexport.documents.recipe import ExportSettings, MeasureSettings
from homoexport.encoder import Encoder, Pooling, family_of, start_from_scratch
from homoexport.errors import UserError
from homoexport.schemes import NUMBERS_OF_CODE, VALUES_OF_CODE
from homoexport.shape import Shape
from homoexport.stages.export.candidates import Maker
from homoexport.stages.export.ctranslate2_file import write_folder
from homoexport.stages.export.forms import ATTENTION_FORMS, Form
from homoexport.stages.measure import time_files
from homoexport.stages.plan.instruments import Instruments
from homoexport.stages.plan.table import byte_features, fit_bytes, shapes_to_measure
from homoexport.stages.plan.template import Templates, _odd_shape, _sizes_of, refuse_blocks, remove
from homoexport.workflow.plan import instruments_for
from tests.conftest import FAMILY_CONFIGS, tiny_model, tiny_tokenizer
from tests.grouped import KINDS, grouped

TEXTS = [" ".join(f"w{(i * 7 + j) % 95}" for j in range(3 + i)) for i in range(6)]
TASKS = {"model": "sentence-similarity", "sequence": "text-classification"}


def encoder_of(kind: str, head: str, tmp_path: Path) -> Encoder:
    model = grouped(kind, head) if kind in KINDS else tiny_model(kind, head)
    return Encoder(model, tiny_tokenizer(), TASKS[head], Pooling() if head == "model" else None, tmp_path, kind)  # type: ignore[arg-type]


def instruments_of(encoder: Encoder) -> Instruments:
    return instruments_for(encoder, MeasureSettings(), ExportSettings(), "sentence-embedding")


def structure(file: Path) -> tuple[list[Any], list[Any]]:
    """Nodes with their integer attributes, and initializers with shape, type and, of short integers, value."""
    model = ir.load(file)
    nodes = [
        (node.op_type, sorted((k, str(a.value)) for k, a in node.attributes.items() if a.type == ir.AttributeType.INT))
        for node in model.graph
    ]
    weights = []
    for value in model.graph.initializers.values():
        array = value.const_value.numpy()  # type: ignore[union-attr]
        short = array.dtype == np.int64 and array.size <= 8
        weights.append((str(array.dtype), array.shape, array.tolist() if short else None))
    return nodes, sorted(weights, key=str)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        ("bert", "int8"),
        ("modernbert", "fp32"),
        ("mpnet", "int8"),
        ("distilbert", "fp32"),
        ("electra-projected", "fp32"),
        ("qwen3", "int8"),
        ("gemma3_text", "fp32"),
        ("eurobert", "fp32"),
    ],
)
def test_resized_graph_is_the_exported_one(kind: str, scheme: Scheme, tmp_path: Path) -> None:
    encoder = encoder_of(kind, "model", tmp_path)
    family = family_of(encoder.model.config)
    head_dim = 8 if family.prunes_head_width else family.widths(encoder.model).head_dim
    widths = Shape(2, 3 * head_dim, 40, 3) if family.heads_make_hidden else Shape(2, 20, 40, 10, head_dim)
    embeddings = "fp32" if scheme == "fp32" else "int8"
    (tmp_path / "templates").mkdir()
    templates = Templates(encoder, tmp_path / "templates", instruments_of(encoder), lambda _step: None)
    stored = (scheme, embeddings)
    (tmp_path / "maker").mkdir()
    small = replace(encoder, model=start_from_scratch(encoder.model, family, widths))
    maker = Maker(small, tmp_path / "maker", 32, TEXTS)
    compared = 0
    for form in (*ATTENTION_FORMS, Form("standard", merged=True)):
        file = tmp_path / f"{form.name}.onnx"
        exported = maker.write(form)
        if exported is None:
            assert not templates.write(file, widths, form.name, stored), form
            continue
        assert templates.write(file, widths, form.name, stored), form
        quantized = maker.quantize(form, scheme, embeddings)  # type: ignore[arg-type]
        assert quantized is not None
        assert structure(file) == structure(quantized.file), form
        session = onnxruntime.InferenceSession(file)
        ones = {item.name: np.ones((2, 9), np.int64) for item in session.get_inputs()}
        assert session.run(None, ones)[0].shape == (2, widths.hidden_size)
        compared += 1
    assert compared >= 2


@pytest.mark.slow
def test_one_product_of_all_layers_positions_is_resized_too(tmp_path: Path) -> None:
    encoder = encoder_of("deberta-v2", "model", tmp_path)
    (tmp_path / "templates").mkdir()
    templates = Templates(encoder, tmp_path / "templates", instruments_of(encoder), lambda _step: None)
    file, widths = tmp_path / "one.onnx", Shape(3, 24, 40, 3)
    assert templates.write(file, widths, "multi-head+merged", ("fp32", "fp32"))
    session = onnxruntime.InferenceSession(file)
    ones = {item.name: np.ones((2, 9), np.int64) for item in session.get_inputs()}
    assert session.run(None, ones)[0].shape == (2, widths.hidden_size)


def test_classifiers_keep_their_labels(tmp_path: Path) -> None:
    encoder = encoder_of("bert", "sequence", tmp_path)
    (tmp_path / "templates").mkdir()
    templates = Templates(encoder, tmp_path / "templates", instruments_of(encoder), lambda _step: None)
    file = tmp_path / "one.onnx"
    assert templates.write(file, Shape(1, 24, 40, 3), "standard", ("fp32", "fp32"))
    session = onnxruntime.InferenceSession(file)
    ones = {item.name: np.ones((2, 9), np.int64) for item in session.get_inputs()}
    assert session.run(None, ones)[0].shape == (2, encoder.model.config.num_labels)


def test_other_schemes_come_out_of_the_same_exports(tmp_path: Path) -> None:
    encoder = encoder_of("bert", "model", tmp_path)
    (tmp_path / "templates").mkdir()
    steps: list[str] = []
    templates = Templates(encoder, tmp_path / "templates", instruments_of(encoder), steps.append)
    files = {"int8": tmp_path / "small.onnx", "fp32": tmp_path / "full.onnx"}
    widths = Shape(1, 24, 40, 3)
    for stored in (("int8", "int8"), ("fp32", "fp32"), ("int8", "int8")):
        assert templates.write(files[stored[0]], widths, "standard", stored)
    assert steps == ["exporting a graph of 1 layer"]
    operators = {name: {node.op_type for node in ir.load(file).graph} for name, file in files.items()}
    assert "MatMulInteger" in operators["int8"]
    assert "MatMulInteger" not in operators["fp32"]
    assert 2 * files["fp32"].stat().st_size > 3 * files["int8"].stat().st_size


def test_packed_weights_are_refused() -> None:
    with pytest.raises(UserError, match="4-bit weights are stored in blocks"):
        refuse_blocks("int4")


def test_a_graph_for_openvino_is_its_own_file_with_products_in_int8(tmp_path):
    encoder = encoder_of("bert", "model", tmp_path)
    settings = ExportSettings(runtime="openvino")
    instruments = instruments_for(encoder, MeasureSettings(), settings, "sentence-embedding")
    assert list(instruments.forms) == ["openvino"]
    templates, widths = Templates(encoder, tmp_path, instruments, lambda _: None), Shape(1, 24, 40, 3)
    made = templates.write(tmp_path / "made.onnx", widths, "openvino", ("int8", "int8"))
    assert made == tmp_path / "made.xml"
    assert {part.name for part in parts_of(made)} == {"made.xml", "made.bin"}
    (figures,) = time_files([made], threads=1, length=8, min_seconds=0.02, outputs=("sentence_embedding",))
    assert figures is not None
    model = openvino.Core().read_model(made)
    weights = [node for node in model.get_ops() if node.get_element_type() == openvino.Type.i8]
    assert len([node for node in weights if node.get_type_name() == "Constant"]) == 6 * widths.num_hidden_layers


def ctranslate2_templates(encoder: Encoder, tmp_path: Path) -> Templates:
    """Templates of CTranslate2's form alone, which need no graph."""
    settings = ExportSettings(runtime="ctranslate2")
    instruments = instruments_for(encoder, MeasureSettings(), settings, "sentence-embedding")
    assert instruments.forms == {"ctranslate2": []}

    def no_graphs(*_: object) -> Any:
        raise AssertionError("a graph is exported for nothing")

    return Templates(encoder, tmp_path, replace(instruments, make_graphs=no_graphs), lambda _: None)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_a_model_for_ctranslate2_is_as_exported_in_a_folder_of_its_own(kind: str, tmp_path: Path) -> None:
    encoder = encoder_of(kind, "model", tmp_path)
    templates, widths = ctranslate2_templates(encoder, tmp_path), Shape(1, 24, 40, 3)
    student = replace(encoder, model=start_from_scratch(encoder.model, family_of(encoder.model.config), widths))
    for parameter in student.model.parameters():  # as in a trained one, no two are alike
        torch.nn.init.normal_(parameter)
    for stored in ("int8", "fp32"):
        made = templates.write(tmp_path / "made.onnx", widths, "ctranslate2", (stored, stored))
        assert made == tmp_path / "made/model.bin"
        exported = write_folder(student, tmp_path / stored, stored, work=tmp_path)
        sizes = [{part.name: part.stat().st_size for part in parts_of(file)} for file in (made, exported)]
        assert sizes[0] == sizes[1]
        assert list(sizes[0]) == ["model.bin", "config.json", "head.json", "vocabulary.json"]
        asked: dict[str, Any] = {"length": 8, "vocab_size": 100, "outputs": ("sentence_embedding",)}
        (figures,) = time_files([made], threads=1, min_seconds=0.02, **asked)
        assert figures is not None
        remove(made)
        assert not made.parent.exists()


def test_bytes_of_a_model_for_ctranslate2_are_told_by_small_ones(tmp_path: Path) -> None:
    encoder = encoder_of("bert", "model", tmp_path)
    templates = ctranslate2_templates(encoder, tmp_path)

    def bytes_of(shape: Shape) -> int:
        made = templates.write(tmp_path / "made.onnx", shape, "ctranslate2", ("int8", "int8"))
        assert made is not None
        size = sum(part.stat().st_size for part in parts_of(made))
        remove(made)
        return size

    wide = [Shape(9, hidden, 4 * hidden, hidden // 8) for hidden in (16, 24, 32, 40)]
    small = {
        shape: bytes_of(shape)
        for shape in shapes_to_measure(
            [*wide, *(replace(s, num_attention_heads=1, intermediate_size=16) for s in wide)]
        )
    }
    assert byte_features(wide[-1]) @ fit_bytes(small) == pytest.approx(bytes_of(wide[-1]), abs=1)


def test_words_in_fewer_bits_are_no_form_of_ctranslate2s(tmp_path: Path) -> None:
    templates = ctranslate2_templates(encoder_of("bert", "model", tmp_path), tmp_path)
    with pytest.raises(UserError, match=r"ctranslate2: its embedding tables are stored as its weights are, in int8"):
        templates.best_form({"ctranslate2": []}, Shape(1, 24, 40, 3), ("int8", "int4"), lambda files: [1.0])


def test_auto_tries_every_runtime_that_can_hold_the_students(tmp_path: Path) -> None:
    def tried(kind: str, **settings: Any) -> tuple[list[str], dict[str, str]]:
        encoder = encoder_of(kind, "model", tmp_path)
        made = instruments_for(encoder, MeasureSettings(), ExportSettings(**settings), "sentence-embedding")
        return [form for form in made.forms if form not in made.onnx_forms], dict(made.not_tried)

    assert tried("bert") == ([], {})
    assert tried("bert", runtime="auto") == (["openvino", "ctranslate2"], {})
    others, reasons = tried("modernbert", runtime="auto")
    assert (others, list(reasons)) == (["openvino"], ["ctranslate2"])
    assert "no encoder of the family modernbert" in reasons["ctranslate2"]
    others, reasons = tried("bert", runtime="auto", quantize="fp16")
    assert (others, list(reasons)) == ([], ["openvino", "ctranslate2"])
    assert reasons["openvino"].startswith("'fp16' cannot be had in OpenVINO")
    with pytest.raises(UserError, match=r"export\.runtime: CTranslate2 has no encoder of the family modernbert"):
        tried("modernbert", runtime="ctranslate2")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "embeddings"), [("bert", "int4"), ("bert", "pq"), ("electra-projected", "int4")])
def test_words_in_fewer_bits_are_as_many_bytes_as_exported(
    kind: str, embeddings: EmbeddingPrecision, tmp_path: Path
) -> None:
    encoder = encoder_of(kind, "model", tmp_path)
    (tmp_path / "templates").mkdir()
    templates = Templates(encoder, tmp_path / "templates", instruments_of(encoder), lambda _step: None)
    for widths in (Shape(1, 24, 40, 3), Shape(1, 136, 40, 4)):  # a block of 128 numbers, and two
        small = start_from_scratch(encoder.model, family_of(encoder.model.config), widths)
        folder = tmp_path / f"{widths.hidden_size}"
        folder.mkdir()
        maker = Maker(replace(encoder, model=small), folder, 32, TEXTS)
        maker.write(Form("standard"))
        quantized = maker.quantize(Form("standard"), "int8", embeddings)
        assert quantized is not None
        file = tmp_path / f"{widths.hidden_size}.onnx"
        assert templates.write(file, widths, "standard", ("int8", embeddings))
        assert structure(file) == structure(quantized.file)
        session = onnxruntime.InferenceSession(file)
        ones = {item.name: np.ones((2, 9), np.int64) for item in session.get_inputs()}
        assert session.run(None, ones)[0].shape == (2, widths.hidden_size)


def test_every_family_has_odd_sizes() -> None:
    for kind in FAMILY_CONFIGS:
        encoder = encoder_of(kind, "model", Path())
        odd = _odd_shape(encoder)
        assert odd.hidden_size not in encoder.model.config.to_dict().values()


# Widths of large models as they are published: hidden, ffn, layers, heads, heads of keys.
LARGE = {
    "xlm-roberta": (2560, 10240, 36, 32, None),  # XL
    "deberta-v2": (1536, 6144, 48, 24, None),  # xxlarge
    "qwen3": (4096, 12288, 36, 32, 8),  # Embedding-8B
    "qwen3 4B": (2560, 9728, 36, 32, 8),
    "eurobert": (2304, 6144, 32, 18, 6),  # 2.1B
    "gemma3_text": (768, 1152, 24, 3, 1),  # EmbeddingGemma
}


@pytest.mark.parametrize("kind", LARGE)
def test_large_models_have_odd_sizes_each_of_which_becomes_another(kind: str) -> None:
    hidden, ffn, layers, heads, keys = LARGE[kind]
    grouped_heads = {} if keys is None else {"num_key_value_heads": keys, "head_dim": 128}
    config = AutoConfig.for_model(
        kind.partition(" ")[0],
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        **grouped_heads,
    )
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    encoder = Encoder(model, tiny_tokenizer(), "sentence-similarity", Pooling(), Path(), kind)
    odd, own = _odd_shape(encoder), family_of(config).widths(model).shape
    become = dict(zip(_sizes_of(odd, encoder), _sizes_of(own, encoder), strict=True))
    assert [become[times * odd.hidden_size] for times in (1, 2, 2 * layers)] == [
        hidden,
        2 * hidden,
        2 * layers * hidden,
    ]
    assert become[odd.intermediate_size] == ffn
    assert become[odd.hidden_size // NUMBERS_OF_CODE * VALUES_OF_CODE] == hidden // NUMBERS_OF_CODE * VALUES_OF_CODE
