"""Saves again and again, each time with the system's writing calls failing from a later one on, and looks what is left.

`python -m tests.faults.drive SHIM FOLDER STRIDE KIND...`, with the shim preloaded; of STRIDE calls, one fails first.
A line for each kind of save on stdout: its name, and what fell, as JSON.
"""

from __future__ import annotations

import ctypes
import errno
import io
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from homoexport.documents.artifact import RUN_MARK, verify, write_manifest
from homoexport.documents.document import PART, write_text
from homoexport.documents.output import output_errors, replacing, staged
from homoexport.documents.run_folder import begin, is_finished
from homoexport.errors import UserError
from tests.samples import student_details

MOST = 1 << 62
FAULTS = {  # the system's error, whether the first call writes a half, whether all that changes a folder fails
    "full": (errno.ENOSPC, 0, 0),
    "half written": (errno.ENOSPC, 1, 0),
    "broken": (errno.EIO, 0, 1),
    "read-only": (errno.EROFS, 0, 1),
}


@dataclass
class Kind:
    """A kind of save: `write(folder, word)` saves a word, `read(folder)` is the word that is there whole.

    `put_right(folder)` is what the next command does before its work, which fails at once.
    """

    write: Callable[[Path, str], None]
    read: Callable[[Path], str]
    put_right: Callable[[Path], None] = lambda _: None


def write_artifact(folder: Path, word: str) -> None:
    (folder / "1_Pooling").mkdir()
    write_text(folder / "held_out.txt", word)
    (folder / "1_Pooling" / "config.json").write_text(word * 10_000)
    write_manifest(folder, "student", details=student_details())


def read_artifact(folder: Path) -> str:
    verify(folder / "out")
    assert (folder / "out" / "1_Pooling" / "config.json").read_text() == 10_000 * (
        folder / "out" / "held_out.txt"
    ).read_text()
    return (folder / "out" / "held_out.txt").read_text()


def stage(folder: Path, word: str) -> None:
    with staged(folder / "out", force=True) as new:
        write_artifact(new, word)


def replace(folder: Path, word: str) -> None:
    out = folder / "out"
    done = partial(is_finished, out)
    with replacing(out, force=True, resume=False, is_worth_keeping=done, is_done=done):
        begin(out, "student", word)
        write_artifact(out, word)


def write_document(folder: Path, word: str) -> None:
    with output_errors(folder):
        write_text(folder / "a.txt", word * 50_000)


def fail(work: AbstractContextManager[object]) -> None:
    with suppress(InterruptedError), work:
        raise InterruptedError


def stage_nothing(folder: Path) -> None:
    fail(staged(folder / "out", force=True))


def replace_nothing(folder: Path) -> None:
    fail(replacing(folder / "out", force=True, resume=False, is_worth_keeping=lambda: False, is_done=lambda: False))


def write_checkpoint(folder: Path, word: str) -> None:
    import torch

    from homoexport.stages.distill.checkpoint import Checkpoint, save_checkpoint

    others = dict.fromkeys(Checkpoint.__required_keys__)
    state = {**others, "run": torch.full((50_000,), float(len(word))), "text": word}
    save_checkpoint(folder, state, is_good=True)  # type: ignore[arg-type]


def read_checkpoint(folder: Path) -> str:
    """Both are whole; the good one may be newer."""
    from homoexport.documents.layout import CHECKPOINT, GOOD_CHECKPOINT
    from homoexport.stages.distill.checkpoint import load_checkpoint

    words = []
    for name in (CHECKPOINT, GOOD_CHECKPOINT):
        state = load_checkpoint(folder, name=name)
        assert state is not None
        assert (state["run"] == len(state["text"])).all()  # type: ignore[operator]
        words.append(str(state["text"]))
    assert words != ["new", "old"]
    return words[0]


def write_student(folder: Path, word: str) -> None:
    from homoexport.encoder import encoder_of, save_encoder
    from tests.conftest import tiny_bert, tiny_tokenizer

    model = tiny_bert(seed=len(word))
    with staged(folder / "out", force=True) as new:
        save_encoder(encoder_of(model, tiny_tokenizer()), model, new)
        write_text(new / "held_out.txt", word)
        write_manifest(new, "student", details=student_details())


def read_student(folder: Path) -> str:
    verify(folder / "out")
    return (folder / "out" / "held_out.txt").read_text()


def distil(folder: Path, word: str) -> None:
    """Nothing, then a student: one that is half made is gone on with."""
    from homoexport.documents.recipe import DistillSettings, TextSettings, TextSource
    from homoexport.encoder import encoder_of
    from homoexport.shape import PartialShape
    from homoexport.workflow.distill import distill
    from tests.conftest import tiny_bert, tiny_tokenizer, write_sentences

    out, text = folder / "out", folder.with_name("text.txt")
    if word == "old":
        write_sentences(text)
        return
    distill(
        encoder_of(tiny_bert(), tiny_tokenizer()),
        text=TextSettings(sources=(TextSource(files=str(text)),), max_length=16, held_out=8),
        shape=PartialShape(hidden_size=16, intermediate_size=32, num_attention_heads=4),
        settings=DistillSettings(
            objective="sentence-embedding", steps=4, batch_size=4, checkpoint_every=1, threads=1, precision="fp32"
        ),
        output=out,
        resume=(out / RUN_MARK).is_file(),
    )


def read_distilled(folder: Path) -> str:
    """The same weights, however often it was stopped; `old` where it is not done."""
    if not is_finished(folder / "out"):
        return "old"
    found, kept = verify(folder / "out").files["model.safetensors"].sha256, folder.with_name("sha256")
    if not kept.exists():
        kept.write_text(found)
    assert found == kept.read_text()
    return "new"


KINDS = {
    "document": Kind(
        write_document,
        lambda folder: {"old" * 50_000: "old", "new" * 50_000: "new"}[(folder / "a.txt").read_text()],
    ),
    "staged": Kind(stage, read_artifact, stage_nothing),
    "in place": Kind(replace, read_artifact, replace_nothing),
    "checkpoint": Kind(write_checkpoint, read_checkpoint),
    "student": Kind(write_student, read_student, stage_nothing),
    "distilled": Kind(distil, read_distilled),
}


def attempt(shim: ctypes.CDLL, kind: Kind, folder: Path, first: int, fault: tuple[int, int, int]) -> tuple[int, str]:
    """The calls that saving `new` made, and how it ended, in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = "done"
        shim.fault_arm(str(folder).encode(), ctypes.c_long(first), *fault)
        try:
            kind.write(folder, "new")
        except UserError as error:
            said = "refused" if "\n" not in str(error) else f"in many lines: {error}"
        except BaseException:
            told = io.StringIO()
            traceback.print_exc(file=told)
            said = told.getvalue()[-1500:]
        os.write(writing, f"{shim.fault_calls()} {said}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        calls, _, said = pipe.read().partition(" ")
    os.waitpid(child, 0)
    return int(calls), said


def fallen(shim: ctypes.CDLL, kind: Kind, folder: Path, stride: int) -> tuple[int, list[str]]:
    """How many faults there were, and what fell."""
    fell, tried = [], 0

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        kind.write(folder, "old")

    for start, (name, fault) in enumerate(FAULTS.items()):
        prepare()
        calls, said = attempt(shim, kind, folder, MOST, fault)
        assert (said, kind.read(folder)) == ("done", "new"), said
        for first in range(start % stride, calls, stride):
            prepare()
            _, said = attempt(shim, kind, folder, first, fault)
            tried += 1
            where = f"{name} from call {first} of {calls} on"
            try:
                kind.put_right(folder)
                found = kind.read(folder)
                if said not in ("done", "refused") or (said == "done" and found != "new"):
                    fell.append(f"{where}: {said}, {found}")
                kind.write(folder, "new")
                assert kind.read(folder) == "new"
            except Exception:
                fell.append(f"{where}: {said}, then {traceback.format_exc()[-1500:]}")
            left = [str(path) for path in folder.rglob(f"*{PART}*")]
            if left and not fault[2]:  # else not even a half can be removed
                fell.append(f"{where}: left {left}")
    return tried, fell


def main() -> None:
    library, place, stride, *names = sys.argv[1:]
    shim = ctypes.CDLL(library)
    for name in names:
        tried, fell = fallen(shim, KINDS[name], Path(place).resolve() / name.replace(" ", "-"), int(stride))
        print(json.dumps({"kind": name, "faults": tried, "fell": fell}), flush=True)


if __name__ == "__main__":
    main()
