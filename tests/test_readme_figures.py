"""The README's figures are those of the kept results."""

from __future__ import annotations

import json
import re
import statistics
import sys
from importlib.util import module_from_spec, spec_from_file_location
from itertools import combinations
from pathlib import Path
from types import ModuleType

import pytest

from homoexport.documents.document import read_document
from homoexport.documents.summary import Summary
from homoexport.report.tables import summary_rows

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_table_is_the_kept_summarys():
    summary = read_document(ROOT / "docs" / "quickstart-summary.json", Summary)
    for row in summary_rows(summary):
        assert f"| {' | '.join(row)} |" in README
    shown = re.findall(r"^\| (\w.*?) \|", README.split("Beside its peers")[0], re.MULTILINE)
    assert shown == [row[0] for row in summary_rows(summary)]


PEERS = {  # the README's words for a cell of bench/methods.py
    "`homodistil`": "homodistil",
    "`one-shot`": "one-shot",
    "`layers`, cut to the same size": "layers, same size",
    "`layers`, full width": "layers, full width",
    "`one-shot` by magnitude": "one-shot, magnitude",
    "`minilm`": "minilm",
    "`from-scratch`": "from-scratch",
}


def test_peers_are_the_kept_runs():
    runs = json.loads((ROOT / "bench/results/methods.json").read_text())["runs"]
    table = re.findall(r"^\| (`.*?) \| (.*?) M \| (.*?) \|$", README, re.MULTILINE)
    assert [row[0] for row in table] == list(PEERS)
    for name, millions, spearman in table:
        cell = [run for run in runs if run["cell"] == PEERS[name]]
        assert len(cell) == 3
        assert millions == f"{cell[0]['parameters'] / 1e6:.1f}"
        values = [run["spearman"] for run in cell]
        assert spearman == f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
    jumps = {
        name: statistics.mean(run["largest_jump"] for run in runs if run["cell"] == name)
        for name in ("homodistil", "one-shot")
    }
    flat = " ".join(README.split())
    assert f"largest jump at {jumps['homodistil']:.2f} where one-shot's is {jumps['one-shot']:.2f}" in flat


def test_figures_of_the_benchmarks_are_the_kept_ones():
    teacher, student = json.loads((ROOT / "bench/results/sts.json").read_text())["results"]
    flat = " ".join(README.split())
    assert f"with human scores is {student['value']:.3f} where the teacher's is {teacher['value']:.3f}" in flat
    step = json.loads((ROOT / "bench/results/distill_step.json").read_text())
    ratios = [figures["ratio"] for figures in step["floor"].values()]
    assert f"slicing together take {step['share']['share_while_pruning']:.1%} of the pruning steps" in flat
    assert f"all its terms {min(ratios):.2f} to {max(ratios):.2f} times" in flat


def test_several_students_take_what_the_docs_say():
    students = json.loads((ROOT / "bench/results/students.json").read_text())
    docs = " ".join((ROOT / "docs/distilling.md").read_text(encoding="utf-8").split())
    assert f"in time that was {students['ratio']:.2f} of the four runs'" in docs
    higher = [each["branch_held_out_loss"] / each["alone_held_out_loss"] - 1 for each in students["students"].values()]
    assert f"{min(higher):.0%} to {max(higher):.0%}".replace("%", "", 1).replace("%", " %") in docs
    assert higher[0] == max(higher)  # the widest comes first


def test_the_clock_and_the_verdicts_are_as_good_as_the_docs_say():
    docs = " ".join((ROOT / "docs/measuring.md").read_text(encoding="utf-8").split())
    student, teacher = json.loads((ROOT / "bench/results/clock.json").read_text())["results"]
    assert (student["package"]["precision"], teacher["package"]["precision"]) == ("int8", "fp32")
    loop, slope, memory, start = (
        [f"{figure:.{digits}f}" for figure in figures]
        for digits, figures in (
            (3, [each["ours_over"]["loop"] for each in (student, teacher)]),
            (3, [each["ours_over"]["hyperfine_slope"] for each in (student, teacher)]),
            (3, [each["memory"]["ratio"] for each in (student, teacher)]),
            (2, [each["start_to_first_sample_s"] for each in (student, teacher)]),
        )
    )
    assert f"{loop[0]} times (int8 student) and {loop[1]} times (fp32 teacher) that of a plain loop" in docs
    assert f"{slope[0]} and {slope[1]} times the slope that hyperfine" in docs
    assert f"{memory[0]} and {memory[1]} times what `/usr/bin/time -v`" in docs
    assert f"after {start[0]} and {start[1]} s besides" in docs
    assert max(each["parent_cpu_share"] for each in (student, teacher)) < 0.002
    assert "less than 0.2 % of a core" in docs
    kept = json.loads((ROOT / "bench/results/repeatability.json").read_text())
    conditions = [kept["quiet"], kept["with a neighbour"]]
    same, slower = (
        {word: sum(each[kind]["verdicts"].get(word, 0) for each in conditions) for word in ("same", "faster", "slower")}
        for kind in ("same", "slower")
    )
    counts = [sum(each[kind]["count"] for each in conditions) for kind in ("same", "slower")]
    assert f"of {counts[0]} comparisons of a package with itself" in docs
    assert f"{same['faster'] + same['slower']} called a winner" in docs
    assert f"in {slower['slower']} of {counts[1]}" in docs
    for each, where in zip(conditions, ("on the quiet machine", "with the neighbour"), strict=True):
        alone = each["alone"]
        steady = alone["called_steady_and_right"] + alone["called_steady_and_wrong"]
        told = f"{100 * alone['spread']:.1f} % {where}, `steady` {steady} times, {alone['called_steady_and_right']} of"
        assert told in docs


def _bench(name: str) -> ModuleType:
    spec = spec_from_file_location(name, ROOT / "bench" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # where its dataclasses look for their names
    spec.loader.exec_module(module)
    return module


def test_speeds_beside_other_tools_are_the_kept_ones():
    docs = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    models = json.loads((ROOT / "bench/results/export_peers.json").read_text())["models"]
    peers = _bench("export_peers")
    assert peers.table(models) in docs
    assert peers.words(models) in docs
    flat = " ".join(README.split())
    ours = [models[name]["verdict"] for name in ("minilm-6x384", "student-6x192")]
    ort, openvino = (
        [f"{one[runtime]['geometric_mean']:.2f}" for one in ours] for runtime in ("onnxruntime", "openvino")
    )
    assert f"it is {ort[0]} (MiniLM) and {ort[1]} (the student) times as fast as the fastest of them" in flat
    assert f"{openvino[0]} and {openvino[1]} times as fast as OpenVINO" in flat


def test_where_the_time_goes_is_what_was_profiled():
    kept = json.loads((ROOT / "bench/results/roofline.json").read_text())
    assert _bench("roofline").table(kept["profiles"]) in (ROOT / "docs/speed.md").read_text(encoding="utf-8")


def test_finetuned_figures_are_the_kept_ones():
    kept = json.loads((ROOT / "bench/results/finetuning.json").read_text())
    docs = (ROOT / "docs/evaluating.md").read_text(encoding="utf-8")
    bench = _bench("finetuning")
    for row in bench.rows_of(kept["runs"]):
        assert f"| {' | '.join(row)} |" in docs
    cell = bench.CELLS[0]
    assert bench.is_kept(cell, kept["runs"], bench.RESULT)
    others = [{**run, "settings": {**run["settings"], "epochs": 1.0}} for run in kept["runs"]]
    with pytest.raises(SystemExit, match="student-sst2-0 was made with other settings"):
        bench.is_kept(cell, others, bench.RESULT)
    for run in kept["runs"]:
        assert run["trained_on"] in docs
        assert run["fp32"]["value"] == run["fp32"]["official"]
        assert run["int8"]["value"] == run["int8"]["official"]


def test_throughput_on_a_gpu_is_the_kept_one():
    widths = json.loads((ROOT / "bench/results/throughput.json").read_text())["widths"]
    docs = " ".join((ROOT / "docs/distilling.md").read_text(encoding="utf-8").split())
    rates = {name: f"{cell['tokens_per_second'] / 1e3:,.0f} thousand" for name, cell in widths.items()}
    whole, share = rates["teacher's width"], widths["teacher's width"]["share_of_matrix_rate"]
    assert f"takes {whole} tokens a second, {100 * share:.0f} % of the rate" in docs
    assert f"at HomoBERT-base's width {rates['base']}, at small's {rates['small']}" in docs


def test_study_is_the_kept_one():
    kept = json.loads((ROOT / "bench/results/study.json").read_text())
    study, docs, rows = _bench("study"), (ROOT / "docs/study.md").read_text(encoding="utf-8"), kept["rows"]
    assert study.table(rows) in docs
    flat = " ".join(docs.split())
    assert f"took {sum(kept['seconds'].values()) / 3600:.1f} hours" in flat
    pairs = [
        (row, next(other for other in rows if (other["model"], other["precision"]) == (row["model"], "int8")))
        for row in rows
        if row["precision"] == "fp32"
    ]
    loss = max(full["stsb"]["value"] - small["stsb"]["value"] for full, small in pairs)
    faster = [full["latency_p95_ms"] / small["latency_p95_ms"] for full, small in pairs]
    assert f"costs at most {loss:.3f} of STS-B" in flat
    assert f"{min(faster):.1f} to {max(faster):.1f} times as fast at p95" in flat
    assert {row["method"] for row in rows} == {*study.METHODS, "reference"}
    assert len({row["width"] for row in rows} - {None}) == 4
    for cost in ("latency_p95_ms", "file_mb"):
        best = study.front(rows, cost, "stsb")
        assert all(row["precision"] == "int8" for row in best if row["method"] != "reference")


def test_predictions_are_as_good_as_the_docs_say():
    kept = json.loads((ROOT / "bench/results/plan_prediction.json").read_text())
    bench, docs = _bench("plan_prediction"), (ROOT / "docs/planning.md").read_text(encoding="utf-8")
    assert bench.show(kept) in docs
    assert bench.show_exports(kept["exported"]) in docs
    assert {(cell["precision"], cell["length"], len(cell["rows"])) for cell in kept["cells"]} == {
        (precision, length, 20) for precision in ("fp32", "int8") for length in (32, 128, 256)
    }


def test_budgets_are_kept_as_the_docs_say():
    kept = json.loads((ROOT / "bench/results/budgets.json").read_text())
    bench, docs = _bench("budgets"), (ROOT / "docs/planning.md").read_text(encoding="utf-8")
    assert bench.table(kept) in docs
    assert bench.told_lie(kept["lied_to"]) in " ".join(docs.split())
    shipped = [each for each in kept["budgets"].values() if "refused" not in each]
    refused = [each for each in kept["budgets"].values() if "refused" in each]
    assert all(line["kept"] for each in shipped for line in each["verdicts"])
    assert all(line["kept"] is not False for each in shipped for line in each["again"])
    again = sum(all(line["kept"] for line in each["again"]) for each in shipped)
    assert again >= 12
    assert f"{again} of {len(shipped)} keep every line" in " ".join(docs.split())
    assert f"{again} of {len(shipped)} keep every line" in " ".join(README.split())
    assert len(refused) == len(bench.HOPELESS)
    assert all(each["seconds"] < 60 for each in refused)
    lied = kept["lied_to"]
    assert lied["budget_kept"]
    assert len(lied["turns"]) > 1
    assert lied["pruning_on_seconds"] < lied["starting_over_seconds"]


def test_a_plan_costs_what_the_docs_say():
    kept = json.loads((ROOT / "bench/results/plan_cost.json").read_text())
    docs = " ".join((ROOT / "docs/planning.md").read_text(encoding="utf-8").split())
    assert (
        f"takes {kept['cold']['seconds']:.0f} s from a cold cache and {kept['warm']['seconds']:.1f} s from a warm one"
        in docs
    )
    ours, teachers = (kept[name]["peak_rss_mb"] / 1000 for name in ("cold", "export_of_the_teacher"))
    assert f"{ours:.1f} GB, where exporting the teacher takes {teachers:.1f} GB" in docs
    there = kept["on_the_target"]
    largest = max(there["largest_small_model_mb"], there["largest_whole_model_mb"])
    assert f"at most {largest:.0f} MB, where the teacher takes {there['teacher_mb']:.0f} MB" in docs
    assert largest < there["teacher_mb"]


def test_planned_shapes_are_as_much_better_as_the_docs_say():
    kept = json.loads((ROOT / "bench/results/planned_shapes.json").read_text())
    bench, docs = _bench("planned_shapes"), (ROOT / "docs/planning.md").read_text(encoding="utf-8")
    assert bench.table(kept) in docs
    flat = " ".join(docs.split())
    gains = [
        statistics.mean(bench.scores(kept, each["planned"]["shape"]))
        - statistics.mean(bench.scores(kept, each["guessed"]["shape"]))
        for each in kept["budgets"]
    ]
    assert f"better in all four, by {min(gains):.3f} to {max(gains):.3f}" in flat
    assert {(each["steps"], each["distilled_on"]) for each in kept["students"]} == {(1000, "NVIDIA H200")}
    for each in kept["budgets"]:
        assert (
            len(bench.scores(kept, each["planned"]["shape"])) == len(bench.scores(kept, each["guessed"]["shape"])) == 3
        )
        planned, guessed = (each["timed"][kind]["latency_p95_ms"] for kind in bench.KINDS)
        assert abs(planned / guessed - 1) < 0.07
    assert "p95s of the two are within 7 % of each other" in flat


def test_ranking_is_as_good_as_the_docs_say():
    sets = json.loads((ROOT / "bench/results/ranking.json").read_text())
    docs = (ROOT / "docs/planning.md").read_text(encoding="utf-8")
    measures = ("squares", "absolute", "parameters", "layers_times_hidden")
    for name, told in (("study", "eight of the study, 6 and 3 layers"), ("planned_shapes", "twelve of 6 layers")):
        rows, tau = sets[name]["rows"], sets[name]["kendall"]
        assert f"| {told} | {' | '.join(f'{tau[measure]:.2f}' for measure in measures)} |" in docs
        assert len(rows) == {"eight": 8, "twelve": 12}[told.split()[0]]
        for currency in ("squares", "absolute"):
            found = [
                (one[currency] - other[currency]) * (one["stsb"] - other["stsb"]) > 0
                for one, other in combinations(rows, 2)
            ]
            assert 2 * statistics.mean(found) - 1 == pytest.approx(tau[currency])


def test_links_lead_somewhere():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
