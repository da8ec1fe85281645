"""What a model makes of its states where that is a pooling and linear layers alone."""

from __future__ import annotations

from torch import nn

from homoexport.documents.package import Pooling
from homoexport.encoder.dense import Activation, Dense
from homoexport.encoder.loading import Encoder

_TANH: Activation = "torch.nn.modules.activation.Tanh"
_RELU: Activation = "torch.nn.modules.activation.ReLU"
_IDENTITY: Activation = "torch.nn.modules.linear.Identity"
_ROBERTAS: dict[str, Activation] = {"classifier.dense": _TANH, "classifier.out_proj": _IDENTITY}
_OF_TEXTS: dict[str, dict[str, Activation]] = {  # a classifier's layers on its first token, by `model_type`
    "bert": {"bert.pooler.dense": _TANH, "classifier": _IDENTITY},
    "distilbert": {"pre_classifier": _RELU, "classifier": _IDENTITY},
    "roberta": _ROBERTAS,
    "xlm-roberta": _ROBERTAS,
    "camembert": _ROBERTAS,
}


def behind_states(encoder: Encoder) -> tuple[Pooling | None, tuple[Dense, ...]] | None:
    """How the task's output is made of the states: a pooling, unless each token has an answer, and layers behind it.

    None where it is made otherwise, or the family's layers are not known here.
    """
    if encoder.task in ("sentence-similarity", "feature-extraction"):
        return encoder.pooling, encoder.dense
    kind = encoder.model.config.model_type
    if encoder.task == "fill-mask" or kind not in _OF_TEXTS:
        return None
    if encoder.task == "token-classification":
        return None, (_dense(encoder, "classifier", _IDENTITY),)
    layers = tuple(_dense(encoder, name, activation) for name, activation in _OF_TEXTS[kind].items())
    return Pooling(mode="cls", normalize=False), layers


def _dense(encoder: Encoder, name: str, activation: Activation) -> Dense:
    linear = encoder.model.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    return Dense(linear.weight.detach(), None if linear.bias is None else linear.bias.detach(), activation=activation)
