"""Candidates of an export: each has a name that no other has, and one ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from homoexport.choices import ModelTask
from homoexport.documents.artifact import PackageManifest, read_manifest
from homoexport.documents.budget import BudgetVerdict
from homoexport.documents.package import CandidateFigures, PackageDetails
from homoexport.report import candidate_table, export_lines
from homoexport.stages.export.card import model_card
from tests.stages.measure.tiny_onnx import write_package


@pytest.fixture
def details(tmp_path: Path) -> PackageDetails:
    """Of a package that was chosen in three rounds, among them the same graph with some products in fp32."""
    package = read_manifest(write_package(tmp_path / "package"), PackageManifest).details
    poor = package.parity.model_copy(update={"mean_cosine": 0.14, "passed": False})

    def candidate(**changes: Any) -> CandidateFigures:
        plain: dict[str, Any] = {
            "name": "standard-int8",
            "full_name": "standard-int8",
            "precision": "int8",
            "embeddings": "int8",
            "calibration": None,
            "kept_in_fp32": (),
            "file_bytes": 10,
            "latency_p50_ms": 1.0,
            "round": 1,
            "parity": None,
            "parity_on_target": None,
        }
        return CandidateFigures(**{**plain, **changes})

    mended = {"kept_in_fp32": ("a", "b"), "parity": package.parity, "round": 3}
    fp32 = {
        "name": "standard-fp32",
        "full_name": "standard-fp32",
        "precision": "fp32",
        "embeddings": "fp32",
        "round": 3,
    }
    candidates = (
        candidate(),
        candidate(round=2),
        candidate(round=None, latency_p50_ms=None, parity=poor),
        candidate(**mended),
        candidate(**fp32),
    )
    return package.model_copy(
        update={"candidates": candidates, "candidate": "standard-int8", "kept_in_fp32": ("a", "b")}
    )


def test_no_two_candidates_have_one_name(details: PackageDetails) -> None:
    assert details.candidate_names == (
        "standard-int8, 0 products in fp32, round 1",
        "standard-int8, 0 products in fp32, round 2",
        "standard-int8, 0 products in fp32, not timed",
        "standard-int8, 2 products in fp32",
        "standard-fp32",
    )
    twice = details.model_copy(update={"candidates": details.candidates[:1] * 2})
    assert twice.candidate_names == ("standard-int8", "standard-int8 (2)")


def test_each_candidate_has_an_outcome(details: PackageDetails) -> None:
    def outcomes(**changes: Any) -> list[str]:
        return [row[-1] for row in candidate_table(details.model_copy(update=changes)).rows]

    assert outcomes() == ["went on", "went on", "breaks the gate", "ships", "as fast, larger"]
    asked = outcomes(refused={"standard-fp32": "was not asked for; it takes 0.90 times as long"})
    assert asked[-1] == "not asked for"
    *others, fp32 = details.candidates
    dearer = fp32.model_copy(update={"latency_p50_ms": 1.5})
    beaten = others[0].model_copy(update={"latency_p50_ms": 1.1})
    assert outcomes(candidates=(*others, dearer, beaten))[-2:] == ["costs more", "costs more"]
    floor = BudgetVerdict(line="quality.accuracy", limit=0.9, measured=0.8, interval=None, kept=False)
    assert outcomes(quality={"standard-fp32": floor})[-1] == "below the floor"
    assert outcomes(candidates=(*others, fp32.model_copy(update={"latency_p50_ms": None})))[-1] == "not timed"


def test_only_what_ships_is_bold(details: PackageDetails) -> None:
    assert details.shipped == 3
    assert candidate_table(details).bold == (3,)
    card = model_card("package", details, parent="0" * 64, source="me/it")
    rows = [line for line in card.splitlines() if line.startswith(("| standard", "| **standard"))]
    assert [row.startswith("| **") for row in rows] == [False, False, False, True, False]
    assert details.model_copy(update={"candidates": ()}).shipped is None


@pytest.mark.parametrize(
    ("task", "output", "likeliest", "what"),
    [
        ("fill-mask", "logits", "token", "logits"),
        ("text-classification", "logits", "label", "logits"),
        ("token-classification", "logits", "label of a token", "logits"),
        ("sentence-similarity", "sentence_embedding", None, "numbers"),
    ],
)
def test_differences_are_told_with_the_size_of_what_differs(
    tmp_path: Path, task: ModelTask, output: str, likeliest: str | None, what: str
) -> None:
    manifest = read_manifest(write_package(tmp_path / "package", task, labels=["a"]), PackageManifest)
    agreement = 0.984 if likeliest else None
    figures = {"output": output, "max_difference": 0.5, "max_relative_difference": 0.02, "top1_agreement": agreement}
    details = manifest.details.model_copy(
        update={
            "parity": manifest.details.parity.model_copy(update=figures),
            "batch_invariance": manifest.details.batch_invariance.model_copy(update={"max_difference": 0.64}),
        }
    )
    _, against, company, *_ = export_lines("package", manifest.model_copy(update={"details": details}))
    assert against.endswith(f", likeliest {likeliest} the same in 98.4%" if likeliest else "cosine 1.0000")
    told = f"largest difference 0.64 in {what} of up to 25"
    assert told in company
    assert told in model_card("package", details, parent="0" * 64, source="me/it")
