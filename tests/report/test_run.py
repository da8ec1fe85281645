from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from homoexport.choices import AttentionForm
from homoexport.documents.artifact import PackageManifest, read_manifest, write_manifest
from homoexport.documents.document import to_json, write_text
from homoexport.documents.package import CandidateFigures
from homoexport.documents.student import StepRecord
from homoexport.documents.summary import Summary
from homoexport.errors import PackageError
from homoexport.report import write_report
from homoexport.runtime.inference import open_package
from homoexport.workflow.summary import report
from tests.report.conftest import typed
from tests.samples import student_details


def test_report_tells_the_run(run_dir: Path, summary: Summary, measurement: dict[str, Any]) -> None:
    path = write_report(run_dir, summary, measurement=typed(measurement))
    text = path.read_text()
    assert path == run_dir / "report.md"
    assert "**The budget is kept.**" in text
    assert "| File | at most 10.0 MB | 9.10 MB | kept |" in text
    assert "| File | 91.0 MB | 9.10 MB | 10.0x smaller |" in text
    assert "hidden size 384 to 192" in text
    assert "The gap between them was 0 at the first of 180 steps" in text
    assert "cpu, 1 thread, 1 x 128 tokens" in text
    assert "| together | 289.8 s |" in text
    assert "| Quality: Spearman with teacher | 1.00 | 0.874 (0.861 to 0.886) |" in text
    assert "fidelity to the teacher" in text
    links = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    names = ["latency", "tradeoff", "homotopy", "terms", "distribution", "stages"]
    assert links == [f"plots/{name}.png" for name in names]
    for link in links:
        assert (run_dir / link).read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in run_dir.iterdir() if entry.name.startswith(".")] == []


def test_words_of_the_candidates_table_are_explained(
    run_dir: Path, summary: Summary, measurement: dict[str, Any]
) -> None:
    package = run_dir / "2-onnx"
    details = read_manifest(package, PackageManifest).details
    one = CandidateFigures(
        name="standard-int8",
        full_name="standard-int8",
        precision="int8",
        embeddings="int8",
        calibration=None,
        kept_in_fp32=(),
        file_bytes=10,
        latency_p50_ms=1.0,
        round=1,
        parity=details.parity,
        parity_on_target=None,
    )
    write_manifest(package, "package", details=details.model_copy(update={"candidates": (one,)}))
    text = write_report(run_dir, summary, measurement=typed(measurement)).read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("A candidate's name says")]
    for word in (*get_args(AttentionForm), "int8-static", "cosine", "Went on"):
        assert word in line
    assert text.index("| candidate |") < text.index(line)


def make_student(run_dir: Path, method: str, log: list[StepRecord]) -> None:
    """Have the run's student come about by a method, out of a teacher that is twice as wide as it ever was."""
    wide = log[0].widths.model_copy(update={"hidden_size": 768})
    details = student_details().model_copy(update={"method": method, "teacher_widths": wide})
    (run_dir / "1-student" / "log.jsonl").write_text("".join(line.model_dump_json() + "\n" for line in log))
    write_manifest(run_dir / "1-student", "student", details=details)


def test_a_student_that_was_pruned_at_once_is_told_as_such(
    run_dir: Path, summary: Summary, measurement: dict[str, Any], log: list[StepRecord]
) -> None:
    rest = [line.model_copy(update={"gap": 1.0}) for line in log]
    make_student(run_dir, "one-shot", rest)
    text = write_report(run_dir, summary, measurement=typed(measurement)).read_text()
    assert "The teacher was pruned to the student at once: hidden size 768 to 192" in text
    make_student(run_dir, "from-scratch", rest)
    text = write_report(run_dir, summary, measurement=typed(measurement)).read_text()
    assert "started apart from the teacher and learned from it at one width" in text


def test_a_student_that_was_only_mended_has_no_steps_to_draw(
    run_dir: Path, summary: Summary, measurement: dict[str, Any], log: list[StepRecord]
) -> None:
    make_student(run_dir, "repair", [log[-1]])
    text = write_report(run_dir, summary, measurement=typed(measurement)).read_text()
    assert "Nothing was trained." in text
    assert "steps" not in text.partition("## How the student came about")[2].partition("## How it was measured")[0]
    assert not {"homotopy.png", "terms.png"} & {plot.name for plot in (run_dir / "plots").iterdir()}


@pytest.mark.parametrize(
    ("kept", "told"),
    [(False, "**The budget is missed: Latency p95 is "), (None, "**Too noisy to call: Latency p95 is ")],
)
def test_report_opens_with_the_verdict(
    run_dir: Path, summary: Summary, measurement: dict[str, Any], kept: bool | None, told: str
) -> None:
    first = summary.budget[0].model_copy(update={"kept": kept})
    missed = summary.model_copy(update={"budget": (first, *summary.budget[1:]), "budget_kept": kept})
    page = write_report(run_dir, missed, measurement=typed(measurement)).read_text()
    assert told in page.splitlines()[2]


def test_report_without_a_budget_says_so(run_dir: Path, summary: Summary, measurement: dict[str, Any]) -> None:
    unlimited = summary.model_copy(update={"budget": ()})
    page = write_report(run_dir, unlimited, measurement=typed(measurement)).read_text()
    assert "The recipe set no budget." in page


def test_the_five_lines_run(
    run_dir: Path, summary: Summary, measurement: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = write_report(run_dir, summary, measurement=typed(measurement)).read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(code.splitlines()) == 5
    monkeypatch.chdir(run_dir)
    names: dict[str, Any] = {}
    exec(code, names)
    wanted = open_package(run_dir / "2-onnx", threads=1).embed(["A text.", "Another one."])
    np.testing.assert_allclose(names["answer"], wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["summary.json", "1-student/log.jsonl", "3-measured/measurement.json"])
@pytest.mark.parametrize("content", [None, "{", ""])
def test_missing_or_broken_parts_are_told(run_dir: Path, name: str, content: str | None) -> None:
    (run_dir / name).unlink()
    if content is not None:
        (run_dir / name).write_text(content)
    is_unfinished = name == "summary.json" and content is None
    with pytest.raises(PackageError, match="it has no summary" if is_unfinished else re.escape(str(run_dir / name))):
        report(run_dir)
    assert not (run_dir / "report.md").exists()


def test_a_summary_of_another_version_is_refused(run_dir: Path) -> None:
    summary = json.loads((run_dir / "summary.json").read_text())
    write_text(run_dir / "summary.json", to_json(summary | {"schema_version": "3.0"}))
    with pytest.raises(PackageError, match=r"is of schema version 3\.0"):
        report(run_dir)


def link_for(place: str, run_dir: Path, victim: Path) -> Path:
    """A link at a place of the run, to the user's own file or, where a folder should be, to the folder of it."""
    path = run_dir / place
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(victim if "." in path.name else victim.parent)
    return path


@pytest.mark.parametrize(
    "place",
    [
        "plots",
        "report.md",
        ".report.md.part",
        ".report.md.0123456789abcdef.homoexport",
        "summary.json",
        "1-student",
        "1-student/log.jsonl",
        "2-onnx/config.json",
        "3-measured/measurement.json",
        ".more",
    ],
)
def test_a_report_on_a_strangers_run_follows_no_link(run_dir: Path, tmp_path: Path, place: str) -> None:
    victim = tmp_path / "own" / "terms.png"
    victim.parent.mkdir()
    victim.write_text("mine")
    link_for(place, run_dir, victim)
    with pytest.raises(PackageError, match="is a link, and may lead anywhere"):
        report(run_dir)
    assert {path.name: path.read_text() for path in victim.parent.iterdir()} == {"terms.png": "mine"}


@pytest.mark.parametrize("place", ["report.md", "plots/terms.png"])
def test_a_report_that_is_written_replaces_what_is_there(
    run_dir: Path, tmp_path: Path, summary: Summary, measurement: dict[str, Any], place: str
) -> None:
    """Whatever looked at the folder before: at the last moment, too, a link is replaced and not followed."""
    victim = tmp_path / "own.txt"
    victim.write_text("mine")
    (run_dir / "plots").mkdir()
    link_for(place, run_dir, victim)
    write_report(run_dir, summary, measurement=typed(measurement))
    assert victim.read_text() == "mine"
    assert not (run_dir / place).is_symlink()


@pytest.mark.parametrize("place", ["1-student/log.jsonl", "2-onnx/tokenizer.json", "3-measured/measurement.json"])
def test_a_report_tells_nothing_that_was_altered(run_dir: Path, place: str) -> None:
    (run_dir / place).write_text((run_dir / place).read_text().replace("1", "2"))
    with pytest.raises(PackageError, match="altered"):
        report(run_dir)
