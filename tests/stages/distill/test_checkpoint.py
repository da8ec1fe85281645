"""Checkpoints that are written again and again: the ones before stay whole until the new ones are on the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from homoexport.documents.layout import CHECKPOINT, GOOD_CHECKPOINT
from homoexport.errors import OutputError
from homoexport.stages.distill.checkpoint import Checkpoint, load_checkpoint, mark_good, save_checkpoint


def save(folder: Path, word: str, *, is_good: bool = True) -> None:
    others = dict.fromkeys(Checkpoint.__required_keys__)
    save_checkpoint(folder, {**others, "run": torch.zeros(9), "text": word}, is_good=is_good)


def words(folder: Path) -> list[str]:
    return [load_checkpoint(folder, name=name)["text"] for name in (CHECKPOINT, GOOD_CHECKPOINT)]


def refuse(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_checkpoint_that_does_not_reach_the_disk_takes_no_place(tmp_path, monkeypatch):
    save(tmp_path, "old")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match="the disk failed"):
        save(tmp_path, "new")
    assert words(tmp_path) == ["old", "old"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("links", [True, False])
def test_the_good_one_stays_while_others_follow(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    save(tmp_path, "one")
    assert words(tmp_path) == ["one", "one"]
    save(tmp_path, "two", is_good=False)
    assert words(tmp_path) == ["two", "one"]
    mark_good(tmp_path / CHECKPOINT)
    assert words(tmp_path) == ["two", "two"]
    assert len(list(tmp_path.iterdir())) == 2
