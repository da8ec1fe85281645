"""Waiting for a runtime's C++: signals are heard meanwhile, and an answer has a limit."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent import futures
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from numpy.typing import NDArray

from homoexport.limits import SECONDS_PER_TOKEN, limit, raise_hint

T = TypeVar("T")
_SECONDS_TO_END = 1.0  # an interpreter that ends while C++ still runs is aborted


class Answers:
    """The answers of one session that are waited for, so that another thread can end them all."""

    def __init__(self) -> None:
        self._stops: dict[int, Callable[[], None]] = {}  # by the thread
        self._ended = False

    def of(
        self, work: Callable[[], T], inputs: Iterable[NDArray[Any]], *, stop: Callable[[], None] = lambda: None
    ) -> T:
        """What some work answers of inputs; `stop` ends it.

        Raises:
            TimeoutError: it takes longer than the limit.
            InterruptedError: all were ended.
        """
        seconds = limit("answer_seconds") + SECONDS_PER_TOKEN * max((array.size for array in inputs), default=0)
        thread = threading.get_ident()
        self._stops[thread] = stop
        try:
            if self._ended:  # asked behind the note above, so that none is missed
                raise InterruptedError("all answers were ended")
            return heard(work, stop, seconds)
        except futures.TimeoutError:
            raise TimeoutError(f"no answer within {seconds:.0f} seconds; {raise_hint('answer_seconds')}") from None
        finally:
            del self._stops[thread]

    def end(self) -> None:
        """Stop what is waited for, and let nothing more begin."""
        self._ended = True
        for stop in list(self._stops.values()):
            stop()


def heard(work: Callable[[], T], stop: Callable[[], None] = lambda: None, seconds: float | None = None) -> T:
    """Do what stays in C++ for long in a kept thread, so that this one hears signals; `stop` has it end, also by time.

    Its end is waited for a second: what runs a graph ends by then, and what opens one cannot be stopped.
    """
    answer: futures.Future[T] = futures.Future()
    try:
        thread = _idle.pop()
    except IndexError:
        thread = _Kept()
    thread.do(work, answer)
    try:
        return answer.result(seconds)
    except BaseException:
        stop()
        futures.wait([answer], _SECONDS_TO_END)
        raise


class _Kept:
    """A thread for one piece of work after another; to start one for each costs as much as half of a short answer."""

    def __init__(self) -> None:
        self._given: SimpleQueue[tuple[Callable[[], Any], futures.Future[Any]]] = SimpleQueue()
        threading.Thread(target=self._serve, name="runtime", daemon=True).start()

    def do(self, work: Callable[[], T], answer: futures.Future[T]) -> None:
        """Have the thread do this next."""
        self._given.put((work, answer))

    def _serve(self) -> None:
        while True:
            work, answer = self._given.get()
            try:
                tell = partial(answer.set_result, work())
            except BaseException as error:
                tell = partial(answer.set_exception, error)
            _idle.append(self)  # before it is told, so that whoever asks on finds it
            tell()
            del work, answer, tell  # they hold what was opened and answered


_idle: list[_Kept] = []  # the last of them was at work last
os.register_at_fork(after_in_child=_idle.clear)
