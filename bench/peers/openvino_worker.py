"""homoexport's measuring worker in OpenVINO, at the settings that are best for what is measured.

    PEERS/bin/python -I bench/peers/openvino_worker.py f32|bf16|default openvino

OpenVINO is faster by some 5 to 20 % on a graph of fixed shape, so that it gets one as soon as `inputs` are all of one
shape. Texts of several lengths go through the dynamic graph. Floats are computed in the precision that is named, or in
OpenVINO's own choice.

B batch, S sequence.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from homoexport.runtime.worker import protocol
from homoexport.runtime.worker.by_openvino import OpenVinoModel
from homoexport.runtime.worker.inputs import IntArray
from homoexport.runtime.worker.model import Model
from homoexport.runtime.worker.serve import ModelServer, main


class FixedShapeModel(OpenVinoModel):
    """A model that is compiled for the one shape [B, S] of its inputs, where they have one."""

    _shape: tuple[int, ...] | None = None

    def compile(self) -> None:
        if sys.argv[1] != "default":
            self.settings["INFERENCE_PRECISION_HINT"] = sys.argv[1]
        super().compile()

    def use(self, batches: Sequence[Mapping[str, IntArray]]) -> None:
        super().use(batches)
        shapes = {values["input_ids"].shape for values in batches}
        shape = shapes.pop() if len(shapes) == 1 else None
        if shape != self._shape:
            self._shape = shape
            del self._idle, self._compiled  # two of them at once would be in the memory's peak
            self._model.reshape({port.any_name: list(shape) if shape else [-1, -1] for port in self._model.inputs})
            self.compile()


class PeerServer(ModelServer):
    """Loads models so."""

    def open_model(self, request: protocol.LoadRequest) -> Model:
        return FixedShapeModel(request)


if __name__ == "__main__":
    main(PeerServer)
