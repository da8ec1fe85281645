"""The cost of a run on many GPUs against figures worked out by hand."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from homoexport.encoder import count_parameters
from homoexport.shape import Shape, Widths

MODEL = runpy.run_path(str(Path(__file__).parents[1] / "bench/cost_model.py"))
DEVICE = MODEL["Device"](1e15, nvlink=400e9, network=50e9)
TOKENS = 4096 * 128
MEASURED = {  # a step's tokens a second
    "widths": {
        name: {"widths": {"hidden_size": hidden}, "tokens_per_second": rate}
        for name, hidden, rate in (("teacher's width", 768, 2e5), ("base", 576, 4e5), ("small", 256, 8e5))
    }
}


def test_an_all_reduce_is_a_rings():
    seconds = MODEL["all_reduce_seconds"]
    assert seconds(1e9, 1, DEVICE) == 0  # nobody to tell
    assert seconds(4e9, 2, DEVICE) == pytest.approx(4e9 / (0.7 * 400e9))  # a half out, a half in
    assert seconds(4e9, 8, DEVICE) == pytest.approx(2 * 7 / 8 * 4e9 / (0.7 * 400e9))
    assert seconds(4e9, 64, DEVICE) == pytest.approx(2 * 63 / 64 * 4e9 / (0.7 * 50e9))  # between machines
    faster = MODEL["Device"](1e15, nvlink=800e9, network=100e9)
    for gpus in (2, 8, 64):
        assert seconds(4e9, gpus, faster) == pytest.approx(seconds(4e9, gpus, DEVICE) / 2)


@pytest.mark.parametrize("shape", [Shape(12, 768, 3072, 12), Shape(12, 256, 1024, 8)])
def test_gradients_are_those_of_the_student_and_of_its_matrices(shape):
    config = BertConfig(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_attention_heads=shape.num_attention_heads,
    )
    with torch.device("meta"):
        student = count_parameters(BertForMaskedLM(config))
    assert MODEL["gradient_bytes"](Widths.of(shape)) == 4 * (student + 13 * shape.hidden_size * 768)


def test_seconds_lie_between_the_measured_ones():
    points = MODEL["measured_points"](MEASURED, "small")
    assert points == [(256, 1 / 8e5), (576, 1 / 4e5), (768, 1 / 2e5)]
    assert MODEL["seconds_per_token"](256, points) == 1 / 8e5
    assert MODEL["seconds_per_token"](672, points) == pytest.approx((1 / 4e5 + 1 / 2e5) / 2)


def test_the_path_begins_at_the_teacher_and_ends_at_the_student():
    path = MODEL["path"](Shape(12, 576, 2304, 12))
    assert len(path) == 28_000
    assert path[0] == Widths.of(Shape(12, 768, 3072, 12))
    assert path[19_599] != path[19_600] == path[-1] == Widths.of(Shape(12, 576, 2304, 12))


def test_what_a_run_costs_and_what_limits_it():
    device, cost = MODEL["MEASURED"], MODEL["cost"]
    alone = cost("base", 1, device, MEASURED, 1e12)
    assert alone["all_reduce_seconds"] == 0
    assert alone["limit"] == "compute"
    assert TOKENS / 4e5 < alone["step_seconds"] < TOKENS / 2e5
    assert alone["hours"] == pytest.approx(28_000 * alone["step_seconds"] / 3600)
    eight = cost("base", 8, device, MEASURED, 1e12)
    assert eight["compute_seconds"] == pytest.approx(alone["compute_seconds"] / 8)
    assert eight["step_seconds"] == pytest.approx(eight["compute_seconds"] + eight["all_reduce_seconds"])
    slow_reader = cost("base", 8, device, MEASURED, 1e5)
    assert slow_reader["limit"] == "reading"
    assert slow_reader["step_seconds"] == pytest.approx(TOKENS / 8 / 1e5 + eight["all_reduce_seconds"])
    slow_network = MODEL["Device"](device.operations_per_second, nvlink=450e9, network=1e9)
    assert cost("base", 64, slow_network, MEASURED, 1e12)["limit"] == "all-reduce"
