"""Labelled tasks to be fine-tuned on: GLUE's, or the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from homoexport.choices import LEARNED_GLUE_TASKS, LearnedGlueTask, LearnedTask, OwnTask
from homoexport.documents.evaluation import Columns, FineTunedRun
from homoexport.errors import TextError, UserError
from homoexport.stages.evaluate.examples import Examples, read_examples, read_for
from homoexport.stages.evaluate.glue import GLUE, HUB, read_glue
from homoexport.stages.evaluate.labels import label_indices, names_of


@dataclass(frozen=True)
class LabelledTask:
    """What to train on, and what to judge on by the name of the split.

    `names` are the labels', none where texts have scores; `metrics` those to give, None for all; `columns` those of the
    user's own files that are judged on.
    """

    name: str
    train: Examples
    judged: Mapping[str, Examples]
    names: tuple[str, ...]
    metrics: tuple[str, ...] | None = None
    columns: Columns = field(default_factory=Columns)


def read_learned(
    task: LearnedTask,
    *,
    train: str | None,
    dev: str | None,
    columns: Columns,
    data_dir: Path | None,
    on_stage: Callable[[str], None],
) -> tuple[list[LabelledTask], dict[str, str]]:
    """What `homoexport finetune` is to train on; of `glue` also which tasks have no files, and why.

    Raises:
        TextError: data that cannot be read, or learned.
        UserError: no task of GLUE has files.
    """
    if task == "classification" or task == "scores":
        assert train is not None
        assert dev is not None
        return [own_task(task, train, dev, columns)], {}
    if task != "glue":
        return [glue_task(task, data_dir)], {}
    tasks: list[LabelledTask] = []
    skipped: dict[str, str] = {}
    for name in LEARNED_GLUE_TASKS:
        try:
            tasks.append(glue_task(name, data_dir))
        except TextError as error:
            skipped[name] = str(error)
            on_stage(f"{name} is left out: {error}")
    if not tasks:
        where = str(data_dir or "the hub")
        raise UserError("no task has files", where=where, hint="name GLUE's folder with --data-dir")
    return tasks, skipped


def check_learned(
    task: LearnedTask, *, train: str | None, dev: str | None, columns: Columns, data_dir: Path | None
) -> None:
    """Refuse flags that would make no difference, and miss those that are needed."""
    of_own = {
        "--train": train,
        "--dev": dev,
        "--text-column": columns.text,
        "--pair-column": columns.pair,
        "--label-column": columns.label,
    }
    is_own = task in ("classification", "scores")
    if is_own and (missing := [flag for flag in ("--dev", "--train") if not of_own[flag]]):
        raise UserError("on which files?", where=f"--task {task}", hint=f"name some with {missing[0]}")
    useless = {"--data-dir": data_dir} if is_own else of_own
    if wrong := sorted(flag for flag, value in useless.items() if value):
        raise UserError("makes no difference here", where=f"{wrong[0]} with --task {task}", hint="leave it out")


def glue_task(name: LearnedGlueTask, data_dir: Path | None) -> LabelledTask:
    """A GLUE task with its dev sets; MNLI has two, of which the mismatched one may be missing."""
    task = GLUE[name]
    judged: dict[str, Examples] = {name: read_glue(name, data_dir=data_dir)}
    if name == "mnli" and (data_dir is None or (data_dir / GLUE["mnli-mm"].folder / GLUE["mnli-mm"].dev).is_file()):
        judged["mnli-mm"] = read_glue("mnli-mm", data_dir=data_dir)
    train = read_glue(name, data_dir=data_dir, split="train")
    return LabelledTask(name, train, judged, task.names or (), task.metrics)


def own_task(
    kind: OwnTask,
    train: str,
    dev: str,
    columns: Columns,
    *,
    dev_columns: Columns | None = None,
    called: tuple[str, str] = ("--train", "--dev"),
) -> LabelledTask:
    """A task of the user's own, out of files as `homoexport eval` reads them.

    Args:
        columns: of the files to train on, and of those to judge on unless `dev_columns` names theirs.
        called: what the user calls both, for errors.

    Raises:
        TextError: no text, no such column, labels that are no numbers where there should be scores, one label alone,
            fewer than three scores to be judged, or a label to be judged that is none of those to train on.
    """
    label = columns.label or ("score" if kind == "scores" else "label")
    named = Columns(text=columns.text or "text", pair=columns.pair, label=label)
    names: tuple[str, ...] = ()
    with read_for(called[0]):
        learned = read_examples(train, named)
        if len(set(learned.texts)) < 2:
            raise TextError("every text is the same", where=learned.source, hint="name other files or another column")
        if kind == "scores":
            learned.scores()
        else:
            assert learned.labels is not None
            names = names_of(learned.labels)
            if len(names) < 2:
                hint = "name files with two labels or more, or another --label-column"
                raise TextError(f"has the label '{names[0]}' alone", where=learned.source, hint=hint)
    of_dev = dev_columns or named
    with read_for(called[1]):
        judged = read_examples(dev, of_dev)
        assert judged.labels is not None
        if kind == "classification":
            label_indices(judged.labels, names, where=dev)
        elif len(judged.scores()) < 3:
            what = f"holds {len(judged.labels)} texts"
            raise TextError(what, where=dev, hint="give 3 or more, for scores to compare")
    return LabelledTask(kind, learned, {"dev": judged}, names, columns=of_dev)


def read_again(run: FineTunedRun) -> Examples | None:
    """The examples that a model was judged on; None where they are not there any more, or are others by now."""
    split, found = next(iter(run.judged_on.items()))
    try:
        if split in GLUE:
            data_dir = None if found.source.startswith(HUB) else Path(found.source).parent.parent
            examples = read_glue(split, data_dir=data_dir)
        else:
            examples = read_examples(found.source, run.columns)
    except UserError:
        return None
    return examples if examples.digest == found.digest else None
