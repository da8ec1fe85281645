"""What a plan takes from other stages: graphs that the export makes, times that measuring takes, gradients of a probe.

A stage imports no other stage, so these are handed in; `homoexport.workflow.plan` has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from homoexport.choices import EmbeddingPrecision, Runtime, Scheme
from homoexport.documents.target import TargetHost
from homoexport.encoder import Encoder

Progress = Callable[[str, float], None]  # gets each step, and the share of it that is done
# Writes the graph of one model, of a form's name; the file, or why the form is not right for the model.
WriteGraph = Callable[[str, Scheme, EmbeddingPrecision], Path | str]
# Writes a model into a new folder as its runtime has it; what the runtime opens, or why it cannot have it so.
WriteModel = Callable[[Encoder, Path, Scheme, EmbeddingPrecision], Path | str]


class TimedFile(Protocol):
    """What was measured of a file; percentiles of latency by their numbers, and the share of its rounds in which it
    waited for a core."""

    @property
    def latency_ms(self) -> Mapping[int, float]: ...
    @property
    def latency_mean_ms(self) -> float: ...
    @property
    def peak_rss_mb(self) -> float: ...
    @property
    def disturbed_share(self) -> float: ...


@dataclass(frozen=True)
class Instruments:
    """What a plan is made with.

    `scheme` and `embeddings` say how students' graphs will be stored. `forms` are names of the graph's forms to try,
    each with those of its variants, which are tried if it is the fastest; a runtime's name is that of what it opens,
    which `converted` makes of a graph, or one of `from_models` of a model. `time_files` measures files in turns, and
    `count_files` their instructions where the target is emulated, as those of `stages.measure`. `probe` is a loss [] of
    token ids [B, S] and their mask, whose gradients say how strongly weights move the output.
    """

    target: TargetHost
    scheme: Scheme
    embeddings: EmbeddingPrecision
    opset: int | None
    forms: Mapping[str, Sequence[str]]
    onnx_forms: Mapping[str, Sequence[str]]  # of a teacher, whose package has an ONNX file alone
    make_graphs: Callable[[Encoder, Path], WriteGraph]
    converted: Callable[[Path, str, Scheme], Path]  # an ONNX file of a form, in place; what the runtime opens
    from_models: Mapping[str, WriteModel]  # forms that need no graph
    not_tried: Mapping[Runtime, str]  # runtimes that might have been among the forms, and why they are not
    time_files: Callable[..., Sequence[TimedFile | None]]
    count_files: Callable[..., Sequence[float]]
    probe: Callable[[Tensor, Tensor], Tensor]
    cache: Path
