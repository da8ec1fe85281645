"""ELECTRA: an embedding size of its own.

Where it differs from the hidden size, `embeddings_project` leads from the one to the other, and the
embedding size stays what it is. Where both are equal a stock model has no such projection, so that
the embeddings go with the residual stream, and both sizes stay equal.

Letters: D hidden size, E embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from homoexport.encoder.layout import Layout, Slot, Taps
from homoexport.encoder.postnorm import PostNorm
from homoexport.encoder.slots import columns, existing, norm, own_linears, rows
from homoexport.errors import ShapeError
from homoexport.shape import Shape


@dataclass(frozen=True)
class _Electra(PostNorm):
    def _projects(self, model: nn.Module) -> bool:
        return hasattr(self.body(model), "embeddings_project")

    def embedding_slots(self, model: nn.Module) -> list[Slot]:
        """The projection's output where there is one, or else the embeddings."""
        if self._projects(model):
            return [*rows(f"{self.prefix(model)}embeddings_project")]
        return super().embedding_slots(model)

    def layout(self, model: nn.Module) -> Layout:
        """The generator's head [E, D] gives the embeddings' width back, and reads with their columns."""
        layout = super().layout(model)
        reader = "generator_predictions.dense"
        head = [columns(reader)]
        if not self._projects(model):
            head += [*rows(reader), *norm("generator_predictions.LayerNorm")]
            head += [columns("generator_lm_head")]
        return replace(
            layout,
            hidden=existing(model, (*layout.hidden, *head)),
            embedding_norm=None if self._projects(model) else layout.embedding_norm,  # of another width
            head_readers=(*layout.head_readers, *own_linears(model, [reader], tied_to=layout.token_rows)),
        )

    def taps(self, model: nn.Module) -> Taps:
        """What enters the first layer is the projection's output, where there is one."""
        taps = super().taps(model)
        if not self._projects(model):
            return taps
        return replace(taps, embedding=self.body(model).get_submodule("embeddings_project"))

    def write_config(self, config: Any, shape: Shape) -> None:
        """The embedding size, too, where it was the hidden size."""
        if config.embedding_size == config.hidden_size:
            config.embedding_size = shape.hidden_size
        super().write_config(config, shape)

    def check_target(self, config: Any, target: Shape) -> None:
        if config.embedding_size != config.hidden_size and config.embedding_size == target.hidden_size:
            what = f"hidden_size {target.hidden_size} is the embedding size, and the teacher's projection would be lost"
            raise ShapeError(what, where="student", hint="choose another hidden_size")


ELECTRA = _Electra(
    model_types=("electra",),
    pretrains_lm_head=False,  # they are discriminators
    body_name="electra",
    lm_head_names=("generator_predictions", "generator_lm_head"),
    squares=("discriminator_predictions.dense", "classifier.dense"),
    readers=("discriminator_predictions.dense_prediction", "classifier.out_proj", "classifier"),
)
