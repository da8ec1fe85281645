"""Which of the student's layers answers to which of the teacher's, and the matrices between their widths.

Letters: D hidden size (D_s student, D_t teacher).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from homoexport.choices import Side


@dataclass(frozen=True)
class LayerMap:
    """For each of the student's layers, the teacher's layer that it answers to; counted from 0.

    A layer's output answers to what the teacher has reached where the student's next layer begins; its attention
    answers to the layer that it came from. While the layer `fading` fades out (its `scale` falls from 1 to 0), the
    layer before it hands its place over: what it leaves behind is then no longer the teacher's state before the faded
    layer, but the one after.
    """

    hidden: tuple[int, ...]
    attention: tuple[int, ...]
    fading: int | None = None
    scale: float = 1.0

    @classmethod
    def one_to_one(cls, layers: int) -> LayerMap:
        return cls(tuple(range(layers)), tuple(range(layers)))

    @classmethod
    def of_kept(cls, kept: Sequence[int], teacher_layers: int) -> LayerMap:
        """The student has the teacher's layers `kept`."""
        ends = [*(index - 1 for index in kept[1:]), teacher_layers - 1]
        return cls(tuple(ends), tuple(kept))

    @classmethod
    def uniform(cls, layers: int, teacher_layers: int) -> LayerMap:
        """The student's layers are none of the teacher's; they answer at even distances, the last to the last."""
        ends = tuple((index + 1) * teacher_layers // layers - 1 for index in range(layers))
        return cls(ends, ends)

    def without(self, layer: int) -> LayerMap:
        """After the student's layer is gone: the layer before takes over what its output answered to."""
        hidden, attention = list(self.hidden), list(self.attention)
        del attention[layer]
        del hidden[max(0, layer - 1)]
        return LayerMap(tuple(hidden), tuple(attention))

    def hidden_weight(self, layer: int) -> float:
        handing_over = None if self.fading is None else max(0, self.fading - 1)
        return self.scale if layer == handing_over else 1.0

    def attention_weight(self, layer: int) -> float:
        return self.scale if layer == self.fading else 1.0


class Maps(NamedTuple):
    """Matrices that bring a sliced student's embeddings, and its states after each layer, nearest to what they were:
    [dimensions now, dimensions before]."""

    embedding: Tensor
    hidden: tuple[Tensor, ...]


class Projections(nn.Module):
    """W_hidden of every teacher's layer and W_emb; the identity until the student is sliced.

    Each is [D_s, D_t] where states are compared in the teacher's width, [D_t, D_s] in the student's. `answer` [D_t, D]
    leads on from the last W_hidden to vectors of another model, where the student answers in its space.
    """

    def __init__(self, hidden_size: int, layers: int, compare_in: Side) -> None:
        super().__init__()
        self.compare_in = compare_in
        self._student_axis = 0 if compare_in == "teacher" else 1
        self.hidden = nn.ParameterList(nn.Parameter(torch.eye(hidden_size)) for _ in range(layers))
        self.embedding = nn.Parameter(torch.eye(hidden_size))
        self.answer: nn.Parameter | None = None

    def answer_in(self, width: int) -> None:
        """Lead to vectors of that width; by what matrix is to be fitted."""
        self.answer = nn.Parameter(torch.zeros(self.embedding.shape[1 - self._student_axis], width))

    def followers(self) -> list[tuple[nn.Parameter, int]]:
        """Each matrix with the axis that follows the student's residual dimensions."""
        return [(parameter, self._student_axis) for parameter in (*self.hidden, self.embedding)]

    def start_at_random(self, hidden_size: int) -> None:
        """For a student that is not a part of its teacher: columns of length about 1."""
        for parameter, _ in self.followers():
            shape = list(parameter.shape)
            shape[self._student_axis] = hidden_size
            parameter.data = torch.randn(shape) * shape[0] ** -0.5

    def follow(self, before: Projections, maps: Maps, layer_map: LayerMap) -> None:
        """Take the place of what they were before a slice, where states are compared in the teacher's width."""
        if self.compare_in == "teacher":
            self.embedding.data = maps.embedding @ before.embedding.data
            for layer, matrix in zip(layer_map.hidden, maps.hidden, strict=True):
                self.hidden[layer].data = matrix @ before.hidden[layer].data
