"""GLUE (Wang et al. 2019, arXiv 1804.07461): its tasks, their files and their official metrics.

Files are as GLUE's own archive has them, a folder a task; without them the hub's nyu-mll/glue is read.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from homoexport.choices import Split
from homoexport.errors import TextError
from homoexport.evaluate.examples import Examples
from homoexport.runtime.inference import Text

HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class GlueTask:
    """Where a task's examples stand, and how it is judged.

    Columns are named, or numbered where the file has no header. `labels` are the files', in the hub's order; None:
    scores. `hub` is the configuration and the judged split there. `numbered` is what the labels are called, where these
    are numbers in the files.
    """

    folder: str
    text: str | int
    pair: str | int | None
    label: str | int
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]
    hub: tuple[str, str, str, str | None]  # configuration, judged split, text and pair columns
    dev: str = "dev.tsv"
    numbered: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...] | None:
        """What the labels are called, in the hub's order; None: scores."""
        return self.numbered or self.labels


_TWO, _ENTAILMENT = ("0", "1"), ("entailment", "not_entailment")
_MNLI = ("entailment", "neutral", "contradiction")
_ACCURACY, _BOTH = ("accuracy",), ("f1", "accuracy")
GLUE: dict[str, GlueTask] = {
    "cola": GlueTask(
        "CoLA",
        3,
        None,
        1,
        _TWO,
        ("matthews",),
        ("cola", "validation", "sentence", None),
        numbered=("unacceptable", "acceptable"),
    ),
    "sst2": GlueTask(
        "SST-2",
        "sentence",
        None,
        "label",
        _TWO,
        _ACCURACY,
        ("sst2", "validation", "sentence", None),
        numbered=("negative", "positive"),
    ),
    "mrpc": GlueTask(
        "MRPC",
        "#1 String",
        "#2 String",
        "Quality",
        _TWO,
        _BOTH,
        ("mrpc", "validation", "sentence1", "sentence2"),
        numbered=("not_equivalent", "equivalent"),
    ),
    "stsb": GlueTask(
        "STS-B",
        "sentence1",
        "sentence2",
        "score",
        None,
        ("pearson", "spearman"),
        ("stsb", "validation", "sentence1", "sentence2"),
    ),
    "qqp": GlueTask(
        "QQP",
        "question1",
        "question2",
        "is_duplicate",
        _TWO,
        _BOTH,
        ("qqp", "validation", "question1", "question2"),
        numbered=("not_duplicate", "duplicate"),
    ),
    "mnli": GlueTask(
        "MNLI",
        "sentence1",
        "sentence2",
        "gold_label",
        _MNLI,
        _ACCURACY,
        ("mnli", "validation_matched", "premise", "hypothesis"),
        "dev_matched.tsv",
    ),
    "mnli-mm": GlueTask(
        "MNLI",
        "sentence1",
        "sentence2",
        "gold_label",
        _MNLI,
        _ACCURACY,
        ("mnli", "validation_mismatched", "premise", "hypothesis"),
        "dev_mismatched.tsv",
    ),
    "qnli": GlueTask(
        "QNLI", "question", "sentence", "label", _ENTAILMENT, _ACCURACY, ("qnli", "validation", "question", "sentence")
    ),
    "rte": GlueTask(
        "RTE",
        "sentence1",
        "sentence2",
        "label",
        _ENTAILMENT,
        _ACCURACY,
        ("rte", "validation", "sentence1", "sentence2"),
    ),
    "wnli": GlueTask(
        "WNLI",
        "sentence1",
        "sentence2",
        "label",
        _TWO,
        _ACCURACY,
        ("wnli", "validation", "sentence1", "sentence2"),
        numbered=("not_entailment", "entailment"),
    ),
}


def read_glue(name: str, *, data_dir: Path | None, split: Split = "dev") -> Examples:
    """The examples of a task, labels by name; without `data_dir` from the hub.

    Raises:
        TextError: no such file, not of that task's form, or a hub that does not give it.
    """
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


def _named(labels: Sequence[str], task: GlueTask) -> tuple[str, ...]:
    """Labels as the files have them by what they are called."""
    if task.labels is None or task.names is None:
        return tuple(labels)
    called = dict(zip(task.labels, task.names, strict=True))
    return tuple(called[label] for label in labels)


def _rows(path: Path, task: GlueTask) -> list[tuple[Text, str]]:
    if not path.is_file():
        hint = "name the folder of GLUE's task folders with --data-dir"
        raise TextError("no such file", where=str(path), hint=hint)
    csv.field_size_limit(sys.maxsize)
    wanted = [column for column in (task.text, task.pair, task.label) if column is not None]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"cannot be read ({error})", where=str(path), hint="copy it again") from None
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


def _from_hub(task: GlueTask, split: Split) -> Examples:
    # Imported here: `datasets` takes a second.
    from homoexport.documents.recipe import TextSource
    from homoexport.text.sources import load_hub

    config, judged, text, pair = task.hub
    source = TextSource(
        dataset=HUB,
        config=config,
        split=judged if split == "dev" else "train",
        column=text,
        pair_column=pair,
        label_column="label",
    )
    rows = load_hub(source, cache_dir=None)
    texts = tuple((row["text"], row["pair"]) if pair else row["text"] for row in rows)
    labels = tuple(str(row["label"]) if task.labels is None else task.labels[row["label"]] for row in rows)
    return Examples(f"{HUB}/{config}", texts, _named(labels, task), task.names)
