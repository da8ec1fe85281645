"""Checkpoints: everything that a run needs to go on, in one file that is renamed into place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from torch import Tensor

from homoexport.documents.document import copy_file, half_of, new_file
from homoexport.documents.layout import CHECKPOINT, GOOD_CHECKPOINT
from homoexport.documents.output import output_errors
from homoexport.errors import PackageError, refusing
from homoexport.stages.distill.depth import DepthState
from homoexport.stages.distill.job import Sources
from homoexport.text.corpus import StreamState

_FORMAT = 8  # raised whenever a checkpoint's content changes


Values = dict[str, Any]  # as `state_dict` of torch's classes and `asdict` give them


class RunState(TypedDict):
    """`waypoints` says how many are still ahead; `slowed` whether the run went back once, to a lower learning rate."""

    step: int
    start_widths: Values
    widths: Values
    student: Values
    projections: Values
    optimizer: Values
    rate: Values
    ranking: list[list[Tensor]]
    depth: DepthState
    is_teacher: bool
    probed: bool
    labels_seen: bool
    slowed: bool
    waypoints: int
    scaler: Values


class Checkpoint(TypedDict):
    """All that a run needs to go on, or to begin where another stands: at a branch, or at its end.

    `at_branch` is true at the end, too.
    """

    run: RunState
    text: StreamState
    sources: Sources
    offset: int
    at_branch: bool
    at_end: bool


def save_checkpoint(folder: Path, state: Checkpoint, *, name: str = CHECKPOINT, is_good: bool = False) -> None:
    """Write a checkpoint; where the disk is full (OutputError), the one before is still there.

    `is_good`: a run that diverges goes back to it (`GOOD_CHECKPOINT`), also when there are later ones.
    """
    path = folder / (GOOD_CHECKPOINT if is_good else name)
    with output_errors(path):
        with new_file(path) as file:
            torch.save({"format": _FORMAT, **state}, file)
        if is_good:  # it is on the disk: now it may take the other's place, too
            _link(path, folder / name)


def mark_good(checkpoint: Path) -> None:
    """Keep a checkpoint as the one that a run which diverges goes back to."""
    _link(checkpoint, checkpoint.with_name(GOOD_CHECKPOINT))


def _link(file: Path, other: Path) -> None:
    """Have a file under another name, too, without writing it again where there are links."""
    link = half_of(other)
    try:
        link.hardlink_to(file)
        link.replace(other)
    except OSError:  # of a file system without links
        copy_file(file, other)
    finally:
        link.unlink(missing_ok=True)


def load_checkpoint(folder: Path, *, name: str = CHECKPOINT) -> Checkpoint | None:
    """The folder's checkpoint, tensors on the CPU; None before a run's first. PackageError where it is damaged."""
    path = folder / name
    if not path.is_file():
        return None
    with refusing(PackageError, "the checkpoint does not load", where=str(path), hint="start again with --force"):
        state = torch.load(path, map_location="cpu", weights_only=True)
    parts = state if isinstance(state, dict) else {}
    if parts.get("format") != _FORMAT or not Checkpoint.__required_keys__ <= parts.keys():
        raise PackageError(
            "the checkpoint is none of this version of homoexport", where=str(path), hint="start again with --force"
        )
    return cast(Checkpoint, state)
