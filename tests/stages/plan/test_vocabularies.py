"""Of several vocabularies the one is taken that keeps most of the teacher times most of the text."""

from __future__ import annotations

import json

import pytest

from homoexport.documents.budget import Budget
from homoexport.documents.document import parse_document, to_json
from homoexport.documents.plan import Plan, PlannedVocabulary
from homoexport.errors import BudgetError
from homoexport.stages.plan.choice import Limits, NoneKeepsError, best_of
from homoexport.stages.plan.vocabularies import best_vocabulary, length_with
from tests.stages.plan.test_choice import ROWS, planned

WHOLE = PlannedVocabulary(vocab_size=None, pieces=30_000, length=128)
SMALL = PlannedVocabulary(vocab_size=12_000, pieces=12_000, coverage=0.96, more_tokens=0.04, length=134)
LEAST = PlannedVocabulary(vocab_size=5_000, pieces=4_990, coverage=0.7, more_tokens=0.3, length=167)
OF_WORDS = {30_000: 0.0, 12_000: 4.0, 4_990: 6.0}  # MB that are saved


class Teacher:
    """Plans of a teacher whose files get smaller with its words, and are otherwise those of ROWS."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, Budget]] = []

    def plan(self, words: PlannedVocabulary, budget: Budget) -> Plan:
        self.asked.append((words.pieces, budget))
        saved = OF_WORDS[words.pieces]
        rows = [row.model_copy(update={"file_mb": row.file_mb - saved}) for row in ROWS]
        limits = Limits.of(budget, 1, rows[0], rows[0].parameters)
        choice = best_of([row for row in rows if limits.kept_by(row)])
        if choice is None:
            what, where = f"no student keeps it: the smallest needs {rows[-1].file_mb:g} MB", "budget.file_mb"
            raise NoneKeepsError(what, where=where, hint="allow that", limits=limits)
        reference = rows[0] if budget.relative else None
        return planned(limits, choice, budget, rows).model_copy(update={"reference": reference})


@pytest.fixture
def teacher() -> Teacher:
    return Teacher()


def test_fewer_words_win_where_the_room_is_worth_more_than_the_text(teacher):
    found = best_vocabulary([WHOLE, SMALL], Budget(file_mb=10), teacher.plan)
    assert (found.vocab_size, found.choice.shape.hidden_size) == (12_000, 256)
    whole, small = found.vocabularies
    assert (whole.vocab_size, whole.coverage, whole.score) == (None, 1.0, 0.6)
    assert whole.choice is not None
    assert whole.choice.shape.hidden_size == 192
    assert small.choice == found.choice
    assert small.score == pytest.approx(0.96 * 0.8)
    assert found.rows[0].file_mb == ROWS[0].file_mb - 4
    assert found.name == "6 x 256/1024, 8 heads, 12,000 words"


def test_all_words_win_where_time_is_short_and_where_the_text_would_lose_more(teacher):
    found = best_vocabulary([WHOLE, SMALL], Budget(latency_p50_ms=6.5), teacher.plan)
    assert (found.vocab_size, found.choice.shape.hidden_size) == (None, 256)
    assert [words.score for words in found.vocabularies] == pytest.approx([0.8, 0.96 * 0.8])
    assert found.name == "6 x 256/1024, 8 heads"
    assert best_vocabulary([WHOLE, LEAST], Budget(file_mb=10), teacher.plan).vocab_size is None
    same = SMALL.model_copy(update={"coverage": 1.0 + 1e-9})  # of a sum of floats
    assert best_vocabulary([WHOLE, same], Budget(latency_p50_ms=6.5), teacher.plan).vocab_size is None


def test_relative_limits_are_those_of_the_whole_teacher(teacher):
    budget = Budget(file_mb="50%", latency_p50_ms="50%")
    found = best_vocabulary([WHOLE, SMALL], budget, teacher.plan)
    limits = {"file_mb": 9.6, "latency_p50_ms": 5.0}
    assert [asked.lines() for _, asked in teacher.asked] == [budget.lines(), limits]
    assert (found.limits, found.budget) == (limits, budget)
    assert found.reference == ROWS[0]


def test_what_nothing_keeps_with_all_words_may_be_kept_with_fewer(teacher):
    found = best_vocabulary([WHOLE, SMALL, LEAST], Budget(file_mb=3), teacher.plan)
    whole, small, least = found.vocabularies
    assert (whole.choice, whole.score) == (None, None)
    assert whole.refused == "no student keeps it: the smallest needs 6.4 MB"
    assert small.refused is None
    assert found.vocab_size == 12_000
    assert least.score is not None
    assert len(teacher.asked) == 3


def test_a_relative_limit_that_all_words_cannot_keep_holds_for_fewer(teacher):
    budget = Budget(file_mb="25%")
    found = best_vocabulary([WHOLE, SMALL], budget, teacher.plan)
    limits = {"file_mb": ROWS[0].file_mb / 4}
    assert [asked.lines() for _, asked in teacher.asked] == [budget.lines(), limits]
    assert found.vocabularies[0].refused == "no student keeps it: the smallest needs 6.4 MB"
    assert (found.vocab_size, found.limits, found.budget, found.reference) == (12_000, limits, budget, ROWS[0])


def test_where_none_keeps_it_the_fewest_words_tell_what_they_need(teacher):
    with pytest.raises(BudgetError) as caught:
        best_vocabulary([WHOLE, LEAST, SMALL], Budget(file_mb=0.1), teacher.plan)
    told = "budget.file_mb: no student keeps it: the smallest needs 0.4 MB, with 4,990 words; allow that"
    assert str(caught.value) == told


def test_a_sequence_is_as_long_as_its_text_becomes():
    assert length_with(0.0, 128, longest=512) == 128
    assert length_with(0.1, 100, longest=512) == 110
    assert length_with(0.101, 100, longest=512) == 111
    assert length_with(0.5, 100, longest=128) == 128


def test_json_keeps_it_and_older_plans_are_read(teacher):
    found = best_vocabulary([WHOLE, SMALL], Budget(file_mb=10), teacher.plan)
    document = json.loads(to_json(found))
    assert parse_document(document, Plan, where="plan.json") == found
    assert document["vocab_size"] == 12_000
    assert [words["pieces"] for words in document["vocabularies"]] == [30_000, 12_000]
    older = {key: value for key, value in document.items() if key not in ("vocab_size", "vocabularies")}
    read = parse_document(older | {"schema_version": "2.2"}, Plan, where="plan.json")
    assert (read.vocabularies, read.vocab_size) == ((), None)
