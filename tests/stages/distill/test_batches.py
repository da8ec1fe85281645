"""Batches made ahead of the step that wants them."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from homoexport.stages.distill.batches import BatchesAhead


class Recorder:
    """Stands for a BatchMaker: notes who asked for which step."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []
        self.corpus = self

    def state_dict(self) -> dict[str, int]:
        return {"step": len(self.asked)}

    def of_step(self, step: int) -> list[int]:
        if step == 3:
            raise ValueError("no such step")
        self.asked.append((step, threading.current_thread().name))
        return [step]


def test_the_next_step_is_made_in_another_thread_and_only_where_told():
    batches = Recorder()
    ahead = BatchesAhead(batches)
    assert ahead.of_step(0, go_on=True) == [0]
    assert ahead.of_step(1, go_on=False) == [1]
    assert [step for step, _ in batches.asked] == [0, 1]
    assert ahead.text_state() == {"step": 2}
    assert ahead.of_step(2, go_on=False) == [2]
    here = threading.current_thread().name
    assert [name == here for _, name in batches.asked] == [True, False, True]


def test_what_fails_ahead_is_raised_where_the_step_is_wanted():
    ahead = BatchesAhead(Recorder())
    assert ahead.of_step(2, go_on=True) == [2]
    assert ahead.text_state() == {"step": 1}  # before what is made ahead
    with pytest.raises(ValueError, match="no such step"):
        ahead.of_step(3, go_on=True)


def test_nobody_waits_for_text_that_hangs_when_the_run_ends_early():
    """A program that stops while its next batch cannot be read ends at once."""
    script = (
        "import threading\n"
        "from homoexport.stages.distill.batches import BatchesAhead\n"
        "class Hanging:\n"
        "    corpus = type('', (), {'state_dict': dict})\n"
        "    def of_step(self, step):\n"
        "        return [] if step == 0 else threading.Event().wait()\n"
        "BatchesAhead(Hanging()).of_step(0, go_on=True)\n"
        "raise KeyboardInterrupt\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "KeyboardInterrupt" in done.stderr
