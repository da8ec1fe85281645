"""Tables of the README and the docs are those of the kept results, and so are the figures in their text."""

from __future__ import annotations

import json
import re
import runpy
import statistics
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MAKER = runpy.run_path(str(ROOT / "tools/tables.py"))
PAGES = [path.relative_to(ROOT) for path in MAKER["PAGES"]]


def kept(name: str) -> Any:
    return json.loads((ROOT / f"bench/results/{name}.json").read_text(encoding="utf-8"))


def says(page: str, heading: str, *figures: str) -> bool:
    """Whether a paragraph or a list item below a heading has these figures in this order."""
    text = re.sub(r"<!-- table.*?<!-- end of table -->", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    (section,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    for paragraph in re.split(r"\n\n|\n(?=- )", section):
        numbers = iter(re.findall(r"\d[\d,]*(?:\.\d+)?", paragraph))
        if all(figure in numbers for figure in figures):  # an iterator: each is looked for behind the one before
            return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_tables_are_the_kept_ones(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert MAKER["written"](text) == text, "run python tools/tables.py"


def test_every_table_stands_somewhere():
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    assert {name for name in MAKER["TABLES"] if f"<!-- table: {name} -->" not in text} == set()


def test_figures_are_looked_for_in_their_order(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One\n\n1.5 of\n2,000\n\n- 3 %\n- 4\n\n# Two\n\n5\n")
    assert says(str(page), "One", "1.5", "2,000")
    assert not says(str(page), "One", "2,000", "1.5")
    assert not says(str(page), "One", "3", "4")  # of two list items
    assert not says(str(page), "One", "5")
    assert not says(str(page), "One", "1")


def test_peers_of_the_method():
    runs = kept("methods")["runs"]
    for cell in import_module("methods").METHODS:
        assert len([run for run in runs if run["cell"] == cell.name]) == 3
    jumps = [
        statistics.mean(run["largest_jump"] for run in runs if run["cell"] == name)
        for name in ("homodistil", "one-shot")
    ]
    assert says("docs/study.md", "Other methods", *(f"{jump:.2f}" for jump in jumps))


def test_students_quality_and_costs_of_pruning():
    teacher, student = kept("sts")["results"]
    page = "docs/quickstart.md"
    assert says(page, "What comes out", f"{student['value']:.3f}", f"{teacher['value']:.3f}")
    overlap = kept("passages")["results"][0]["metrics"][0]["value"]
    assert says(page, "The figures, honestly", f"{overlap:.3f}")
    step = kept("distill_step")
    ratios = [figures["ratio"] for figures in step["floor"].values()]
    share = f"{100 * step['share']['share_while_pruning']:.1f}"
    assert says(page, "The figures, honestly", share, f"{min(ratios):.2f}", f"{max(ratios):.2f}")


def test_classifier():
    teacher, student = (
        {one["metric"]: one["value"] for one in each["metrics"]} for each in kept("classifier")["results"]
    )
    figures = (student["accuracy"], teacher["accuracy"], student["label_agreement"])
    assert says("docs/evaluating.md", "Fine-tuning", *(f"{figure:.3f}" for figure in figures))


def test_search():
    run = kept("search")
    quality = next(line for line in run["budget"] if line["line"].startswith("quality.ndcg@10"))
    teacher, student = run["teacher"], run["student"]
    figures = (
        f"{student['file_bytes'] / 1e6:.2f}",
        f"{quality['measured']:.3f}",
        f"{quality['teacher']:.3f}",
        f"{100 * quality['measured'] / quality['teacher']:.1f}",
        f"{student['quality']:.3f}",
        f"{student['latency_p50_ms']:.2f}",
        f"{teacher['latency_p50_ms']:.1f}",
        f"{run['ratios']['latency_p50_ms']:.2f}",
    )
    assert says("docs/distilling.md", "Keep your index", *figures)
    assert run["quality_documents"] == "teacher"
    others = [figures for seed, figures in run["seeds"].items() if seed != "0"]
    assert len(others) == 2
    told = [*(f"{each['overlap@10']:.3f}" for each in others), *(f"{100 * each['share']:.1f}" for each in others)]
    assert says("docs/distilling.md", "Keep your index", *told)
    assert sum(run["seconds"].values()) < 30 * 60


def test_where_step_by_step_pays():
    def held_out(objective, ratio, layers, method, repaired, steps=80):
        return statistics.mean(
            run["held_out"]
            for run in kept("homotopy")["runs"]
            if (run["objective"], run["ratio"], run["layers"]) == (objective, ratio, layers)
            and (run["method"], run["repaired"], run["steps"]) == (method, repaired, steps)
        )

    sentences, masked = "sentence-embedding", "masked-lm"
    gains = [
        held_out(sentences, ratio, 6, "one-shot", True)
        - max(held_out(sentences, ratio, 6, method, False) for method in ("one-shot", "homodistil"))
        for ratio in (2, 4, 8, 16)
    ]
    ways = (("one-shot", False), ("homodistil", False), ("one-shot", True))
    shallow = [f"{held_out(sentences, 4, 3, *way):.3f}" for way in ways]
    plain = [f"{held_out(masked, 4, 2, method, False):.3f}" for method in ("homodistil", "one-shot")]
    mended = [f"{held_out(masked, 8, 2, method, True):.3f}" for method in ("homodistil", "one-shot")]
    more = [
        f"{held_out(objective, 4, layers, *way, steps=320):.3f}"
        for objective, layers, way in (
            (sentences, 6, ("homodistil", False)),
            (sentences, 6, ("one-shot", True)),
            (masked, 2, ("homodistil", True)),
            (masked, 2, ("one-shot", True)),
        )
    ]
    for figures in ((f"{min(gains):.2f}", f"{max(gains):.2f}"), shallow, (*plain, *mended), more):
        assert says("docs/distilling.md", "Where step by step pays", *figures)
    quarter = [f"{held_out(sentences, 4, 6, 'one-shot', repaired):.3f}" for repaired in (True, False)]
    assert says("docs/study.md", "Other methods", *quarter)


def test_what_keeps_the_teachers_search():
    def held_out(cell, figure="held_out"):
        runs = [run[figure] for run in kept("ablation")["runs"] if run["cell"] == cell]
        assert len(runs) == 3
        return statistics.mean(runs)

    everything = held_out("all of it")
    told = [held_out(cell) for cell in ("repaired, not trained", "not repaired")]
    for figures in (
        (*told, everything),
        (held_out("no attention term"),),
        (everything, held_out("compared in the student's width")),
    ):
        assert says("docs/distilling.md", "What keeps the teacher's search", *(f"{figure:.3f}" for figure in figures))
    passages = [held_out(run["cell"], "passages") for run in kept("ablation")["runs"]]
    assert says("docs/distilling.md", "What keeps the teacher's search", f"{min(passages):.2f}", f"{max(passages):.2f}")
    assert held_out("no attention term", "passages") >= held_out("all of it", "passages")


def test_a_student_of_nine_megabytes():
    made = kept("nine_mb")
    first = [made[data]["results"][0]["metrics"][0]["value"] for data in ("stsb", "held_out")]
    figures = (f"{made['file_bytes'] / 1e6:.2f}", *(f"{figure:.3f}" for figure in first))
    minutes = f"{made['distill_seconds'] / 60:.0f}"
    assert says("docs/study.md", "What else would do?", minutes, *figures)
    for name in ("sts_spearman", "overlap@10"):
        of_seeds = [figures[name] for figures in made["seeds"].values()]
        assert len(of_seeds) == 3
        assert says("docs/study.md", "What else would do?", f"{min(of_seeds):.3f}", f"{max(of_seeds):.3f}")


def test_what_words_cost():
    """What docs/trimming.md draws from its table."""

    def mean(size, words, figure):
        runs = [run for run in kept("vocabulary")["runs"] if run["cell"].startswith(f"{size} MB: {words}")]
        return statistics.mean(run[figure] for run in runs)

    for size in (8, 6):
        for figure in ("stsb", "held_out", "passages"):
            assert mean(size, "pq", figure) > mean(size, "int4", figure)
        for figure in ("stsb", "passages"):
            assert mean(size, "pq", figure) > mean(size, "trimmed", figure)
    assert mean(6, "trimmed", "held_out") > mean(6, "pq", "held_out")


def test_two_languages_of_a_hundred():
    """What docs/trimming.md draws from its table."""
    share_same = import_module("two_languages").share_same

    result = kept("two_languages")
    third = next(run for run in result["runs"] if run["pieces"] == 82_000)
    assert result["whole"]["folder_bytes"] / third["folder_bytes"] > 3
    assert share_same(third, "handbooks") > 0.999
    assert 0.97 < share_same(third, "game") < 0.99
    assert all(run["awkward"]["failed"] == 0 for run in result["runs"])


def test_several_students():
    students = kept("students")
    higher = [each["branch_held_out_loss"] / each["alone_held_out_loss"] - 1 for each in students["students"].values()]
    assert higher[0] == max(higher)  # the widest comes first
    figures = (f"{students['ratio']:.2f}", f"{100 * min(higher):.0f}", f"{100 * max(higher):.0f}")
    assert says("docs/distilling.md", "Several students in one run", *figures)


def test_clock_and_verdicts():
    page, heading = "docs/measuring.md", "How far it was checked"
    both = student, teacher = kept("clock")["results"]
    assert (student["package"]["precision"], teacher["package"]["precision"]) == ("int8", "fp32")
    assert says(page, heading, *(f"{each['ours_over']['loop']:.3f}" for each in both))
    assert says(page, heading, *(f"{each['ours_over']['hyperfine_slope']:.3f}" for each in both))
    assert says(page, heading, *(f"{each['memory']['ratio']:.3f}" for each in both))
    assert says(page, heading, *(f"{each['start_to_first_sample_s']:.2f}" for each in both))
    assert max(each["parent_cpu_share"] for each in both) < 0.002
    assert says(page, heading, "0.2")
    result = kept("repeatability")
    conditions = [result["quiet"], result["with a neighbour"]]
    counted = {
        kind: {word: sum(each[kind]["verdicts"].get(word, 0) for each in conditions) for word in ("faster", "slower")}
        for kind in ("same", "slower")
    }
    of = {kind: sum(each[kind]["count"] for each in conditions) for kind in counted}
    figures = [of["same"], sum(counted["same"].values()), counted["slower"]["slower"], of["slower"]]
    for alone in (each["alone"] for each in conditions):
        steady = alone["called_steady_and_right"] + alone["called_steady_and_wrong"]
        figures += [f"{100 * alone['spread']:.1f}", steady, alone["called_steady_and_right"]]
    assert says(page, heading, *map(str, figures))


def test_speeds_beside_other_tools():
    models = kept("export_peers_vnni")["models"]
    ours = [models[name]["verdict"] for name in ("minilm-6x384", "student-6x192")]
    for runtime in ("onnxruntime", "openvino"):
        assert says("docs/speed.md", "Speed", *(f"{one[runtime]['geometric_mean']:.2f}" for one in ours))
    for result in ("export_peers", "export_peers_vnni_runtimes"):
        verdicts = [model["verdict"] for model in kept(result)["models"].values()]
        for group in ("onnxruntime", "any runtime"):
            assert says("docs/speed.md", "Speed", *(f"{one[group]['geometric_mean']:.2f}" for one in verdicts))


def test_finetuned_models():
    runs, bench = kept("finetuning")["runs"], import_module("finetuning")
    cell = bench.CELLS[0]
    assert bench.is_kept(cell, runs, bench.RESULT)
    others = [{**run, "settings": {**run["settings"], "epochs": 1.0}} for run in runs]
    with pytest.raises(SystemExit, match="student-sst2-0 was made with other settings"):
        bench.is_kept(cell, others, bench.RESULT)
    docs = (ROOT / "docs/evaluating.md").read_text(encoding="utf-8")
    for run in runs:
        assert run["trained_on"] in docs
        assert run["fp32"]["value"] == run["fp32"]["official"]
        assert run["int8"]["value"] == run["int8"]["official"]


def test_throughput_on_a_gpu():
    widths = kept("throughput")["widths"]
    whole = widths["teacher's width"]
    rates = [f"{widths[name]['tokens_per_second'] / 1e3:,.0f}" for name in ("teacher's width", "base", "small")]
    share = f"{100 * whole['share_of_matrix_rate']:.0f}"
    assert says("docs/distilling.md", "On many GPUs", rates[0], share, *rates[1:])


def test_tokenizing():
    result = kept("tokenizing")
    (run,) = result["processes"]["1"]
    rates = [f"{run['tokens_per_second'][name] / 1e3:,.0f}" for name in ("files", "stream", "tokenizer")]
    shares = [f"{run['against_tokenizer'][name]:.2f}" for name in ("files", "stream")]
    assert says("docs/distilling.md", "Tokenizing", *rates, *shares)
    assert says("docs/distilling.md", "Tokenizing", f"{result['paper']['bytes'] / 1e9:.0f}")
    assert says("docs/distilling.md", "Tokenizing", f"{result['paper']['tokens'] / 1e9:.1f}")


def test_costs_on_many_gpus_follow_from_what_was_measured():
    model = import_module("cost_model")
    assert model.work_out(kept("throughput"), kept("tokenizing")) == kept("cost_model")["rows"]


def test_study():
    page, heading = "docs/study.md", "The study: quality against latency and size"
    result, study = kept("study"), import_module("study")
    rows = result["rows"]
    assert says(page, heading, f"{sum(result['seconds'].values()) / 3600:.1f}")
    pairs = [
        (row, next(other for other in rows if (other["model"], other["precision"]) == (row["model"], "int8")))
        for row in rows
        if row["precision"] == "fp32"
    ]
    loss = max(full["stsb"]["value"] - small["stsb"]["value"] for full, small in pairs)
    faster = [full["latency_p95_ms"] / small["latency_p95_ms"] for full, small in pairs]
    assert says(page, heading, f"{loss:.3f}", f"{min(faster):.1f}", f"{max(faster):.1f}")
    assert {row["method"] for row in rows} == {*study.METHODS, "reference"}
    assert len({row["width"] for row in rows} - {None}) == 4
    for cost in ("latency_p95_ms", "file_mb"):
        best = study.front(rows, cost, "stsb")
        assert all(row["precision"] == "int8" for row in best if row["method"] != "reference")


def test_front():
    """What the study says of other models is so."""
    page, heading, rows = "docs/study.md", "What else would do?", kept("front")["rows"]

    def row(name: str, precision: str = "int8") -> dict[str, Any]:
        (found,) = (one for one in rows if (one["model"], one["precision"]) == (name, precision))
        return found

    def value(one: dict[str, Any], quality: str) -> str:
        return f"{one[quality]['value']:.3f}"

    small = [row(f"wordllama, {width} wide") for width in (64, 128, 256)]
    own, words = row("static model of the teacher, 256 wide"), "int8, 4-bit words"
    student, teacher, peer = (
        row(name, words) for name in ("6 x 320/512, 240 steps", "teacher", "paraphrase-MiniLM-L3")
    )
    sizes = [f"{one['file_mb']:.1f}" for one in (*small, own, student, peer)]
    figures = [*(value(one, "stsb") for one in small), *sizes[:3], value(own, "stsb"), sizes[3]]
    assert says(page, heading, *figures, value(small[-1], "search"), sizes[4], value(student, "search"))
    low, high = student["search"]["interval"]
    assert low < small[-1]["search"]["value"] < high
    figures = [value(teacher, quality) for quality in ("stsb", "search", "kept")]
    assert says(page, heading, *figures, value(peer, "stsb"), value(peer, "search"), sizes[5])
    assert says(page, heading, value(student, "kept"), value(own, "kept"))
    times = [one["tokenize_p50_ms"] for one in rows]
    assert says(page, heading, f"{min(times):.2f}", f"{max(times):.2f}")
    best = import_module("front").best_of(rows, "file_mb", "stsb")
    assert {one["kind"] for one in best if one["file_mb"] < 9} == {"static"}
    assert max(one["latency_p50_128_ms"] for one in rows if one["kind"] == "static") < 0.1


def test_predictions():
    assert {(cell["precision"], cell["length"], len(cell["rows"])) for cell in kept("plan_prediction")["cells"]} == {
        (precision, length, 20) for precision in ("fp32", "int8") for length in (32, 128, 256)
    }


def test_budgets():
    result, bench = kept("budgets"), import_module("budgets")
    docs = (ROOT / "docs/planning.md").read_text(encoding="utf-8")
    assert bench.told_lie(result["lied_to"]) in " ".join(docs.split())
    shipped = [each for each in result["budgets"].values() if "refused" not in each]
    refused = [each for each in result["budgets"].values() if "refused" in each]
    assert all(line["kept"] for each in shipped for line in each["verdicts"])
    assert all(line["kept"] is not False for each in shipped for line in each["again"])
    again = sum(all(line["kept"] for line in each["again"]) for each in shipped)
    assert again >= 12
    assert says("docs/planning.md", "The loop", str(again), str(len(shipped)))
    assert len(refused) == len(bench.HOPELESS)
    assert all(each["seconds"] < 60 for each in refused)
    lied = result["lied_to"]
    assert lied["budget_kept"]
    assert len(lied["turns"]) > 1
    assert lied["pruning_on_seconds"] < lied["starting_over_seconds"]


def test_costs_of_a_plan():
    result, page, heading = kept("plan_cost"), "docs/planning.md", "How it is predicted"
    assert says(page, heading, f"{result['cold']['seconds']:.0f}", f"{result['warm']['seconds']:.1f}")
    there = result["on_the_target"]
    largest = max(there["largest_small_model_mb"], there["largest_whole_model_mb"])
    assert largest < there["teacher_mb"]
    peaks = (f"{result[name]['peak_rss_mb'] / 1000:.1f}" for name in ("cold", "export_of_the_teacher"))
    assert says(page, heading, f"{largest:.0f}", f"{there['teacher_mb']:.0f}", *peaks)


def test_planned_shapes():
    result, bench = kept("planned_shapes"), import_module("planned_shapes")
    scores = [
        [bench.scores(result, each[kind]["shape"]) for kind in ("planned", "guessed")] for each in result["budgets"]
    ]
    assert {len(seeds) for pair in scores for seeds in pair} == {3}
    gains = [statistics.mean(planned) - statistics.mean(guessed) for planned, guessed in scores]
    assert {(each["steps"], each["distilled_on"]) for each in result["students"]} == {(1000, "NVIDIA H200")}
    times = [[each["timed"][kind]["latency_p95_ms"] for kind in bench.KINDS] for each in result["budgets"]]
    assert max(abs(planned / guessed - 1) for planned, guessed in times) < 0.07
    assert says("docs/planning.md", "Better than guessing?", f"{min(gains):.3f}", f"{max(gains):.3f}", "7")


@pytest.mark.parametrize(("name", "shapes"), [("study", 8), ("planned_shapes", 12)])
def test_ranking(name, shapes):
    found = kept("ranking")[name]
    rows = found["rows"]
    assert len(rows) == shapes
    for currency in ("squares", "absolute"):
        in_order = [
            (one[currency] - other[currency]) * (one["stsb"] - other["stsb"]) > 0
            for one, other in combinations(rows, 2)
        ]
        assert 2 * statistics.mean(in_order) - 1 == pytest.approx(found["kendall"][currency])
