"""What torch's exporter made, filled with another model's weights: against torch, and against an export of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from transformers import BertConfig, BertModel

from homoexport.encoder import Encoder, input_names, torch_answers
from homoexport.runtime.session import OnnxSession
from homoexport.stages.export import graph, program
from homoexport.stages.export.depth import Repeat
from homoexport.stages.export.forms import Form, fused_base, write_as

Traced = Callable[[], int]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Traced:
    """How often torch's exporter was called."""
    calls, trace = [], graph._traced

    def counted(*arguments: object, **settings: object) -> tuple[ir.Model, Repeat | None]:
        calls.append(arguments)
        return trace(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(graph, "_traced", counted)
    return lambda: len(calls)


def of_shape(encoder: Encoder, hidden: int, ffn: int, heads: int, seed: int = 0) -> Encoder:
    """The encoder with one layer of those widths and weights by chance."""
    torch.manual_seed(seed)
    config = BertConfig.from_dict(
        encoder.model.config.to_dict()
        | {"hidden_size": hidden, "intermediate_size": ffn, "num_attention_heads": heads, "num_hidden_layers": 1}
    )
    return replace(encoder, model=BertModel(config).eval())


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def sizes(model: ir.Model) -> Counter[int]:
    """Of the weights."""
    return Counter(value.const_value.size for value in model.graph.initializers.values() if value.const_value)


def assert_answers(model: ir.Model, encoder: Encoder, tmp_path: Path) -> None:
    ir.save(model, tmp_path / "model.onnx")
    mask = torch.ones(3, 11, dtype=torch.long)
    mask[1:, 6:] = 0
    tokens = {name: torch.zeros_like(mask) for name in input_names(encoder)} | {"attention_mask": mask}
    tokens["input_ids"] = torch.arange(33).reshape(3, 11) % encoder.model.config.vocab_size
    session = OnnxSession(tmp_path / "model.onnx")
    (answer,) = session.run(["sentence_embedding"], {name: value.numpy() for name, value in tokens.items()})
    np.testing.assert_allclose(answer, torch_answers(encoder, tokens)["sentence_embedding"], atol=1e-5)


def test_models_that_differ_in_widths_are_traced_once(tiny_encoder, traced, tmp_path) -> None:
    teacher = tiny_encoder("sentence-similarity")
    first, narrow = of_shape(teacher, 40, 88, 5), of_shape(teacher, 24, 56, 3, seed=1)
    graph.torch_to_onnx(first, opset=18)
    filled = graph.torch_to_onnx(narrow, opset=18)
    assert traced() == 1
    assert_answers(filled, narrow, tmp_path)
    program._programs.clear()
    by_itself = graph.torch_to_onnx(narrow, opset=18)
    assert traced() == 2
    for form in (Form("standard"), Form("flash"), Form("multi-head", skip_layer_norm=True)):
        bases = (fused_base(each.clone(), skip_layer_norm=form.skip_layer_norm) for each in (filled, by_itself))
        ours, theirs = (operators(write_as(base, form)) for base in bases)
        assert ours == theirs
    assert operators(filled) == operators(by_itself)
    assert sizes(filled) == sizes(by_itself)


def test_what_a_program_knows_is_part_of_its_key(tiny_encoder) -> None:
    teacher = tiny_encoder("sentence-similarity")

    def key(hidden: int, ffn: int, heads: int, opset: int = 18) -> str:
        encoder = of_shape(teacher, hidden, ffn, heads)
        return program.program_key(encoder, graph._ExportedEncoder(encoder), encoder.model.config, opset=opset)

    assert key(32, 64, 4) == key(16, 24, 2)
    assert len({key(32, 64, 4), key(32, 64, 2), key(32, 64, 4, opset=20)}) == 3  # wider heads, another version


def test_a_program_that_answers_otherwise_is_not_taken(tiny_encoder, traced, tmp_path) -> None:
    encoder = of_shape(tiny_encoder("sentence-similarity"), 32, 64, 4)
    graph.torch_to_onnx(encoder, opset=18)
    (remembered,) = program._programs.values()
    next(node for node in remembered.model.graph if node.op_type == "Softmax").attributes["axis"] = ir.AttrInt64(
        "axis", 1
    )
    model = graph.torch_to_onnx(encoder, opset=18)
    assert traced() == 2
    assert_answers(model, encoder, tmp_path)


def test_few_programs_are_remembered_and_no_weights(tiny_encoder, monkeypatch) -> None:
    monkeypatch.setattr(program, "_MOST", 2)
    value = ir.Value(name="weight", const_value=ir.tensor(np.ones((3, 7), np.float32)), shape=ir.Shape((3, 7)))
    model = ir.Model(ir.Graph([], [], nodes=[], initializers=[value], opset_imports={"": 18}), ir_version=10)
    encoder = tiny_encoder("sentence-similarity")
    for key in "abc":
        program.remember_program(key, model, encoder, torch.nn.Linear(7, 3))
    assert list(program._programs) == ["b", "c"]
    assert program._programs["c"].model.graph.initializers["weight"].const_value is None
    other = program.remembered_program("c", encoder, torch.nn.Linear(2, 5))
    assert other.graph.initializers["weight"].const_value.shape == (5, 2)
    for unlike in (torch.nn.Conv1d(1, 1, 1), torch.nn.Identity()):
        assert program.remembered_program("c", encoder, unlike) is None
    assert value.const_value is not None


def test_a_size_that_is_two_things_stops_it() -> None:
    table, product = ir.Shape((64, 32)), ir.Shape((32, 64))
    assert program._sizes([(table, torch.Size((64, 16))), (product, torch.Size((16, 64)))]) == {64: 64, 32: 16}
    assert program._sizes([(table, torch.Size((64, 16))), (product, torch.Size((16, 24)))]) is None
