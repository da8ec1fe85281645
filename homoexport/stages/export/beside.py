"""The same model for another runtime than ONNX Runtime: files beside the ONNX file, where it is faster on the target.

Whatever a runtime's converter makes is held against torch by a worker in that runtime, and timed there in turns with
the ONNX file that was chosen.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from homoexport.choices import OTHER_RUNTIMES, EmbeddingPrecision, Runtime, Scheme, WeightPrecision
from homoexport.documents.package import RUNTIME_FILES, Parity, RuntimeFile
from homoexport.encoder import Encoder
from homoexport.errors import ParityError
from homoexport.stages.export.candidates import Candidate, Maker
from homoexport.stages.export.choose import TIE, Judge, Rank, below_the_floor
from homoexport.stages.export.parity import Answer, check_parity, in_words


@dataclass(frozen=True)
class Converted:
    """A model for a runtime, held against torch, in a folder of its own: the file that the runtime opens."""

    name: str
    file: Path
    precision: WeightPrecision
    parity: Parity
    kept_in_fp32: tuple[str, ...] = ()

    @property
    def file_bytes(self) -> int:
        return sum(part.stat().st_size for part in self.file.parent.iterdir())


@dataclass(frozen=True)
class Converter:
    """How models are made for a runtime.

    `convert` makes one in each of the schemes, with its way to store the embedding tables, and says in the maker's
    `left_out` why others are missing. `why_not` says what of a model the runtime cannot hold at all.
    """

    convert: Callable[[Maker, Mapping[Scheme, EmbeddingPrecision], Answer], Sequence[Converted]]
    version: Callable[[], str]
    why_not: Callable[[Encoder], str | None] = lambda _encoder: None


def _label(runtime: Runtime, name: str) -> str:
    """What something for a runtime is called where it is left out."""
    return f"{runtime} {name}"


def hold(
    maker: Maker,
    name: str,
    write: Callable[[], Path],
    *,
    runtime: Runtime,
    precision: WeightPrecision,
    answer: Answer,
    kept_in_fp32: tuple[str, ...] = (),
) -> Converted | None:
    """What `write` converts, held against torch; None, with the reason, if it fails."""
    maker.progress(f"converting to {OTHER_RUNTIMES[runtime]} ({name})")

    def make() -> Converted:
        file = write()
        parity = check_parity(file, maker.batches.all, task=maker.encoder.task, precision=precision, answer=answer)
        return Converted(name, file, precision, parity, kept_in_fp32)

    label = _label(runtime, name)
    converted = maker.attempt(label, make)
    if converted is not None:
        maker.left_out.pop(label, None)  # of an earlier trial with other products in int8
    return converted


def right(maker: Maker, converted: Converted | None, *, runtime: Runtime) -> Converted | None:
    """What answers as torch does; None, with the reason, where it does not."""
    if converted is None or converted.parity.passed:
        return converted
    maker.left_out[_label(runtime, converted.name)] = f"breaks the gate: {in_words(converted.parity)}"
    return None


def write_beside(
    maker: Maker,
    chosen: Candidate,
    folder: Path,
    *,
    runtime: Runtime,
    converter: Converter,
    schemes: Mapping[Scheme, EmbeddingPrecision],
    rank: Rank,
    answer: Answer,
    asked: bool,
    judge: Judge | None = None,
) -> RuntimeFile | str:
    """Write the fastest model for a runtime into a package's folder; or why not, if it is no faster than the ONNX file.

    Args:
        schemes: what to try, and how each stores the embedding tables.
        rank: median milliseconds of files of any runtime, in their order.
        answer: runs a file in its runtime.
        asked: whether it is written however slow it is, and whatever its quality.
        judge: holds a file against a floor of quality; the fastest that keeps it is written. If none does and one was
            asked for, it is the best.

    Raises:
        ParityError: it was asked for, and nothing answers in that runtime as the model does.
    """
    if why := converter.why_not(maker.encoder):
        return why
    runtime_name = OTHER_RUNTIMES[runtime]
    made = converter.convert(maker, schemes, answer)
    if not made:
        reasons = "; ".join(f"{name}: {why}" for name, why in maker.left_out.items() if name.startswith(f"{runtime} "))
        what = f"nothing in {runtime_name} answers as the model does ({reasons or 'there is no scheme to try'})"
        if asked:
            raise ParityError(what)
        return what
    maker.progress(f"measuring {runtime_name} beside the chosen graph")
    ours, *theirs = rank([chosen.file, *(converted.file for converted in made)])
    latency, best = _fastest_that_is_good(maker, theirs, made, runtime=runtime, asked=asked, judge=judge)
    if best is None:
        return f"nothing in {runtime_name} keeps the floor of quality"
    if not asked and not math.isfinite(latency):
        return "could not be timed, for it does not fit into the target's memory"
    if not asked and not latency * TIE < ours:
        times = f"its {best.name} {latency:.3f} ms against {ours:.3f} ms"
        return f"takes {latency / ours:.2f} times as long as {chosen.name} ({times})"
    file = RUNTIME_FILES[runtime][0]
    shutil.copytree(best.file.parent, (folder / file).parent, copy_function=shutil.copyfile)
    return RuntimeFile(
        file=file,
        candidate=best.name,
        precision=best.precision,
        kept_in_fp32=best.kept_in_fp32,
        file_bytes=best.file_bytes,
        version=converter.version(),
        parity=best.parity,
        latency_p50_ms=latency if math.isfinite(latency) else None,
        onnx_latency_p50_ms=ours if math.isfinite(ours) else None,
    )


def _fastest_that_is_good(
    maker: Maker,
    latencies: Sequence[float],
    made: Sequence[Converted],
    *,
    runtime: Runtime,
    asked: bool,
    judge: Judge | None,
) -> tuple[float, Converted | None]:
    """The fastest that keeps the floor, with its latency; where none does, the best if one was asked for."""
    judged = []
    for latency, one in sorted(zip(latencies, made, strict=True), key=lambda pair: pair[0]):
        if judge is None:
            return latency, one
        maker.progress(f"judging {one.name} in {OTHER_RUNTIMES[runtime]}")
        verdict = judge(one.file)
        if verdict.kept:
            return latency, one
        maker.left_out[_label(runtime, one.name)] = below_the_floor(verdict)
        judged.append((verdict.measured, latency, one))
    if not asked:
        return math.inf, None
    _, latency, best = max(judged, key=lambda each: each[0])
    return latency, best
