"""What lies where in the folders of runs and students, and what lies there that homoexport did not put there.

A run's folder:

    plan          what the budget can afford, where the recipe names no student
    0-finetuned   the teacher once it has learned its task, where the recipe has it fine-tuned first
    0-teacher     the teacher's fp32 ONNX package, to compare with
    1-student     the distilled student
    2-onnx        the student's package, which is what ships
    3-measured    both packages measured in one interleaved run, and their quality
    turns/N       1-student to 3-measured of a turn that missed the budget, and was pruned on from
    report.md, report.html, summary.json, plots/

A run of several students or budgets has for each a run's folder of its name, with what all share as hard links:
0-finetuned, 0-teacher, and its 1-student of `1-students`, the one distillation of several. Its own 3-measured is of all
packages in turns, and its report.html compares them.

Several students of one distillation lie in one folder each, by their names; several fine-tuned models in TASK/seed-N.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from glob import escape
from pathlib import Path, PurePosixPath

from homoexport.documents.artifact import (
    HELD_OUT,
    MANIFEST,
    RUN_MARK,
    STATES,
    FileEntry,
    Manifest,
    kind_of,
    read_manifest,
    sha256_file,
)
from homoexport.documents.document import is_half, read_json
from homoexport.documents.package import PROMPT_FOLDER
from homoexport.errors import PackageError
from homoexport.lock import is_ours

PLAN, FINETUNED, TEACHER, STUDENT, PACKAGE = "plan", "0-finetuned", "0-teacher", "1-student", "2-onnx"
MEASURED, TURNS, STUDENTS = "3-measured", "turns", "1-students"
REPORT, HTML_REPORT, PLOTS = "report.md", "report.html", "plots"
SUMMARY = "summary.json"  # a run that has it is over, but for its report
MEASUREMENT, FLOORS = "measurement.json", "floors.json"  # in 3-measured
LOG = "log.jsonl"  # in a student's folder
# A run goes on from the first, goes back to the second when its loss is no number any more, and may go on to a narrower
# student from the third.
CHECKPOINT, GOOD_CHECKPOINT, END_STATE = STATES
TRACKERS = "trackers"  # what experiment trackers write, in a student's folder or that of several

# What homoexport may put into a folder that no manifest describes, by the kind of work there, as patterns; those of
# folders end with a slash.
_OF_RUNS = {
    "run": {RUN_MARK, REPORT, HTML_REPORT, SUMMARY, f"{PLOTS}/", f"{PLOTS}/*.png"},
    "finetuning": {RUN_MARK, REPORT, HTML_REPORT, SUMMARY, f"{PLOTS}/", f"{PLOTS}/*.png"},
}
_OF_ARTIFACTS = {  # that are not finished, or whose manifest is damaged
    *(MANIFEST, RUN_MARK, LOG, HELD_OUT, *STATES, "README.md", REPORT, HTML_REPORT, "*.json", "*.npz", "*.csv"),
    *("*.safetensors", "vocab.txt", "merges.txt", "*.model", "*.codes", "*.jinja"),
    *(f"{TRACKERS}/", f"{TRACKERS}/*", f"{PLOTS}/", f"{PLOTS}/*.png", ".student.part/", ".student.part/*"),
    *("onnx/", "onnx/*", "ort/", "ort/*", "strings/", "strings/*", f"{PROMPT_FOLDER}/", f"{PROMPT_FOLDER}/*"),
    *("[0-9]_[A-Z]*/", "[0-9]_[A-Z]*/config.json", "[0-9]_[A-Z]*/*.safetensors"),
}
_OF_OTHERS = {  # of hubs and desktops, of no worth to anybody
    *(".cache/", ".cache/huggingface/", ".cache/huggingface/*", ".gitattributes", ".gitignore"),
    *(".DS_Store", "._*", ".directory", "Thumbs.db", "desktop.ini"),
}
_STAGES = {PLAN, FINETUNED, TEACHER, STUDENT, PACKAGE, MEASURED, TURNS}


def foreign_in(folder: Path) -> Path | None:
    """The first of what lies in a folder of homoexport's that it did not put there; None where all is its own.

    Its own is what a manifest names, but for a README that was edited; where there is none that can be read, what
    work leaves on its way, and folders of artifacts where work of that kind puts some.
    """
    files: dict[str, FileEntry] = {}
    with suppress(PackageError):
        files = read_manifest(folder, Manifest).files
    if not files:
        kind = kind_of(folder)
        is_artifact = kind or folder.name in _STAGES - {TURNS}
        own = _OF_RUNS.get(kind or "", _OF_ARTIFACTS if is_artifact else set())
        return _first_foreign(folder, folder, own, partial(_may_lie, kind))
    named = {name for name, entry in files.items() if not _is_edited(folder / name, entry)}
    parents = {f"{parent}/" for name in files for parent in PurePosixPath(name).parents}
    return _first_foreign(folder, folder, {MANIFEST, RUN_MARK, *STATES, *map(escape, named | parents)}, _nothing)


def _is_edited(path: Path, entry: FileEntry) -> bool:
    return path.name == "README.md" and path.is_file() and sha256_file(path) != entry.sha256


def _first_foreign(folder: Path, top: Path, own: set[str], may_lie: Callable[[Path], bool]) -> Path | None:
    """`own` are patterns of names below `top`; in folders right there for which `may_lie` holds, artifacts may lie."""
    for path in sorted(folder.iterdir()):
        is_folder = path.is_dir() and not path.is_symlink()
        name = path.relative_to(top).as_posix() + "/" * is_folder
        found: Path | None = path
        if is_half(path) or (is_folder and is_ours(path)) or (not is_folder and _matches(path.name, _OF_OTHERS)):
            continue
        if _matches(name, own | _OF_OTHERS):
            found = _first_foreign(path, top, own, _nothing) if is_folder else None
        elif is_folder and may_lie(path):
            found = foreign_in(path)
        if found is not None:
            return found
    return None


def _matches(name: str, patterns: set[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _nothing(_path: Path) -> bool:
    return False


def _parts_in(folder: Path) -> set[str]:
    """The names of the students or budgets of which a run's recipe makes several."""
    try:
        recipe = read_json(folder / RUN_MARK)["recipe"]
        return {*(each["name"] for each in recipe.get("students") or ()), *(recipe.get("budgets") or ())}
    except (PackageError, AttributeError, KeyError, TypeError):  # damaged, or of another version
        return set()


def _may_lie(kind: str | None, path: Path) -> bool:
    """Whether a folder may be an artifact or hold some, that lies where work of a kind goes on."""
    if kind == "run":
        return path.name in {*_STAGES, STUDENTS, *_parts_in(path.parent)}
    if kind is None:  # turns, or one task's
        return path.name in _STAGES or path.name.isdecimal() or path.name.startswith("seed-")
    return kind_of(path) in ("student", "model", None)
