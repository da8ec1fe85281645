"""A recipe's first draft, from what a user has: a teacher, text or labels, a device and a budget."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homoexport.choices import CLASSIFYING, ModelTask, Objective
from homoexport.data import rendered
from homoexport.documents.budget import Budget
from homoexport.documents.document import write_text
from homoexport.documents.output import make_folder, output_errors
from homoexport.documents.recipe import MeasureSettings, Recipe, TextSettings, TextSource, Tree, parse_as
from homoexport.errors import OutputError, TextError, UserError
from homoexport.packaged import PREFIX
from homoexport.stages.measure import find_target
from homoexport.text.columns import are_scores, guess_columns, shown
from homoexport.text.peek import check_sources
from homoexport.text.sources import first_rows
from homoexport.workflow.text import labels_of

if TYPE_CHECKING:
    from homoexport.encoder import Encoder
    from homoexport.text.sample import TextSample

_LOOKED_AT = 50  # rows, for what the columns are
_SEQUENCES = 1000  # for how long and how many they are
_HELD_OUT, _BATCH_SIZE, _MOST_LENGTH = (3, 1000), 32, 128
_STEPS, _EPOCHS = (100, 2000), 3
_OBJECTIVES: dict[ModelTask, Objective] = {
    "fill-mask": "masked-lm",
    "text-classification": "classification",
    "token-classification": "token-classification",
}  # of others sentence-embedding


@dataclass(frozen=True)
class Draft:
    """A recipe that was written: where, what it says, and the first rows of its text by what they are for.

    `left_out` is a column that seems to hold labels, of which the teacher knows nothing.
    """

    path: Path
    recipe: Recipe
    rows: tuple[dict[str, str], ...]
    left_out: str | None


def init(
    output: str | Path,
    *,
    teacher: str,
    data: str | Sequence[str],
    columns: dict[str, str] | None = None,
    objective: Objective | None = None,
    measure: MeasureSettings | None = None,
    budget: Budget | None = None,
    force: bool = False,
) -> Draft:
    """Write a recipe with comments; what is not said is guessed by the teacher and by the text.

    Args:
        output: the YAML file.
        teacher: hub name, folder, or `package:DISTRIBUTION/PATH`.
        data: globs of files, or one, as `text.sources.*.files`.
        columns: of texts (`text`), of second texts (`pair`) and of labels (`label`); by default by their names.
        objective: by default what the teacher is for; classification where labels are named and it knows none.
        measure: the device, the threads and the length.
        budget: without one the student is about half as wide as its teacher, else its shape is planned.
        force: replace a file.

    Raises:
        UserError: a file that exists, a device that there is not, a teacher or text that cannot be had, columns that
            cannot be guessed.

    Example:
        >>> draft = init("mine.yaml", teacher="minilm", data="texts/*.csv")  # doctest: +SKIP
        >>> draft.recipe.distill.objective  # doctest: +SKIP
        'sentence-embedding'
    """
    path, measure, budget = Path(output), measure or MeasureSettings(), budget or Budget()
    data = [data] if isinstance(data, str) else data
    if path.is_dir() or (path.exists() and not force):
        raise OutputError("already exists", where=str(path), hint="name another file, or give --force to replace it")
    find_target(measure.device)
    rows = first_rows(data[0], _LOOKED_AT)
    guessed = _columns(rows, data[0], columns or {})
    from homoexport.encoder import load_encoder

    encoder = load_encoder(teacher)
    wanted = objective
    if wanted is None and encoder.task not in CLASSIFYING and "label" in (columns or {}):
        wanted = "classification"
    is_to_learn = wanted == "classification" and encoder.task not in CLASSIFYING
    objective = wanted or _OBJECTIVES.get(encoder.task, "sentence-embedding")
    taken = _taken(guessed, objective)
    is_guessed = "label" not in (columns or {})
    if "label" in taken and is_guessed and not _are_known(encoder, objective, [row[taken["label"]] for row in rows]):
        del taken["label"]
    left_out = guessed.get("label") if is_guessed and "label" not in taken else None
    tree = _tree(path, encoder, objective, data, taken, measure, budget)
    if is_to_learn:
        tree["finetune"] = _learning(path, data, taken, rows)
    recipe = parse_as(Recipe, tree, where=str(path))
    first = tuple({role: shown(row.get(column)) for role, column in taken.items()} for row in rows[:3])
    with output_errors(path):
        make_folder(path.parent)
        write_text(path, _page(path, recipe))
    return Draft(path, recipe, first, left_out)


def _columns(rows: Sequence[Any], files: str, named: dict[str, str]) -> dict[str, str]:
    """The columns that are named, and the others by guessing."""
    known = list(rows[0]) if rows else []
    if not known:
        raise TextError("holds no text", where=files, hint="name other files")
    if missing := next((column for column in named.values() if column not in known), None):
        raise TextError(f"has no column '{missing}'", where=files, hint=f"name one of: {', '.join(map(str, known))}")
    guessed = guess_columns(rows)
    found = {role: column for role, column in guessed.items() if column not in named.values()} | named
    if "text" not in found:
        hint = f"name it with --text-column, one of: {', '.join(map(str, known))}"
        raise TextError("which column has the texts?", where=files, hint=hint)
    return found


def _taken(columns: dict[str, str], objective: Objective) -> dict[str, str]:
    """The columns that the objective has a use for."""
    useful = {"text"}
    useful |= {"pair"} if objective in ("sentence-embedding", "classification") else set()
    useful |= {"label"} if "classification" in objective else set()
    return {role: column for role, column in columns.items() if role in useful}


def _are_known(encoder: Encoder, objective: Objective, cells: Sequence[Any]) -> bool:
    """Whether cells hold labels that a classifier has, or numbers, where its answer is one."""
    from homoexport.text.sequences import class_id, score

    label2id, of_scores = labels_of(encoder, objective)
    if any(isinstance(cell, list) != (objective == "token-classification") for cell in cells if cell is not None):
        return False
    try:
        for label in (label for cell in cells for label in (cell if isinstance(cell, list) else [cell])):
            score(label, where="") if of_scores else class_id(label, label2id, where="")
    except TextError:
        return False
    return True


def _tree(
    path: Path,
    encoder: Encoder,
    objective: Objective,
    data: Sequence[str],
    columns: dict[str, str],
    measure: MeasureSettings,
    budget: Budget,
) -> Tree:
    """The recipe, with lengths and counts by the beginning of the text."""
    keys = {"text": "column", "pair": "pair_column", "label": "label_column"}
    by_key = {keys[role]: column for role, column in columns.items()}
    sources = [TextSource(files=files, **by_key) for files in data]
    settings = TextSettings(sources=tuple(sources), held_out=3)
    check_sources(settings, objective)
    sample, longest = _read(encoder, settings, objective), _longest(encoder)
    is_of_rows = objective == "sentence-embedding" and "pair" not in columns and _are_short(sample)
    if is_of_rows:
        rows = tuple(source.model_copy(update={"unit": "row"}) for source in sources)
        sample = _read(encoder, settings.model_copy(update={"sources": rows}), objective)
    lengths = sorted(map(len, sample.columns["input_ids"]))
    if not lengths:
        raise TextError("holds no text", where=data[0], hint="name other files or another column")
    usual = 16 * math.ceil(lengths[round(0.95 * (len(lengths) - 1))] / 16)
    max_length = _MOST_LENGTH if objective == "masked-lm" else usual
    max_length = max(8, min(max_length, longest))
    count = sample.sequences() or 0.0
    held_out = _between(count / 10, *_HELD_OUT)
    batch_size = max(2, min(_BATCH_SIZE, int(count - held_out)))
    steps = _between(_EPOCHS * count / batch_size, *_STEPS)
    length = measure.length if "length" in measure.model_fields_set else max_length
    tree: Tree = {
        "name": re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "run",
        "teacher": _from(path, encoder.source),
        "text": {
            "sources": [
                {"files": _from(path, files), **by_key, **({"unit": "row"} if is_of_rows else {})} for files in data
            ],
            "max_length": max_length,
            "held_out": held_out,
        },
        "distill": {"objective": objective, "steps": steps, "batch_size": batch_size},
        "export": {"quantize": "int8"},
        "measure": {**measure.model_dump(exclude_unset=True), "length": length},
    }
    if lines := budget.lines():
        return tree | {"budget": lines}
    return tree | {"student": _half(encoder)}


def _read(encoder: Encoder, settings: TextSettings, objective: Objective) -> TextSample:
    """The beginning of the text, of which the labels do not matter here."""
    from homoexport.text.sample import read_sample
    from homoexport.text.sequences import Sequencer

    plain = [source.model_copy(update={"label_column": None}) for source in settings.sources]
    whole = settings.model_copy(update={"sources": tuple(plain), "max_length": _longest(encoder)})
    sequencers = [Sequencer(objective, encoder.tokenizer, whole, source) for source in plain]
    return read_sample(sequencers, wanted=_SEQUENCES)


def _longest(encoder: Encoder) -> int:
    from homoexport.encoder import max_length_of

    return max_length_of(encoder)


def _are_short(sample: TextSample) -> bool:
    """Whether a row is about as long as a sentence or a passage, so that it is one text as it stands."""
    rows = sum(source.looked_at for source in sample.sources)
    return len(sample.columns["key"]) <= 3 * max(1, rows)


def _half(encoder: Encoder) -> dict[str, int]:
    """About half of a teacher's widths, in heads of its own width or of half of it."""
    from homoexport.encoder import family_of

    family = family_of(encoder.model.config)
    shape = family.widths(encoder.model).shape
    if not family.heads_make_hidden:
        return {"hidden_size": shape.hidden_size // 2, "intermediate_size": shape.intermediate_size // 2}
    heads = max(1, shape.num_attention_heads // 2)
    return {
        "hidden_size": heads * shape.head_dim,
        "intermediate_size": shape.intermediate_size // 2,
        "num_attention_heads": heads,
    }


def _between(value: float, least: int, most: int) -> int:
    """A round number, of two digits that count."""
    rounded = float(f"{value:.2g}")
    return max(least, min(most, int(rounded)))


def _from(recipe: Path, name: str) -> str:
    """What is in a folder of the user's, as the recipe's own folder leads there; other names as they are."""
    is_there = not name.startswith((PREFIX, "~")) and not Path(name).is_absolute()
    if not is_there or recipe.parent.resolve() == Path.cwd() or not (Path(name).exists() or "*" in name):
        return name
    return os.path.relpath(name, recipe.parent)


def _learning(path: Path, data: Sequence[str], columns: dict[str, str], rows: Sequence[Any]) -> Tree:
    """How the teacher learns the labels first; what it is judged on is still to be named."""
    if "label" not in columns:
        raise UserError("which column has the labels?", where=data[0], hint="name it with --label-column")
    task = {"task": "scores"} if are_scores(rows, columns["label"]) else {}
    train = {"train": _from(path, data[0])} if len(data) > 1 else {}
    return {**task, **train, "dev": "dev.csv"}


def _page(path: Path, recipe: Recipe) -> str:
    shape = recipe.student.model_dump(exclude_unset=True) if recipe.student is not None else {}
    return rendered(
        "recipe.yaml.jinja",
        path=shlex.quote(str(path)),
        recipe=recipe,
        shape=shape,
        budget=recipe.budget.lines(),
    )
