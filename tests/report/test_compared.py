"""Models by quality and cost: what one folder measured, and another judged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from homoexport.report import comparison_notes, comparison_table, write_comparison
from homoexport.report.tradeoff import Point, front_of, tradeoff_figure
from tests.hostile import HOSTILE
from tests.report.conftest import judged_packages, typed
from tests.report.test_page import Elements


def test_models_have_their_quality_beside_their_cost(measurement: dict[str, Any]) -> None:
    table = comparison_table(typed(measurement), judged_packages())
    assert table.head[:4] == ("Model", "Runs in", "spearman", "Latency p95")
    teacher, student = table.rows
    assert teacher[:3] == ("minilm", "fp32", "0.870 (0.850 to 0.890)")
    assert (student[0], student[2], student[4]) == ("quickstart", "0.840 (0.820 to 0.860)", "9.10 MB")
    assert student[3].startswith("15.")  # ms


def test_what_is_left_out_is_told(measurement: dict[str, Any]) -> None:
    measurement["results"][1] |= {"runtime": "openvino"}
    measurement["results"].append(measurement["results"][0] | {"package": "run/peer", "name": "peer"})
    assert comparison_notes(typed(measurement), judged_packages()) == [
        "hub/a-model was judged and not measured",
        "run/peer was measured and not judged",
        "quickstart was judged in onnxruntime and measured in openvino",
    ]


def test_the_page_draws_them(tmp_path: Path, measurement: dict[str, Any]) -> None:
    write_comparison(tmp_path / "page.html", typed(measurement), judged_packages())
    page = (tmp_path / "page.html").read_text()
    assert "<h1>Quality against cost: sts</h1>" in page
    for told in ("latency p95, ms", "minilm (fp32)", "quickstart (int8)", "dev.tsv (40 examples)"):
        assert told in page


def test_the_front_goes_through_what_no_other_beats() -> None:
    places = [(3.0, 0.9), (1.0, 0.7), (2.0, 0.6), (4.0, 0.8), (1.0, 0.65)]
    assert front_of(places) == [(1.0, 0.7), (3.0, 0.9)]
    assert front_of(places, less_is_better=True) == [(1.0, 0.65), (2.0, 0.6)]
    points = [Point(str(cost), cost, None, cost, quality, None) for cost, quality in places]
    for axes in tradeoff_figure(points, quality="accuracy").axes:
        (front,) = (line for line in axes.get_lines() if line.get_label() == "front")
        assert front.get_xydata().tolist() == [[1.0, 0.7], [3.0, 0.9]]
    two = tradeoff_figure(points[:2], quality="accuracy")
    assert not [line for axes in two.axes for line in axes.get_lines() if line.get_label() == "front"]


def test_strangers_words_are_text(tmp_path: Path, measurement: dict[str, Any]) -> None:
    def page(word: str) -> Elements:
        names = [f"{word} {place}" for place in range(2)]
        results = [
            result | {"name": name, "package": name} for result, name in zip(measurement["results"], names, strict=True)
        ]
        found = judged_packages()
        models = [
            one.model_copy(update={"model": name, "metrics": (one.metrics[0].model_copy(update={"metric": word}),)})
            for one, name in zip(found.results, [*names, f"{word} 2"], strict=True)
        ]
        data = found.data.model_copy(update={"source": word})
        evaluation = found.model_copy(update={"results": tuple(models), "data": data})
        write_comparison(tmp_path / "page.html", typed(measurement | {"device": word, "results": results}), evaluation)
        text = (tmp_path / "page.html").read_text()
        assert not set("\x1b\x07\x08\x9b\u202e") & set(text)
        return Elements(re.sub(r"<svg.*?</svg>", "", text, flags=re.S))

    hostile = page(" ".join(text for name, text in HOSTILE.items() if name != "half a character"))
    assert hostile.found == page("word").found
    assert "<script>alert(1)</script>" in hostile.text
