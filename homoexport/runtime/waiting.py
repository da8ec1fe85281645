"""Waiting for a runtime's C++: signals are heard meanwhile, and an answer has a limit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent import futures
from typing import Any, TypeVar

from numpy.typing import NDArray

from homoexport.limits import SECONDS_PER_TOKEN, limit, raise_hint

T = TypeVar("T")
_SECONDS_TO_END = 1.0  # an interpreter that ends while C++ still runs is aborted


class Answers:
    """The answers of one session that are waited for, each in its thread, so that another thread can end them all."""

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
    """Do what stays in C++ for long in a thread, so that this one hears signals; `stop` has it end, also by time.

    Its end is waited for a second: what runs a graph ends by then, and what opens one cannot be stopped.
    """
    answer: futures.Future[T] = futures.Future()

    def do() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:
            answer.set_exception(error)

    thread = threading.Thread(target=do, name="runtime", daemon=True)
    thread.start()
    try:
        return answer.result(seconds)
    except BaseException:
        stop()
        thread.join(_SECONDS_TO_END)
        raise
