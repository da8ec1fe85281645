"""Fine-tuning on tasks: examples drawn, teachers checked, several seeds resumed and summed up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, matthews_corrcoef

from homoexport.documents.artifact import FinetunedManifest, Manifest, read_manifest, verify, write_manifest
from homoexport.documents.document import read_document
from homoexport.documents.evaluation import Columns, DataDigest, FineTuning
from homoexport.documents.recipe import FinetuneRecipe, FinetuneSettings
from homoexport.errors import OutputError, PackageError, RecipeError, TeacherError, TextError
from homoexport.stages.evaluate import Examples, LabelledTask, glue_task, open_model, own_task
from homoexport.workflow import finetune
from homoexport.workflow.export import export, held_out_texts
from homoexport.workflow.finetune import finetune_many, finetune_model, teachers_of
from homoexport.workflow.progress import Progress
from tests.samples import student_details

TEXTS = tuple(f"w{i % 37 + 2} w{i % 11} w{i % 2}" for i in range(64))
LABELS = tuple("no" if i % 2 else "yes" for i in range(64))
TASK = LabelledTask("toy", Examples("toy", TEXTS, LABELS), {"dev": Examples("toy dev", TEXTS, LABELS)}, ("no", "yes"))
SETTINGS = FinetuneSettings(epochs=6, batch_size=16, learning_rate=3e-3, threads=1)


def test_a_student_is_finetuned_judged_and_kept(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    result = finetune_model(str(tiny_folder()), TASK, tmp_path / "out", settings=SETTINGS, seed=3)
    manifest = verify(tmp_path / "out", FinetunedManifest)
    assert manifest.details.finetuned == result
    assert manifest.kind == "model"
    assert manifest.parent == str(tmp_path / "teacher")
    model = open_model(str(tmp_path / "out"), threads=1)
    guesses = [model.details.labels[row] for row in np.stack(model.logits(TEXTS)).argmax(axis=1)]
    metrics = {each.metric: each.value for each in result.judged["dev"]}
    assert metrics["accuracy"] == pytest.approx(accuracy_score(LABELS, guesses))
    assert metrics["accuracy"] > 0.9
    assert metrics["matthews"] == pytest.approx(matthews_corrcoef(LABELS, guesses))
    assert not (tmp_path / "out/held_out.txt").exists()  # what it was judged on may not be the user's to publish
    with pytest.raises(OutputError, match="already exists"):
        finetune_model(str(tmp_path / "teacher"), TASK, tmp_path / "out", settings=SETTINGS, seed=3)


@pytest.mark.parametrize("is_glue", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_export_reads_again_what_a_model_was_judged_on(tiny_folder, tmp_path, monkeypatch, is_glue) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{text}\t{label}" for text, label in zip(TEXTS, (i % 2 for i in range(64)), strict=True)]
    (tmp_path / "glue/SST-2").mkdir(parents=True)
    dev = Path("glue/SST-2/dev.tsv")
    for path in (dev, dev.with_name("train.tsv")):
        path.write_text("\n".join(["sentence\tlabel", *rows]))
    task = glue_task("sst2", Path("glue"))
    if not is_glue:
        task = own_task("classification", str(dev), str(dev), Columns(text="sentence"))
    finetune_model(str(tiny_folder()), task, tmp_path / "out", settings=SETTINGS, seed=0)
    assert held_out_texts(tmp_path / "out") == list(TEXTS)
    dev.write_text("\n".join(["sentence\tlabel", *rows[1:]]))
    assert held_out_texts(tmp_path / "out") == []
    dev.unlink()
    assert held_out_texts(tmp_path / "out") == []
    told: list[str] = []
    quick = {"quantize": "none", "graph": "standard", "seconds": 0.02}
    export(tmp_path / "out", output=tmp_path / "package", progress=Progress(on_stage=told.append), **quick)
    assert any("is not there any more" in line for line in told)


def test_limited_examples_are_drawn_by_the_seed() -> None:
    first, again, other = (TASK.train.drawn(20, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first.texts)) == 20
    assert all(first.labels[row] == LABELS[TEXTS.index(text)] for row, text in enumerate(first.texts))
    assert TASK.train.drawn(64, 0) is TASK.train


def test_a_teacher_speaks_of_the_same_labels(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    source, quick = str(tiny_folder()), SETTINGS.model_copy(update={"epochs": 0.25})
    finetune_model(source, TASK, tmp_path / "teacher-of-two", settings=SETTINGS, seed=0)
    turned = replace(TASK, names=("yes", "no"))  # the same labels in another order
    only_taught = SETTINGS.model_copy(update={"teacher_weight": 1.0, "epochs": 20})
    arguments = {"settings": only_taught, "seed": 1, "teacher": str(tmp_path / "teacher-of-two")}
    result = finetune_model(source, turned, tmp_path / "taught", **arguments)
    assert result.judged["dev"][0].value > 0.9
    assert result.teacher == str(tmp_path / "teacher-of-two")
    assert verify(tmp_path / "taught", FinetunedManifest).details.taught
    renamed = replace(TASK.train, labels=tuple("good" if label == "yes" else "bad" for label in LABELS))
    for other, words in (
        (replace(TASK, names=("yes", "no", "perhaps")), "has the labels no, yes"),
        (replace(TASK, names=("good", "bad"), train=renamed), "has the labels no, yes"),
    ):
        with pytest.raises(PackageError, match=words):
            finetune_model(source, other, tmp_path / "x", settings=quick, seed=0, teacher=arguments["teacher"])
    assert not (tmp_path / "x").exists()


def test_several_seeds_are_resumed_and_summed_up(tiny_folder, tmp_path, monkeypatch) -> None:
    source, out = str(tiny_folder()), tmp_path / "out"
    recipe = FinetuneRecipe(finetune=SETTINGS.model_copy(update={"epochs": 1}), seeds=(0, 1, 2))
    whole = finetune.finetune_model
    made = []

    def breaks(*arguments, **named):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(named["seed"])
        return whole(*arguments, **named)

    monkeypatch.setattr(finetune, "finetune_model", breaks)
    with pytest.raises(KeyboardInterrupt):
        finetune_many(source, [TASK], out, recipe=recipe)
    first = read_manifest(out / "toy/seed-0", Manifest).created
    monkeypatch.setattr(finetune, "finetune_model", whole)
    with pytest.raises(RecipeError, match="other settings"):
        finetune_many(source, [TASK], out, recipe=recipe.model_copy(update={"seeds": (0, 1)}), resume=True)
    summary = finetune_many(source, [TASK], out, recipe=recipe, resume=True, skipped={"rte": "no such file"})
    assert read_manifest(out / "toy/seed-0", Manifest).created == first
    assert read_document(out / "summary.json", FineTuning) == summary
    values = [run.judged["dev"][0].value for run in summary.runs]
    found = summary.summary[0]
    assert (found.median, found.low, found.high) == (sorted(values)[1], min(values), max(values))
    assert (found.task, found.metric, found.seeds) == ("toy", "accuracy", 3)
    assert summary.skipped == {"rte": "no such file"}
    assert teachers_of(str(out), [TASK]) == {"toy": str(out / "toy/seed-0")}
    with pytest.raises(PackageError, match="holds no cola"):
        teachers_of(str(out), [TASK, replace(TASK, name="cola")])


@pytest.mark.slow
def test_other_models_or_data_of_the_same_name_are_not_resumed(tiny_folder, tmp_path: Path) -> None:
    source, out = tiny_folder(), tmp_path / "out"
    recipe = FinetuneRecipe(finetune=SETTINGS.model_copy(update={"epochs": 0.25}), seeds=(0, 1))
    finetune_model(str(source), TASK, tmp_path / "asked", settings=recipe.finetune, seed=0)
    given = {"recipe": recipe, "teachers": {"toy": str(tmp_path / "asked")}}
    run = finetune_many(str(source), [TASK], out, **given).runs[0]
    assert run.judged_on == {"dev": DataDigest(source="toy dev", digest=TASK.judged["dev"].digest)}
    assert run.teacher_digest == read_manifest(tmp_path / "asked", Manifest).digest
    finetune_many(str(source), [TASK], out, resume=True, **given)
    other = replace(TASK, judged={"dev": TASK.judged["dev"].taken(range(10))})
    with pytest.raises(RecipeError, match="other settings, data or models"):
        finetune_many(str(source), [other], out, resume=True, **given)
    finetune_model(str(source), TASK, tmp_path / "asked", settings=recipe.finetune, seed=1, force=True)
    with pytest.raises(RecipeError, match="other settings, data or models"):
        finetune_many(str(source), [TASK], out, resume=True, **given)


def test_a_source_is_looked_at_before_a_teacher_is_asked(tiny_folder, tmp_path: Path) -> None:
    told: list[str] = []
    given = {"settings": SETTINGS, "seed": 0, "teacher": str(tmp_path / "asked")}
    with pytest.raises(TeacherError, match="no such model folder"):
        finetune_model(str(tmp_path / "none"), TASK, tmp_path / "x", progress=Progress(on_stage=told.append), **given)
    source = tiny_folder()
    write_manifest(source, "student", details=student_details())
    (source / "config.json").write_text((source / "config.json").read_text() + "\n")
    with pytest.raises(PackageError, match="altered"):
        finetune_model(str(source), TASK, tmp_path / "x", progress=Progress(on_stage=told.append), **given)
    assert told == []


def test_settings_of_a_task_are_the_recipes_but_for_what_it_says() -> None:
    recipe = FinetuneRecipe(finetune={"epochs": 4, "batch_size": 8}, tasks={"cola": {"epochs": 10}})
    assert (recipe.settings_of("cola").epochs, recipe.settings_of("cola").batch_size) == (10, 8)
    assert recipe.settings_of("sst2") == recipe.finetune


def test_glue_labels_have_the_hubs_names(tmp_path: Path) -> None:
    (tmp_path / "SST-2").mkdir()
    for split in ("train", "dev"):
        (tmp_path / f"SST-2/{split}.tsv").write_text("sentence\tlabel\ngood film\t1\nbad film\t0\n")
    task = glue_task("sst2", tmp_path)
    assert (task.names, task.metrics, list(task.judged)) == (("negative", "positive"), ("accuracy",), ["sst2"])
    assert task.train.labels == ("positive", "negative")


@pytest.mark.parametrize(
    ("kind", "train", "dev", "words"),
    [
        ("classification", "text,label\na,x\nb,x\n", "text,label\na,x\n", "has the label 'x' alone"),
        ("classification", "text,label\na,x\nb,y\n", "text,label\na,z\n", "the label 'z' is none of the model's"),
        ("classification", "text,label\na,1\nb,2\nc,10\n", "text,label\na,0\nb,1\n", "the label '0' is none"),
        ("classification", "text,label\na,x\nb,y\n", "text,label\na,0\nb,1\n", "the label '0' is none"),
        ("classification", "text,label\na,x\nb,y\n", "text,label\n", "holds no text"),
        ("classification", "text,kind\na,x\nb,y\n", "text,label\na,z\n", "has no column 'label'"),
        ("scores", "text,label\na,1\nb,2\n", "text,label\na,z\n", "dev.csv, row 1: the label 'z' is no number"),
    ],
)
def test_bad_data_are_told_before_training(tmp_path: Path, kind: str, train: str, dev: str, words: str) -> None:
    (tmp_path / "train.csv").write_text(train)
    (tmp_path / "dev.csv").write_text(dev)
    with pytest.raises(TextError, match=words):
        own_task(
            kind,  # type: ignore[arg-type]
            str(tmp_path / "train.csv"),
            str(tmp_path / "dev.csv"),
            Columns(label="label"),
        )


def test_labels_that_are_numbers_stand_in_their_order(tmp_path: Path) -> None:
    rows = "\n".join(f"w{i},{i % 12}" for i in range(24))
    for name in ("train", "dev"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{rows}\n")
    files = (str(tmp_path / "train.csv"), str(tmp_path / "dev.csv"))
    task = own_task("classification", *files, Columns())
    assert task.names == tuple(map(str, range(12)))
