"""One reader for every document: whatever a file holds, it is the document or one clear line."""

from __future__ import annotations

import json
from typing import ClassVar, Literal

import pytest

from homoexport.documents.document import Document, read_document, write_document
from homoexport.errors import PackageError


class Sample(Document):
    VERSION: ClassVar[str] = "2.1"

    kind: Literal["sample"] = "sample"
    figures: tuple[float, ...]
    note: str | None = None


def test_what_is_written_is_read(tmp_path):
    write_document(tmp_path / "sample.json", Sample(figures=(1.5, 2.0)))
    assert read_document(tmp_path / "sample.json", Sample) == Sample(figures=(1.5, 2.0), schema_version="2.1")
    assert [path.name for path in tmp_path.iterdir()] == ["sample.json"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON (recursion limit"),
        ('{"schema_version": "2.1", "figures": [NaN]}', "is not JSON"),
        ('{"schema_version": "2.1", "figures": [1e999]}', "'figures.0': Input should be a finite number"),
        ('{"schema_version": "2.1", "figures": ["1"]}', "'figures.0': Input should be a valid number"),
        ('{"schema_version": "2.1", "figures": [1], "notes": ""}', "'notes': Extra inputs are not permitted"),
        ('{"schema_version": "3.0", "figures": [1]}', "is of schema version 3.0, and this homoexport reads 2.1"),
        ('{"schema_version": "2.x", "figures": [1]}', "is of schema version 2.x"),
        ('{"schema_version": 2.1, "figures": [1]}', "has no schema_version"),
        ('{"figures": [1]}', "has no schema_version"),
        (json.dumps({"schema_version": "2." + "9" * 5000}), "is of schema version 2.999"),
        ("[1, 2]", "has no schema_version"),
    ],
)
def test_any_other_text_is_one_line(tmp_path, text, told):
    path = tmp_path / "sample.json"
    path.write_text(text)
    with pytest.raises(PackageError) as caught:
        read_document(path, Sample)
    assert str(caught.value).startswith(f"{path}: {told}") or told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_fields_of_a_later_minor_version_are_passed_over(tmp_path):
    path = tmp_path / "sample.json"
    path.write_text(json.dumps({"schema_version": "2.9", "figures": [1], "notes": "new"}))
    assert read_document(path, Sample).figures == (1.0,)


def test_a_file_too_large_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(Sample, "MAX_BYTES", 10)
    path = tmp_path / "sample.json"
    path.write_text("{}" + " " * 20)
    with pytest.raises(PackageError, match="too large"):
        read_document(path, Sample)
