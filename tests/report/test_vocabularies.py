"""Words against width for a person: a small table, which vocabulary was taken, and why another was not."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from homoexport.documents.budget import Budget
from homoexport.documents.plan import Plan
from homoexport.report import plan_lines, plan_table, plan_tables, write_plan_report
from homoexport.report.vocabularies import vocabulary_lines, vocabulary_table
from tests.stages.plan.test_choice import plan
from tests.stages.plan.test_vocabularies import LEAST, SMALL, WHOLE, Teacher, best_vocabulary


def chosen(**budget: object) -> Plan:
    return best_vocabulary([WHOLE, SMALL, LEAST], Budget(**budget), Teacher().plan)  # type: ignore[arg-type]


def test_each_vocabulary_is_a_row_and_the_one_that_was_taken_stands_out():
    found = chosen(file_mb=10)
    table = vocabulary_table(found)
    assert table is not None
    assert table.bold == (1,)
    assert [row[0] for row in table.rows] == ["30,000", "> 12,000", "4,990"]
    assert table.rows[1] == ("> 12,000", "96.0", "+4.0", "6 x 256/1024, 8 heads", "8.80", "6.00", "80.0", "76.8")
    assert [each.rows for each in plan_tables(found)] == [table.rows, plan_table(found).rows]
    console = Console(width=80, file=StringIO())
    console.print(table)
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("┃") and "Score" in line for line in lines)  # a grid, not blocks


def test_what_was_taken_is_told_and_what_a_recipe_has_for_it():
    said = plan_lines(chosen(file_mb=10))
    assert any("num_hidden_layers: 6, vocab_size: 12000}" in line for line in said)
    (line,) = [line for line in said if line.startswith("Words: ")]
    assert line.startswith("Words: 12,000 of 30,000, for which")
    assert "Other text than the one given may lose more by fewer words (docs/trimming.md)" in line
    (whole,) = vocabulary_lines(chosen(latency_p50_ms=6.5))
    assert whole.startswith("Words: all 30,000, for which")


def test_scores_that_are_too_near_to_tell_are_called_so():
    far = chosen(file_mb=10)  # 76.8 for 12,000 words, 60 and 70 for the others
    assert "too near" not in " ".join(vocabulary_lines(far))
    whole, small, least = far.vocabularies
    for score, is_near in ((0.76, True), (0.74, False)):
        others = (whole.model_copy(update={"score": score}), small, least)
        told = "With 30,000 words the score is too near to tell which is better."
        assert (told in vocabulary_lines(far.model_copy(update={"vocabularies": others}))) == is_near


def test_what_no_student_keeps_and_longer_sequences_are_told():
    found = chosen(file_mb=3)
    table = vocabulary_table(found)
    assert table is not None
    assert table.rows[0] == ("30,000", "100.0", "+0.0", "none", "", "", "", "")
    said = vocabulary_lines(found)
    assert "Times of this plan are of 134 tokens, which 128 become with these words." in said
    assert "With 30,000 words no student keeps it: the smallest needs 6.4 MB." in said


def test_the_page_has_the_table(tmp_path):
    write_plan_report(tmp_path / "plan", chosen(file_mb=10))
    page = (tmp_path / "plan/report.md").read_text()
    assert " 12,000 | 96.0 | +4.0 | 6 x 256/1024, 8 heads |" in page.replace("\\", "")
    assert "12,000" in (tmp_path / "plan/report.html").read_text()


def test_a_plan_with_all_words_alone_says_nothing_of_them():
    found = plan(file_mb=10)
    assert (vocabulary_table(found), vocabulary_lines(found), len(plan_tables(found))) == (None, [], 1)
