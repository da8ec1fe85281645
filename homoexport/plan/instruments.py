"""What a plan takes from other stages: graphs that the export makes, times that measuring takes, gradients of a probe.

A stage imports no other stage, so these are handed in; `homoexport.workflow.plan` has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from homoexport.choices import EmbeddingPrecision, Scheme
from homoexport.documents.target import TargetHost
from homoexport.encoder import Encoder

Progress = Callable[[str, float], None]  # is told each step, and the share of it that is done
# A loss [] whose gradients say how strongly each weight moves the model's output; of token ids [B, S] and their mask.
Probe = Callable[[Tensor, Tensor], Tensor]


class GraphMaker(Protocol):
    """Graphs of one model."""

    @property
    def left_out(self) -> Mapping[str, str]:
        """Why forms are missing, by their names."""

    def write(self, form: str, scheme: Scheme, embeddings: EmbeddingPrecision) -> Path | None:
        """The file of the graph in a form and scheme; None where it does not answer as the model does."""


class GraphExport(Protocol):
    """The export: forms to try, each with the variants to try next if it is the fastest, and graphs in them."""

    @property
    def forms(self) -> Mapping[str, Sequence[str]]:
        """Names of forms, each with those of its variants."""

    @property
    def scheme(self) -> Scheme:
        """How students' graphs will be stored."""

    @property
    def embeddings(self) -> EmbeddingPrecision:
        """How their embedding tables will be stored."""

    @property
    def opset(self) -> int | None:
        """Of the graphs, where it was asked for."""

    def open(self, encoder: Encoder, folder: Path) -> GraphMaker:
        """Export a model into a folder."""


class TimedFile(Protocol):
    """What was measured of an ONNX file."""

    @property
    def latency_ms(self) -> Mapping[int, float]:
        """Percentiles by their numbers."""

    @property
    def latency_mean_ms(self) -> float:
        """Mean latency."""

    @property
    def peak_rss_mb(self) -> float:
        """Peak memory of the worker."""


class FileTimer(Protocol):
    """Measures ONNX files in turns."""

    def __call__(
        self,
        files: Sequence[Path],
        *,
        device: str,
        threads: int | None,
        batch_size: int,
        length: int,
        vocab_size: int,
        outputs: tuple[str, ...],
        min_seconds: float,
    ) -> Sequence[TimedFile | None]:
        """Figures in the order of the files; None for one that the target's memory cannot hold."""


@dataclass(frozen=True)
class Instruments:
    """What a plan is made with.

    Attributes:
        target: the processor and runtime of the device that is planned for.
        export: makes graphs.
        time_files: measures them on the device.
        probe: a loss for the teacher's sensitivity.
        cache: folder of what was measured before.
    """

    target: TargetHost
    export: GraphExport
    time_files: FileTimer
    probe: Probe
    cache: Path
