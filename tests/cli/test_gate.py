"""`homoexport gate`: a package against the one in use, as a CI calls it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from homoexport.documents.release import Release
from homoexport.runtime.inference import open_package
from tests.stages.measure.tiny_onnx import weights, write_package

pytestmark = [pytest.mark.processes, pytest.mark.alone]
QUICK = ("--min-seconds", "0.2", "--length", "16", "--threads", "1", "--json")


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder with a package, the same again, a slower one, a larger one and a worse one; and data that it knows."""
    folder = tmp_path_factory.mktemp("packages")
    arrays = weights(hidden=128, layers=2)
    for name, repeat in (("main", 4), ("same", 4), ("slower", 12)):
        write_package(folder / name, arrays=arrays, repeat=repeat)
    write_package(folder / "larger", arrays=weights(hidden=128, layers=4), repeat=2)
    noise = np.random.default_rng(1).normal(size=arrays["embedding"].shape).astype(np.float32)
    write_package(folder / "worse", arrays=arrays | {"embedding": arrays["embedding"] + 2 * noise}, repeat=4)
    rng, main = np.random.default_rng(0), open_package(folder / "main")
    pairs = [(f"w{a} w{b}", f"w{c} w{a}") for a, b, c in rng.integers(0, 50, (300, 3))]
    left, right = (main.embed([pair[side] for pair in pairs]) for side in (0, 1))
    rows = [f"{a},{b},{score}" for (a, b), score in zip(pairs, (left * right).sum(1), strict=True)]
    (folder / "dev.csv").write_text("\n".join(["sentence1,sentence2,score", *rows]))
    return folder


@pytest.fixture
def gate(homoexport, packages):
    """Exit code and document of `homoexport gate main NAME`."""

    def call(name, *words, baseline="main"):
        told = homoexport("gate", packages / baseline, packages / name, *QUICK, *words)
        assert told.code in (0, 3), told.err
        return told.code, Release.model_validate_json(told.out)

    return call


def kept(release):
    return {line.line: line.kept for line in release.lines}


def test_a_slower_package_is_worse(gate):
    code, release = gate("slower")
    assert (code, release.verdict) == (3, "worse")
    assert kept(release)["latency_p50_ms"] is False
    (low, high), line = release.lines[0].interval, release.lines[0]
    assert 1.05 < low < line.ratio < high
    assert line.ratio == pytest.approx(line.package / line.baseline, rel=0.2)
    code, release = gate("slower", "--fail-if-slower", "2000%", "--fail-if-bigger", "10%")
    assert (code, release.verdict) == (0, "kept")


def test_a_larger_file_is_worse_and_a_smaller_one_is_not(gate):
    code, release = gate("larger", "--fail-if-slower", "2000%")
    assert (code, release.verdict) == (3, "worse")
    assert kept(release) == {"latency_p50_ms": True, "file_mb": False}
    assert gate("main", "--fail-if-slower", "2000%", baseline="larger")[0] == 0
    assert gate("larger", "--fail-if-slower", "2000%", "--fail-if-bigger", "200%")[0] == 0


def test_worse_answers_are_worse(gate, packages):
    judged = ("--task", "sts", "--data", packages / "dev.csv", "--fail-if-slower", "2000%")
    code, release = gate("same", *judged)
    assert (code, kept(release)["quality.sts_spearman"]) == (0, True)
    assert release.lines[-1].ratio == 1
    code, release = gate("worse", *judged)
    assert (code, release.verdict) == (3, "worse")
    assert kept(release) == {"latency_p50_ms": True, "file_mb": True, "quality.sts_spearman": False}
    line = release.lines[-1]
    assert line.interval[0] < line.ratio < line.interval[1] < line.allowed == 0.99
    assert gate("worse", *judged, "--fail-if-worse", "99%")[0] == 0


def test_faithfulness_to_the_one_in_use(gate, packages):
    texts = ("--data", packages / "dev.csv", "--text-column", "sentence1")
    judged = ("--task", "fidelity", *texts, "--fail-if-slower", "2000%")
    code, release = gate("same", *judged)
    line = release.lines[-1]
    assert (code, line.baseline, line.ratio, line.interval) == (0, 1, 1, (1, 1))
    code, release = gate("worse", *judged)
    line = release.lines[-1]
    assert (code, line.kept) == (3, False)
    assert 0 < line.interval[0] < line.ratio < line.interval[1] < 0.99


def test_too_few_examples_are_undecided(gate, packages, tmp_path):
    few = tmp_path / "few.csv"
    few.write_text("\n".join((packages / "dev.csv").read_text().splitlines()[:20]))
    code, release = gate("same", "--task", "sts", "--data", few, "--fail-if-slower", "2000%")
    assert (code, release.verdict) == (3, "undecided")


def test_a_measurement_of_main_is_a_baseline(homoexport, gate, packages, tmp_path):
    told = homoexport("bench", packages / "main", *QUICK)
    before = json.loads(told.out)
    before["noise"]["spin_p50_us"] = 1e4  # a machine that was ten times slower then
    (tmp_path / "then.json").write_text(json.dumps(before))
    code, release = gate("slower", baseline=tmp_path / "then.json")
    assert (code, release.verdict) == (3, "undecided")
    assert any("times as long" in remark for remark in release.remarks)
    found = homoexport("gate", tmp_path / "then.json", packages / "main", "--json", "--length", "8", "--threads", "1")
    assert (found.code, "length 16 against 8" in found.err) == (2, True)
    found = homoexport("gate", tmp_path / "then.json", packages / "main", "--task", "sts", "--data", "dev.csv")
    assert (found.code, "no answers can be judged" in found.err) == (2, True)


def test_the_table_and_the_summary_of_a_job(homoexport, packages, tmp_path):
    summary = tmp_path / "summary.md"
    summary.write_text("# Before\n")
    told = homoexport("gate", packages / "main", packages / "slower", *QUICK[:-1], "--summary", summary)
    assert told.code == 3
    assert "Latency p50" in told.out
    page = summary.read_text()
    assert page.startswith("# Before\n### ")
    assert "slower, bigger or worse than is allowed" in page.splitlines()[1]
    assert "| Latency p50 |" in page
    assert "| at most 105 % | worse |" in page


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--fail-if-slower", "5"), "no percentage"),
        (("--fail-if-worse", "100%"), "nothing is worse by 100%"),
        (("--data", "dev.csv"), "--data: is for --task"),
        (("--task", "sts"), "name them with 'data'"),
    ],
)
def test_what_cannot_be_meant_is_one_line(homoexport, packages, words, told):
    found = homoexport("gate", packages / "main", packages / "same", *words)
    assert (found.code, told in found.err) == (2, True), found.err
    assert len(found.err.strip().splitlines()) == 1
