"""What can be known of a run before it begins."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from homoexport.documents.recipe import load_recipe
from homoexport.errors import RecipeError, UserError
from homoexport.report import outlook_table, row_lines, time_in_words
from homoexport.workflow import estimate
from homoexport.workflow.check import check, check_recipe
from homoexport.workflow.estimate import _Probed, time_of_run
from tests.conftest import MINILM, write_sentences
from tests.trimmed import write_wordy_teacher
from tests.workflow.conftest import write_recipe

_ALIKE = ("homobert-family", "homobert-base", "homobert-small", "homobert-tiny", "homobert-xsmall", "reranker")
RECIPES = [  # of those for BERT-base, and of the two that learn labels first, one is enough
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in _ALIKE))
    for path in sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
]


@pytest.fixture
def recipe(tmp_path):
    """Writes a small recipe with some lines of its budget, and changes as dotted keys."""

    def write(objective="sentence-embedding", *, budget=None, **changes):
        path = write_recipe(tmp_path, objective, **(budget or {}))
        tree = yaml.safe_load(path.read_text())
        for key, value in changes.items():
            *parents, last = key.split("__")
            node = tree
            for parent in parents:
                node = node[parent]
            node[last] = value
        path.write_text(yaml.safe_dump(tree))
        return path

    return write


@pytest.mark.parametrize("objective", ["sentence-embedding", "masked-lm"])
def test_it_says_what_the_run_would_do_and_writes_nothing(recipe, tmp_path, monkeypatch, objective):
    path = recipe(objective, budget={"file_mb": 5, "latency_p50_ms": "2x"})
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    found = check(load_recipe(path), output=tmp_path / "run")
    assert sorted(tmp_path.rglob("*")) == before
    assert (found.teacher_shape.name, found.student_shape.name) == ("1 x 32/64, 4 heads", "1 x 16/24, 2 heads")
    (source,) = found.text
    assert (source.files, source.columns) == (1, {"text": "text"})
    assert source.rows[0] == {"text": (tmp_path / "text.txt").read_text().splitlines()[0]}
    assert 0 < found.disk_needed_bytes < found.disk_free_bytes
    assert found.time.seconds.keys() == {"text", "distill", "teacher", "export", "measure"}
    assert found.time.total == sum(found.time.seconds.values())
    told = str([*outlook_table(found).rows, *row_lines(found)])
    for words in (str(tmp_path / "teacher"), "File 5.00 MB", "6 steps of 8"):
        assert words in told
    assert "distilling" in time_in_words(found.time)


def test_a_student_that_is_to_be_planned_takes_time_for_it(recipe):
    path = recipe(budget={"file_mb": 5})
    tree = yaml.safe_load(path.read_text())
    del tree["student"]
    path.write_text(yaml.safe_dump(tree))
    found = check(load_recipe(path))
    assert (found.student_shape, found.student_parameters) == (None, None)
    assert found.time.seconds["plan"] > 0
    assert found.time.seconds["export"] < found.time.turn < found.time.total
    assert "more for each turn after a missed budget" in time_in_words(found.time)
    assert ("Student", "planned for the budget") in outlook_table(found).rows


def test_each_vocabulary_is_a_plan_of_its_own(recipe, tmp_path):
    path = recipe(budget={"file_mb": 5})
    tree = yaml.safe_load(path.read_text())
    del tree["student"]
    tree["teacher"] = str(write_wordy_teacher(tmp_path / "wordy"))
    path.write_text(yaml.safe_dump(tree))
    alone, several = (check(load_recipe(path, more)) for more in ([], ["vocabulary.sizes=[160, 180]"]))
    assert ("Student", "planned for the budget, with all words or 160 or 180") in outlook_table(several).rows
    plans = [each.time.seconds["plan"] / each.time.seconds["teacher"] for each in (alone, several)]
    assert plans[1] / plans[0] == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize(
    ("planned", "given", "told"),
    [
        (True, "vocabulary.sizes=[160, 300]", r"'vocabulary\.sizes': 300 pieces are no fewer than the 300"),
        (True, "vocabulary.sizes=[20]", r"'vocabulary\.sizes': 20 pieces are fewer than the"),
        (True, "vocabulary.sizes=[160, 20, 160]", r"vocabulary\.sizes: 160 is named twice"),
        (False, "student.vocab_size=40k", r"'student\.vocab_size': 40000 pieces are no fewer than the 300"),
    ],
)
def test_words_that_the_teacher_cannot_have_are_told_before_the_run(recipe, tmp_path, planned, given, told):
    path = recipe(teacher=str(write_wordy_teacher(tmp_path / "wordy")), budget={"file_mb": 5})
    if planned:
        tree = yaml.safe_load(path.read_text())
        del tree["student"]
        path.write_text(yaml.safe_dump(tree))
    with pytest.raises(RecipeError, match=told):
        check(load_recipe(path, [given]))


def test_judging_takes_time_by_what_is_judged(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "_probe", lambda _checked: _Probed(None, 1.0, 8))

    def judging(**quality):
        found = check(load_recipe(recipe(quality=quality, text__held_out=40, distill__batch_size=8)))
        return found.time.seconds["quality"] / found.time.seconds["distill"]

    write_sentences(tmp_path / "more.txt", count=4000)
    few, many = judging(floor="50%"), judging(floor="50%", data=str(tmp_path / "more.txt"))
    assert 0 < 3 * few < many  # of 1,000 at most


def test_vectors_that_teach_alone_are_no_fault(recipe):
    """Nobody is asked for them here."""
    weights = {"task": 0, "hidden": 0, "embedding": 0, "vectors": 1}
    assert check(load_recipe(recipe(student__output="teacher", distill__weights=weights))).time.total > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text__held_out": 400}, "300 different sequences, and text.held_out keeps 400"),
        ({"distill__batch_size": 400}, "280 training sequences are fewer than one batch of 400"),
        ({"text__max_length": 100}, "max_length 100 is more than the teacher's 64 positions"),
        ({"measure__length": 65}, "length 65 is more than the teacher's 64 tokens"),
        ({"student__hidden_size": 15}, "not divisible into 2 heads"),
        ({"measure__device": "toaster"}, "unknown device 'toaster'"),
        ({"text__sources": [{"files": "no*.txt"}]}, "no file matches"),
    ],
)
def test_what_would_stop_it_is_told(recipe, changes, said):
    with pytest.raises(UserError, match=said):
        check(load_recipe(recipe(**changes)))


def test_an_unknown_label_is_told(recipe, tmp_path):
    """Before anything is trained, though the teacher has to be loaded for it."""
    from tests.conftest import tiny_model, tiny_tokenizer

    path = recipe()
    tiny_model("bert", "sequence", layers=1).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    rows = [{"text": f"w{number} w2 w3", "label": ["LABEL_0", "LABEL_1", "great"][number % 3]} for number in range(90)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tree = yaml.safe_load(path.read_text())
    tree["distill"]["objective"] = "classification"
    tree["text"]["sources"] = [{"files": str(tmp_path / "rows.jsonl"), "label_column": "label"}]
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=r"label 'great' is not known; known labels: LABEL_0 \(0\)"):
        check(load_recipe(path))


def test_a_full_disk_is_told(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"has 0\.0 GB free, and the run needs 0\.0 GB at least; make room there"):
        check(load_recipe(recipe()), output=tmp_path / "run")


def test_a_run_is_refused_before_the_teacher_is_exported(homoexport, recipe, tmp_path):
    path = recipe(budget={"latency_p50_ms": "2x"}, text__held_out=400)
    outcome = homoexport("run", path, "-o", tmp_path / "run")
    assert (outcome.code, "text.held_out keeps 400" in outcome.err) == (2, True)
    assert "Exporting" not in outcome.err
    assert not (tmp_path / "run").exists()


def test_the_command(homoexport, recipe, tmp_path):
    path = recipe(budget={"file_mb": 5})
    outcome = homoexport("run", path, "--check")
    assert outcome.code == 0, outcome.err
    for words in ("small can run", "File 5.00 MB", "First rows of", "text: "):
        assert words in outcome.out
    told = json.loads(homoexport("run", path, "--check", "--json").out)
    assert (told["recipe"], told["student_shape"]["hidden_size"]) == ("small", 16)
    wrong = homoexport("run", path, "--check", "--set", "text.held_out=400")
    assert (wrong.code, wrong.out, "text.held_out keeps 400" in wrong.err) == (2, "", True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.txt").write_text("years of work")
    assert homoexport("run", path, "--check", "-o", tmp_path / "run").code == 2


def test_the_steps_that_are_timed_leave_the_teacher_as_it_was(recipe):
    """A plan takes its gradients."""
    checked = check_recipe(load_recipe(recipe()))
    time_of_run(checked)
    assert all(parameter.requires_grad for parameter in checked.teacher.model.parameters())


@pytest.mark.parametrize(("paces", "busy"), [((1.0, 1.1), False), ((1.0, 1.5), True), ((1.5, 1.0), True)])
def test_an_estimate_says_where_other_work_slowed_it(recipe, monkeypatch, paces, busy):
    """And goes by the quieter moment."""
    monkeypatch.setattr(estimate, "_pace", partial(next, iter(paces)))
    found = time_of_run(check_recipe(load_recipe(recipe())))
    assert "a Xeon of 1.0 times this machine's pace" in found.basis
    assert ("other work slowed this machine" in found.basis) == busy


def test_steps_on_the_way_cost_what_the_schedule_says():
    settings = SimpleNamespace(prune_schedule="cubic", prune_from=0.0, prune_until=0.8)
    assert _Probed(None, 2.0, 4).mean(settings) == 2.0
    assert _Probed(10.0, 2.0, 4).mean(settings) == pytest.approx(0.8 * (2 + 8 / 4) + 0.2 * 2)
    settings.prune_schedule, settings.prune_from = "linear", 0.4
    assert _Probed(10.0, 2.0, 4).mean(settings) == pytest.approx(0.4 * 10 + 0.4 * 6 + 0.2 * 2)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what stands in for the hub's model, of its size, and the text that the shipped recipes name."""
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig

    from homoexport.packaged import locate

    folder = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(BertConfig()).save_pretrained(folder / "bert-base")
    AutoTokenizer.from_pretrained(locate(MINILM)).save_pretrained(folder / "bert-base")
    line = (
        "the committee met on day {} and voted for plan {} of {}, which nobody had expected to cost {} million".format
    )
    lines = [line(i, i % 89, i * i % 97, i % 83) for i in range(6000)]
    for task, names in (("SST-2", ("sentence", "label")), ("STS-B", ("sentence1", "sentence2", "score"))):
        (folder / task).mkdir()
        rows = ["\t".join([*lines[i : i + len(names) - 1], str(i % 2)]) for i in range(5000)]
        for split, count in (("train", 5000), ("dev", 800)):
            (folder / f"{task}/{split}.tsv").write_text("\n".join(["\t".join(names), *rows[:count]]))
    (folder / "documents").mkdir()
    (folder / "documents/some.txt").write_text("\n".join(lines))
    return folder


@pytest.mark.weights
@pytest.mark.parametrize("path", RECIPES)
def test_shipped_recipes_are_checked(homoexport, place, monkeypatch, path):
    """What lies on the hub is replaced by as large a model and by files."""
    monkeypatch.chdir(place)
    instead = {"teacher": "bert-base", "text.sources": "[{files: documents/some.txt}]", "text.held_out": 200}
    flags = [f"--set={key}={value}" for key, value in instead.items()] if path.stem.startswith("homobert") else []
    flags += ["--set=distill.batch_size=64"] if flags else []  # of the few files there are
    outcome = homoexport("run", path, "--check", "--set=distill.threads=1", *flags)
    if path.stem == "glue":  # of another command
        assert outcome.code == 2
        assert len([line for line in outcome.err.splitlines() if line.startswith("error:")]) == 1
    else:
        assert outcome.code == 0, outcome.err
        assert f"{path.stem} can run" in outcome.out
        assert "distilling" in outcome.out
