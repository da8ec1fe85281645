"""What lies where in the folders of runs and students, and what lies there that homoexport did not put there.

A run's folder:

    plan          what the budget can afford, where the recipe names no student
    0-teacher     the teacher's fp32 ONNX package, to compare with
    1-student     the distilled student
    2-onnx        the student's package, which is what ships
    3-measured    both packages measured in one interleaved run, and their quality
    turns/N       1-student to 3-measured of a turn that missed the budget, and was pruned on from
    report.md, summary.json, plots/

Several students of one distillation lie in one folder each, by their names; fine-tuned ones in TASK/seed-N.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from homoexport.documents.artifact import MANIFEST, RUN_MARK, STATES, kind_of
from homoexport.documents.document import is_half, read_json
from homoexport.lock import is_ours

PLAN, TEACHER, STUDENT, PACKAGE, MEASURED, TURNS = "plan", "0-teacher", "1-student", "2-onnx", "3-measured", "turns"
REPORT, PLOTS = "report.md", "plots"
SUMMARY = "summary.json"  # written last: a run that has it is over
MEASUREMENT, FLOORS = "measurement.json", "floors.json"  # in 3-measured
LOG, HELD_OUT = "log.jsonl", "held_out.txt"  # in a student's folder
# A run goes on from the first, goes back to the second when its loss is no number any more, and may go on to a narrower
# student from the third.
CHECKPOINT, GOOD_CHECKPOINT, END_STATE = STATES
# What work of a kind leaves on its way, folders with a slash behind; and in which folders artifacts may lie.
_OF_STUDENTS = {RUN_MARK, LOG, HELD_OUT, *STATES, "*.json", "*.safetensors", "vocab.txt", "merges.txt", "*.model"}
_OF_WORK = {
    "run": {RUN_MARK, REPORT, SUMMARY, f"{PLOTS}/", f"{PLOTS}/*.png"},
    "finetuning": {RUN_MARK, SUMMARY},
    "student": _OF_STUDENTS | {"[0-9]_*/", "[0-9]_*/*", ".student.part/", ".student.part/*"},
}
_SHELVES = {"run": {PLAN, TEACHER, STUDENT, PACKAGE, MEASURED, TURNS}}
_OF_DESKTOPS_AND_HUBS = {".cache", ".gitattributes", ".DS_Store", "Thumbs.db", "desktop.ini"}


def foreign_in(folder: Path) -> Path | None:
    """The first of what lies in a folder of homoexport's that it did not put there; None where all is its own.

    Its own is what a manifest names, of whatever version; where there is none, what work of that kind leaves on its
    way, and folders that hold nothing else.
    """
    kind = kind_of(folder) or ""
    if not kind or not (folder / MANIFEST).is_file():
        return _first_foreign(folder, folder, _OF_WORK.get(kind, set()), _SHELVES.get(kind, {"*"}))
    manifest = read_json(folder / MANIFEST)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    files = files if isinstance(files, dict) else {}
    parents = {f"{parent}/" for name in files for parent in PurePosixPath(name).parents}
    return _first_foreign(folder, folder, {MANIFEST, RUN_MARK, *STATES, *files} | parents, set())


def _first_foreign(folder: Path, top: Path, own: set[str], shelves: set[str]) -> Path | None:
    for path in sorted(folder.iterdir()):
        name, is_folder = path.relative_to(top).as_posix(), path.is_dir() and not path.is_symlink()
        if path.name in _OF_DESKTOPS_AND_HUBS or is_half(path) or (is_folder and is_ours(path)):
            continue
        found: Path | None = path
        if _matches(f"{name}/" if is_folder else name, own):
            found = _first_foreign(path, top, own, set()) if is_folder else None
        elif is_folder and _matches(name, shelves):
            found = foreign_in(path)
        if found is not None:
            return found
    return None


def _matches(name: str, patterns: set[str]) -> bool:
    return name in patterns or any(fnmatch(name, pattern) for pattern in patterns)
