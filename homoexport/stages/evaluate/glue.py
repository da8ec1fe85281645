"""GLUE (Wang et al. 2019, arXiv 1804.07461): its tasks, their files and their official metrics.

Files are as GLUE's own archive has them, a folder a task; without them the hub's nyu-mll/glue is read.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import yaml

from homoexport.choices import Split
from homoexport.data import FOLDER
from homoexport.documents.document import Figures
from homoexport.errors import TextError, refusing
from homoexport.limits import MB, limit, raise_hint
from homoexport.runtime.inference import Text
from homoexport.stages.evaluate.examples import Examples
from homoexport.text.lines import Lines, longest_text

HUB = "nyu-mll/glue"


class HubColumns(Figures):
    """Where a task stands in the hub's dataset."""

    config: str
    split: str = "validation"
    text: str
    pair: str | None = None


class Glue(Figures):
    """One of GLUE's tasks; the fields are explained in data/glue.yaml."""

    folder: str
    dev: str = "dev.tsv"
    text: str | int
    pair: str | int | None = None
    label: str | int
    labels: tuple[str, ...] | None = None
    numbered: tuple[str, ...] | None = None
    metrics: tuple[str, ...]
    hub: HubColumns

    @property
    def names(self) -> tuple[str, ...] | None:
        """What the labels are called, in the hub's order; None: scores."""
        return self.numbered or self.labels


def _read_table() -> dict[str, Glue]:
    table = yaml.safe_load((FOLDER / "glue.yaml").read_text(encoding="utf-8"))
    return {name: Glue.model_validate(task, strict=False) for name, task in table.items()}


GLUE = _read_table()


def read_glue(name: str, *, data_dir: Path | None, split: Split = "dev") -> Examples:
    """The examples of a task, labels by name; without `data_dir` from the hub."""
    task = GLUE[name]
    if data_dir is None:
        return _from_hub(task, split)
    path = data_dir / task.folder / (task.dev if split == "dev" else "train.tsv")
    rows = list(_rows(path, task))
    if not rows:
        raise TextError("holds no examples", where=str(path), hint="copy it again")
    texts, labels = zip(*rows, strict=True)
    if task.labels is not None and (odd := set(labels) - set(task.labels)):
        what = f"has the label '{min(odd)}', and {name} has {', '.join(task.labels)}"
        raise TextError(what, where=str(path), hint="copy it again")
    return Examples(str(path), texts, _named(labels, task), task.names)


def _named(labels: Sequence[str], task: Glue) -> tuple[str, ...]:
    """Labels as the files have them by what they are called."""
    if task.labels is None or task.names is None:
        return tuple(labels)
    called = dict(zip(task.labels, task.names, strict=True))
    return tuple(called[label] for label in labels)


def _rows(path: Path, task: Glue) -> list[tuple[Text, str]]:
    if not path.is_file():
        hint = "name the folder of GLUE's task folders with --data-dir"
        raise TextError("no such file", where=str(path), hint=hint)
    if path.stat().st_size > limit("whole_mb") * MB:
        raise TextError(f"is larger than {limit('whole_mb')} MB", where=str(path), hint=raise_hint("whole_mb"))
    csv.field_size_limit(longest_text())
    wanted = [column for column in (task.text, task.pair, task.label) if column is not None]
    reading = refusing(TextError, "cannot be read", where=str(path), hint="copy it again")
    with reading, path.open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.reader(Lines(file, str(path)).rows(), delimiter="\t", quoting=csv.QUOTE_NONE))
    head = lines[0] if lines else []
    missing = [column for column in wanted if isinstance(column, str) and column not in head]
    if missing:
        raise TextError(f"has no column '{missing[0]}'", where=str(path), hint="copy it again")
    places = [head.index(column) if isinstance(column, str) else column for column in wanted]
    rows: list[tuple[Text, str]] = []
    for line in lines[1:] if isinstance(task.label, str) else lines:
        if len(line) <= max(places):
            continue  # GLUE's own files have a few torn lines
        *texts, label = (line[place] for place in places)
        rows.append((texts[0] if len(texts) == 1 else (texts[0], texts[1]), label))
    return rows


def _from_hub(task: Glue, split: Split) -> Examples:
    # Imported here: `datasets` takes a second.
    from homoexport.documents.recipe import TextSource
    from homoexport.text.sources import load_hub, read_on

    hub = task.hub
    source = TextSource(
        dataset=HUB,
        config=hub.config,
        split=hub.split if split == "dev" else "train",
        column=hub.text,
        pair_column=hub.pair,
        label_column="label",
    )
    try:
        rows = list(read_on(load_hub(source, cache_dir=None), f"dataset {HUB}"))
    except TextError as error:
        hint = "name the folder of GLUE's task folders with --data-dir, or look at the network (HF_HUB_OFFLINE)"
        raise TextError(error.what, where=error.where, hint=hint) from None
    texts = tuple((row["text"], row["pair"]) if hub.pair else row["text"] for row in rows)
    labels = tuple(str(row["label"]) if task.labels is None else task.labels[row["label"]] for row in rows)
    return Examples(f"{HUB}/{hub.config}", texts, _named(labels, task), task.names)
