"""Many texts through a package: by their length, on all cores, in bounded memory, answered in their order.

Texts are taken in windows. A window is tokenized at once, sorted by its tokens and cut into batches of like length,
which wait in one queue for the streams: callers in threads, which a runtime's C++ lets run side by side. While they are
at work the next windows are made ready.

W texts of a window, B batch, S sequence, D width of an answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from homoexport.choices import RuntimeChoice
from homoexport.errors import PackageError
from homoexport.runtime.inference import FloatArray, Package, Text, open_file, open_package
from homoexport.runtime.worker.inputs import IntArray
from homoexport.units import check_count

_BATCHES = 128  # of a window
_CHARACTERS = 1 << 23  # of a window, however few texts that are
_AHEAD = 2  # windows that are ready or under way beside the oldest

Ask: TypeAlias = "Callable[[Package, Mapping[str, IntArray]], FloatArray]"  # of tokens [B, S], an answer [B, D]
_Part: TypeAlias = "tuple[NDArray[np.intp], Future[FloatArray]]"  # rows of a window, and their answers [B, D]


def open_streams(
    folder: Path | str, *, streams: int, threads: int = 1, runtime: RuntimeChoice = "auto"
) -> list[Package]:
    """A package, opened for so many callers at once, each inference with so many threads.

    One session of ONNX Runtime's serves them all; other runtimes have one for each.

    Raises:
        PackageError, UserError: as `open_package` does; or less than one stream.
    """
    check_count(streams, f"{streams!r} streams", where="streams")
    first = open_package(folder, threads=threads, runtime=runtime)
    details = first.details
    if details.runtime == "onnxruntime":
        return [first] * streams
    more = (open_file(details.file, details.runtime, threads=threads) for _ in range(streams - 1))
    return [first, *(first.beside(session) for session in more)]


def answers_of(
    streams: Sequence[Package], texts: Iterable[Text], ask: Ask, *, width: int, batch_size: int = 32
) -> Iterator[FloatArray]:
    """What a package answers to texts: [W, D] of the first ones, then of the next, and so on.

    A text's answer may depend on the others of its batch where the scheme's does (dynamic int8).

    Args:
        streams: the package as `open_streams` opens it.
        ask: gives a batch's answers, [B, D].
        width: D.

    Raises:
        PackageError: the package cannot answer, or answers what is not finite or of another width.
        UserError: a batch size below 1.
    """
    check_count(batch_size, f"a batch of {batch_size!r} texts", where="batch_size")
    package = streams[0]
    ready: deque[list[_Part]] = deque()
    with _Pool(streams, ask) as pool:
        for window in _windows(texts, batch_size * _BATCHES):
            encodings = package.encode(window)
            order = np.argsort([len(each) for each in encodings], kind="stable")
            batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
            ready.append([(rows, pool.submit([encodings[row] for row in rows])) for rows in batches])
            if len(ready) > _AHEAD:
                yield _in_order(ready.popleft(), width, package)
        while ready:
            yield _in_order(ready.popleft(), width, package)


def _windows(texts: Iterable[Text], most: int) -> Iterator[list[Text]]:
    window, characters = list[Text](), 0
    for text in texts:
        window.append(text)
        characters += len(text) if isinstance(text, str) else sum(map(len, text))
        if len(window) == most or characters >= _CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def _in_order(parts: Sequence[_Part], width: int, package: Package) -> FloatArray:
    """The answers [W, D] of a window's batches, waited for and brought into the order of its texts."""
    answers = np.empty((sum(len(rows) for rows, _ in parts), width), np.float32)
    for rows, future in parts:
        answer = future.result()
        if answer.shape != (len(rows), width) or not np.isfinite(answer).all():
            what, hint = f"gives answers that are not finite, or not of {width} numbers", "export the package again"
            raise PackageError(what, where=str(package.details.folder), hint=hint)
        answers[rows] = answer
    return answers


class _Pool:
    """A thread for each stream. Where its block is left by an error or a signal, what runs is ended."""

    def __init__(self, streams: Sequence[Package], ask: Ask) -> None:
        self._streams, self._ask = streams, ask
        self._idle: SimpleQueue[Package] = SimpleQueue()
        for package in streams:
            self._idle.put(package)
        self._threads = ThreadPoolExecutor(len(streams), thread_name_prefix="stream")

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for package in self._streams:
                package.end()
        self._threads.shutdown(cancel_futures=True)

    def submit(self, encodings: Sequence[Encoding]) -> Future[FloatArray]:
        """Have a batch answered."""
        return self._threads.submit(self._answer, encodings)

    def _answer(self, encodings: Sequence[Encoding]) -> FloatArray:
        package = self._idle.get()
        try:
            return self._ask(package, package.padded(encodings))
        finally:
            self._idle.put(package)
