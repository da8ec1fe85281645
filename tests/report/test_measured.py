"""What a reader is told of a measurement, a grid, and the targets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from homoexport.documents.artifact import Manifest, verify
from homoexport.documents.measurement import Device, Need
from homoexport.report import measurement_remarks, need_lines, write_bench_report
from homoexport.report.bench import heat_figure
from homoexport.report.measured import figure_rows, grid_table, labels_of
from tests.report.conftest import typed


def rows_of(measurement: dict[str, Any]) -> dict[str, list[str]]:
    return dict(figure_rows(typed(measurement)))


def test_only_rows_with_figures_are_shown(measurement: dict[str, Any]) -> None:
    rows = rows_of(measurement)
    assert rows["Tokenizing before it, p50"] == ["0.0800 ms"] * 2
    assert not {"Energy, whole processor", "Download", "Instructions", "Answers as on this CPU"} & set(rows)
    measurement["results"][0] |= {"energy_mj": 12.5, "download_bytes": 20_000_000, "runtime_download_bytes": 14_000_000}
    for result in measurement["results"]:
        result["package_download_bytes"] = 9_300_000
    in_a_browser = rows_of(measurement)
    assert in_a_browser["Download"] == ["9.30 MB"] * 2
    assert in_a_browser["Runtime's files beside it"] == ["14.0 MB", ""]
    assert in_a_browser["Fetched by the page"] == ["20.0 MB", ""]
    assert rows_of(measurement)["Energy, whole processor"] == ["12.5 mJ", ""]


def test_callers_memory_and_answers_have_rows(measurement: dict[str, Any]) -> None:
    for result, rss in zip(measurement["results"], (200.0, None), strict=True):
        result["arena"] = [{"batch_size": 8, "rss_mb": rss, "shrunk_rss_mb": 90.0}]
        result["streams"] = [{"streams": 2, "throughput_per_s": 150.0, "latency_p50_ms": 13.0, "latency_p95_ms": 15.0}]
        rate = {"rate_per_s": 40.0, "requests": 300, "latency_p50_ms": 9.0, "latency_p95_ms": 20.0}
        rate |= {"latency_p99_ms": 30.0, "utilization": 0.5}
        own = {**rate, "rate_per_s": 40.0 + (rss or 0)}
        result["open_loop"] = {"rates": [rate, own], "budget_p95_ms": 25.0, "highest_rate_per_s": rss}
        agreement = {"output": "x", "max_difference": 0.002, "max_relative_difference": 0.01, "min_cosine": 0.9999}
        result["agreement"] = agreement | {"bound": "cosine at least 0.99", "within": rss is not None}
    rows = rows_of(measurement)
    assert rows["Memory after batch 8"] == ["200 MB (shrunk: 90.0 MB)", "does not fit (shrunk: 90.0 MB)"]
    assert rows["2 streams"] == ["150 /s, p95 15.0 ms"] * 2
    assert rows["At 40.0 arrivals/s"] == ["p95 20.0 ms, 50% busy"] * 2
    assert "At 240 arrivals/s" not in rows  # the other package was not tried there
    assert rows["Most arrivals/s with p95 within 25.0 ms"] == ["200", "none"]
    within, beyond = rows["Answers as on this CPU"]
    assert within.endswith("within the bound")
    assert beyond.endswith("BEYOND the bound")


def test_remarks_tell_failures_limits_and_emulation(measurement: dict[str, Any]) -> None:
    assert measurement_remarks(typed(measurement)) == []
    measurement |= {
        "emulated": True,
        "limits": {"memory_mb": {"limit": 256.0, "by": "cgroup v2"}},
        "failures": [{"package": "big", "stage": "load", "reason": "needs more than the 256 MB that it was given"}],
        "noise": {
            "spin_p50_us": 500.0,
            "spin_p95_us": 505.0,
            "disturbed_share": 0.0,
            "other_load_cores": 1.0,
            "stolen_share": None,
            "frequency_before_mhz": None,
            "frequency_after_mhz": None,
            "remarks": ["other processes used 1.0 cores meanwhile"],
        },
    }
    remarks = measurement_remarks(typed(measurement))
    assert remarks[:3] == [
        "big does not fit (load): needs more than the 256 MB that it was given",
        "other processes used 1.0 cores meanwhile",
        "Limited to 256 MB of memory, by cgroup v2",
    ]
    assert remarks[3].startswith("Emulated: ")


@pytest.fixture
def grid(measurement: dict[str, Any]) -> dict[str, Any]:
    cells = []
    for threads, batch_size, length in [(1, 1, 32), (1, 8, 32), (1, 1, 128), (2, 1, 32)]:
        cell = json.loads(json.dumps(measurement)) | {"threads": threads, "batch_size": batch_size, "length": length}
        for result in cell["results"]:
            result["latency_p50_ms"] = 1.5 * threads + batch_size + length
        cells.append(cell)
    return {"schema_version": "2.0", "kind": "grid", "cells": cells}


def test_a_grid_has_a_row_for_each_condition_and_package(grid: dict[str, Any]) -> None:
    rows = grid_table(typed(grid)).rows
    assert len(rows) == 8
    assert list(rows[0][:5]) == ["1", "1", "32", "minilm", "34.5"]
    assert list(rows[-1][:4]) == ["2", "1", "32", "quickstart"]


def test_a_grid_says_what_became_of_ratio_and_budget(grid: dict[str, Any], tmp_path: Path) -> None:
    missed = {"line": "latency_p50_ms", "limit": 10.0, "measured": 12.0, "interval": [11.8, 12.4], "kept": False}
    grid["cells"][1]["budget"] = [missed]
    rows = grid_table(typed(grid)).rows
    assert [list(row[-2:]) for row in rows[:4]] == [
        ["", ""],
        ["4.50x (4.40 to 4.62), faster", ""],
        ["", ""],
        ["4.50x (4.40 to 4.62), faster", "missed"],
    ]
    write_bench_report(tmp_path, typed(grid))
    page = (tmp_path / "report.md").read_text()
    assert page.splitlines()[2] == "**The budget is kept in 0 of 1 conditions.**"
    assert "- Budget, cpu, 1 thread, 8 x 32 tokens: Latency p50: 12.0 ms (11.8 to 12.4) of 10.0 ms: missed" in page


def test_packages_of_one_name_are_told_apart_by_their_paths(measurement: dict[str, Any]) -> None:
    assert labels_of(typed(measurement).results) == ["minilm", "quickstart"]
    measurement["results"][0]["name"] = "quickstart"
    assert labels_of(typed(measurement).results) == ["run/0-teacher", "run/2-onnx"]


def test_what_did_not_fit_after_the_timing_is_no_row_of_nothing(measurement: dict[str, Any]) -> None:
    """The second package's workers ran out of memory under several callers, and under arrivals."""
    first = measurement["results"][0]
    first["streams"] = [{"streams": 2, "throughput_per_s": 150.0, "latency_p50_ms": 13.0, "latency_p95_ms": 15.0}]
    rate = {"rate_per_s": 40.0, "requests": 300, "latency_p50_ms": 9.0, "latency_p95_ms": 20.0}
    rate |= {"latency_p99_ms": 30.0, "utilization": 0.5}
    first["open_loop"] = {"rates": [rate], "budget_p95_ms": 25.0, "highest_rate_per_s": None}
    rows = rows_of(measurement)
    assert rows["2 streams"] == ["150 /s, p95 15.0 ms", "does not fit"]
    assert rows["At 40.0 arrivals/s"] == ["p95 20.0 ms, 50% busy", "does not fit"]
    assert rows["Most arrivals/s with p95 within 25.0 ms"] == ["none", "does not fit"]


def test_a_ratio_that_the_medians_contradict_is_a_remark(measurement: dict[str, Any]) -> None:
    first, second = measurement["results"]
    measurement["comparisons"] = [
        {
            "package": second["package"],
            "against": first["package"],
            "speedup_p50": 0.84,
            "interval": [0.75, 0.97],
            "verdict": "slower",
        }
    ]
    second["latency_p50_ms"] = first["latency_p50_ms"] * 1.1
    assert measurement_remarks(typed(measurement)) == []
    second["latency_p50_ms"] = first["latency_p50_ms"] * 0.9
    measurement["comparisons"][0]["verdict"] = "same"
    assert measurement_remarks(typed(measurement)) == []
    measurement["comparisons"][0]["verdict"] = "slower"
    (remark,) = measurement_remarks(typed(measurement))
    assert remark.startswith(f"{second['package']} is 0.840x (0.750 to 0.970) slower within turns")


def test_an_answer_beyond_the_bound_is_a_remark(measurement: dict[str, Any]) -> None:
    nothing = {"output": "x", "max_difference": None, "max_relative_difference": None, "min_cosine": None}
    measurement["results"][1]["agreement"] = nothing | {"bound": "cosine at least 0.99", "within": False}
    assert rows_of(measurement)["Answers as on this CPU"] == ["", "NO: of another shape, or no numbers"]
    (remark,) = measurement_remarks(typed(measurement))
    assert remark.startswith("run/2-onnx is another model there")


def test_operators_that_another_provider_runs_are_told(measurement: dict[str, Any]) -> None:
    measurement["device"] = "openvino"
    measurement["results"][1]["elsewhere"] = {"Attention": 2, "MatMulIntegerToFloat": 24}
    (remark,) = measurement_remarks(typed(measurement))
    assert remark.startswith("run/2-onnx runs 26 operators on the CPU's own provider")
    assert "openvino" in remark
    assert remark.endswith("2 Attention, 24 MatMulIntegerToFloat")


def test_the_heat_map_shows_every_figure_in_its_place(grid: dict[str, Any]) -> None:
    figure = heat_figure(typed(grid).cells, "run/0-teacher", "minilm")
    one, two = figure.axes
    assert (one.get_title(loc="left"), two.get_title(loc="left")) == ("1 thread", "2 threads")
    told = {(text.get_position()): text.get_text() for text in one.texts}
    assert told == {(0, 0): "34.5", (1, 0): "130", (0, 1): "41.5"}  # 8 x 128 was not measured
    assert [text.get_text() for text in two.texts] == ["36.0"]


def test_a_kept_grid_is_an_artifact_with_a_page(grid: dict[str, Any], tmp_path: Path) -> None:
    write_bench_report(tmp_path, typed(grid))
    assert set(verify(tmp_path, Manifest).files) == {
        "measurement.json",
        "report.md",
        "report.html",
        "plots/heat-1.png",
        "plots/heat-2.png",
    }
    assert "| 1 | 8 | 32 | quickstart |" in (tmp_path / "report.md").read_text()


def test_needs_name_the_command_that_gets_them() -> None:
    devices = [
        Device(name="cpu", how="cpu", ready=True, emulated=False),
        Device(
            name="web",
            how="web",
            ready=False,
            emulated=False,
            needs=(Need(what="a browser", command="apt-get install chromium"),),
        ),
    ]
    ready, missing = map(str, need_lines(devices))
    assert ready == "cpu: ready"
    assert missing == "web: a browser is missing\n    apt-get install chromium"
