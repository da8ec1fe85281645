"""Orderly stops: what is asked for by Ctrl-C, or by a signal that ends processes, is heard between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Ctrl-C; a container's stop; a terminal that is closed


@dataclass
class Stop:
    """The number of the signal that asked for a stop; 0: none did."""

    number: int = 0

    def obey(self) -> None:
        """Raise what the signal means, if one has come: KeyboardInterrupt, or SystemExit with 128 and its number."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number:
            raise SystemExit(128 + self.number)


@contextmanager
def stopping_between_steps(on_signal: Callable[[], None] = lambda: None) -> Iterator[Stop]:
    """A block in which the first signal that would end the process only leaves word; a second one ends it at once.

    `on_signal` is told of the first, in a thread of its own: what it prints may not interrupt what is being printed.
    Where one has come, the block ends as `Stop.obey` has it. Signals that are ignored, as under nohup, stay ignored.
    Python hears signals in the main thread alone.
    """
    stop = Stop()
    before = {number: signal.getsignal(number) for number in ENDING}

    def restore() -> None:
        for number in heard:
            signal.signal(number, before[number])

    def hear(number: int, _frame: object) -> None:
        restore()
        stop.number = number
        threading.Thread(target=on_signal, daemon=True).start()

    is_main = threading.current_thread() is threading.main_thread()
    heard = [number for number in ENDING if is_main and before[number] not in (signal.SIG_IGN, None)]
    for number in heard:
        signal.signal(number, hear)
    try:
        yield stop
    finally:
        restore()
    stop.obey()
