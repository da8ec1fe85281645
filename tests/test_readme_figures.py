"""The README's figures are those of the kept results."""

from __future__ import annotations

import json
import re
from pathlib import Path

from homoexport.report.tables import summary_rows

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_table_is_the_kept_summarys():
    summary = json.loads((ROOT / "docs" / "quickstart-summary.json").read_text())
    for row in summary_rows(summary):
        assert f"| {' | '.join(row)} |" in README
    shown = re.findall(r"^\| (\w.*?) \|", README, re.MULTILINE)
    assert shown == [row[0] for row in summary_rows(summary)]


def test_figures_of_the_benchmarks_are_the_kept_ones():
    teacher, student = json.loads((ROOT / "bench/results/sts.json").read_text())["results"]
    flat = " ".join(README.split())
    assert f"with human scores is {student['value']:.3f} where the teacher's is {teacher['value']:.3f}" in flat
    step = json.loads((ROOT / "bench/results/distill_step.json").read_text())
    assert f"slicing together take {step['share_while_pruning']:.1%} of the pruning steps" in flat


def test_links_lead_somewhere():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
