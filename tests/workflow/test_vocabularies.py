"""Plans of a teacher with all its words and with fewer, and runs that distil with the words that were taken."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from homoexport.documents.artifact import DistilledManifest, sha256_file, verify
from homoexport.documents.budget import Budget
from homoexport.documents.plan import PLAN_FILE, Cost, Plan
from homoexport.documents.recipe import (
    DistillSettings,
    ExportSettings,
    MeasureSettings,
    TextSettings,
    TextSource,
    VocabularySettings,
)
from homoexport.encoder import Encoder, load_encoder, weights_digest
from homoexport.errors import RecipeError
from homoexport.shape import PartialShape, Shape
from homoexport.stages.plan import lab
from homoexport.stages.plan.choice import Limits, best_of
from homoexport.stages.trim.compare import coverage
from homoexport.workflow.job import open_job
from homoexport.workflow.plan import plan
from tests.conftest import QUICK
from tests.stages.plan.test_choice import ROWS, planned
from tests.trimmed import write_windows, write_wordy_teacher

SIZE = 150
SETTINGS = DistillSettings(objective="sentence-embedding", steps=3, batch_size=8)


@dataclass
class Asked:
    """What was planned for, once more."""

    pieces: int
    weights: str
    files: list[str]
    words: dict[str, int]
    table: Any
    budget: Budget
    length: int
    source: str


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return write_wordy_teacher(tmp_path / "teacher")


@pytest.fixture
def text(tmp_path: Path) -> TextSettings:
    source = TextSource(files=str(write_windows(tmp_path / "texts.txt")))
    return TextSettings(sources=(source,), max_length=32, held_out=10)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """What `plan_encoder` is called with, which measures nothing here: files are smaller by a kB a word."""
    calls: list[Asked] = []

    def answer(encoder: Encoder, _texts: Sequence[str], *, budget: Budget, measure: MeasureSettings, **_: Any) -> Plan:
        pieces = encoder.model.config.vocab_size
        files = [sha256_file(encoder.folder / name) for name in ("config.json", "tokenizer.json")]
        words, table = encoder.tokenizer.get_vocab(), encoder.model.get_input_embeddings().weight.detach()
        digest = weights_digest(encoder)
        calls.append(Asked(pieces, digest, files, words, table, budget, measure.length, encoder.source))
        rows = [row.model_copy(update={"file_mb": row.file_mb + pieces / 1000}) for row in ROWS]
        limits = Limits.of(budget, 1, rows[0], rows[0].parameters)
        choice = best_of([row for row in rows if limits.kept_by(row)])
        assert choice is not None
        return planned(limits, choice, budget, rows).model_copy(update={"measure": measure, "teacher": encoder.source})

    monkeypatch.setattr("homoexport.stages.plan.planner.plan_encoder", answer)
    return calls


def planned_with(teacher: Path, text: TextSettings | None, *sizes: int, **budget: object) -> Plan:
    return plan(
        str(teacher),
        budget=Budget(**budget),  # type: ignore[arg-type]
        measure=MeasureSettings(threads=1, length=20),
        export=ExportSettings(quantize="none"),
        distill=SETTINGS,
        text=text,
        vocabulary=VocabularySettings(sizes=sizes),
        seed=3,
    )


def test_the_vocabulary_of_a_plan_is_that_of_its_distillation(teacher, text, asked):
    found = planned_with(teacher, text, SIZE, file_mb="50%")
    whole, trimmed = asked
    assert (whole.pieces, trimmed.pieces) == (300, SIZE)
    assert whole.weights == weights_digest(load_encoder(str(teacher))) == found.teacher_digest != trimmed.weights
    assert whole.source == trimmed.source == found.teacher == str(teacher)
    assert whole.budget.relative == ("file_mb",)
    assert trimmed.budget.lines() == found.limits  # of the whole teacher
    assert (whole.length, trimmed.length) == (20, 20)  # no line is of time
    all_words, few = found.vocabularies
    assert (all_words.pieces, all_words.coverage, all_words.more_tokens) == (300, 1.0, 0.0)
    assert (few.pieces, few.vocab_size) == (SIZE, SIZE)
    assert 0.5 < few.coverage < 1
    assert few.more_tokens > 0
    shapes = [PartialShape(hidden_size=16, vocab_size=SIZE)]
    job = open_job(
        str(teacher), text=text, settings=SETTINGS, seed=3, shapes=shapes, vocabulary=VocabularySettings(sizes=(SIZE,))
    )
    assert job.encoder.tokenizer.get_vocab() == trimmed.words
    assert job.encoder.model.get_input_embeddings().weight.equal(trimmed.table)


def test_a_trimmed_teacher_is_known_again_by_its_files(teacher, text, asked):
    for size in (SIZE, SIZE, SIZE + 20):
        planned_with(teacher, text, size, file_mb=20)
    first, again, other = asked[1::2]
    assert (first.weights, first.files) == (again.weights, again.files)
    assert len({first.weights, other.weights, asked[0].weights}) == 3


def test_where_time_is_a_line_sequences_are_as_long_as_the_text_becomes(teacher, text, asked):
    found = planned_with(teacher, text, SIZE, latency_p50_ms=6.5)
    few = found.vocabularies[1]
    assert asked[1].length == few.length == -(-20 * (1 + few.more_tokens) // 1)
    assert (asked[0].length, found.measure.length) == (20, 20)  # of all words, which won


def test_coverage_is_of_the_texts_own_tokens(teacher):
    tokenizer = load_encoder(str(teacher)).tokenizer
    text = "the zebra and the zebra"
    kept = set(tokenizer("the and", add_special_tokens=False).input_ids)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert coverage(tokenizer, sorted(kept), [text]) == sum(index in kept for index in ids) / len(ids) < 1
    assert coverage(tokenizer, range(300), [text]) == coverage(tokenizer, [], []) == 1


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (20, "20 pieces are fewer than the"),
        (300, "300 pieces are no fewer than the 300"),
        (99_000, "99000 pieces are no fewer than the 300"),
    ],
)
def test_sizes_that_cannot_be_are_told_before_anything_is_measured(teacher, text, asked, size, told):
    with pytest.raises(RecipeError, match=rf"'vocabulary\.sizes': {told}"):
        planned_with(teacher, text, SIZE, size, file_mb=20)
    assert asked == []


def test_words_are_not_chosen_without_text(teacher, asked):
    with pytest.raises(RecipeError, match=r"'vocabulary\.sizes': there is no text to choose the words by; give --data"):
        planned_with(teacher, None, SIZE, file_mb=20)
    assert asked == []


def test_the_command(homoexport, teacher, text, asked):
    words = (
        "plan",
        "--teacher",
        teacher,
        "--data",
        text.sources[0].files,
        "--set",
        "text.held_out=10",
        "--size",
        "17MB",
    )
    done = homoexport(*words, "--vocab-size", "0.15k", "--vocab-size", SIZE + 20, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [each["vocab_size"] for each in found["vocabularies"]] == [None, SIZE, SIZE + 20]
    assert found["vocabularies"][1].keys() >= {"coverage", "more_tokens", "choice", "score", "refused"}
    refused = homoexport(*words, "--vocab-size", "99k")
    assert refused.code == 2
    assert "--vocab-size: 99000 pieces are no fewer than the 300" in refused.err
    told = homoexport(*words, "--vocab-size", SIZE).out
    assert "Text kept" in told
    assert "Words: all 300, for which" in told


@pytest.fixture
def recipe(teacher: Path, text: TextSettings, tmp_path: Path) -> Path:
    """A recipe of a planned run whose files must be smaller than all words allow."""
    tree = {
        "name": "words",
        "teacher": str(teacher),
        "text": text.model_dump(mode="json", exclude_unset=True),
        "vocabulary": {"sizes": [SIZE]},
        "distill": {"objective": "sentence-embedding", "steps": 6, "batch_size": 8, "checkpoint_every": 2},
        "export": {"quantize": "none", **QUICK},
        "measure": {"length": 16, "threads": 1, "min_seconds": 0.1},
        "budget": {"file_mb": "31kB"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.processes
@pytest.mark.slow
def test_a_planned_run_distils_with_the_words_that_were_taken_and_prunes_on_with_them(
    homoexport, recipe, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOMOEXPORT_CACHE", str(tmp_path / "cache"))
    for name in ("_SECONDS", "_WHOLE_SECONDS", "_ALONE_SECONDS"):
        monkeypatch.setattr(lab, name, 0.02)
    true = lab.Lab._timed

    def lie(self: lab.Lab, shapes: list[Shape], **how: float) -> dict[Shape, Cost]:
        return {shape: each.times({"file_mb": 0.7}) for shape, each in true(self, shapes, **how).items()}

    monkeypatch.setattr(lab.Lab, "_timed", lie)
    run = tmp_path / "run"
    done = homoexport("run", recipe, "-o", run, "--json")
    assert done.code == 0, done.err
    found = json.loads((run / "plan" / PLAN_FILE).read_text())
    assert found["vocab_size"] == SIZE
    for student in (run / "turns/1/1-student", run / "1-student"):
        vocabulary = verify(student, DistilledManifest).details.vocabulary
        assert vocabulary is not None
        assert vocabulary.after == load_encoder(str(student)).model.config.vocab_size == SIZE
    assert "Words: 150 of 300" in (run / "report.md").read_text()
    assert homoexport("report", run).code == 0
    again = homoexport("plan", recipe, "--json")
    assert (again.code, json.loads(again.out)["remembered"]) == (0, True), again.err
