"""The linear layers behind a pooling, sentence-transformers' `Dense` modules: reading, applying, writing.

B batch, D width of a vector (D_i before the layer, D_o behind it).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from homoexport.documents.document import first_fault
from homoexport.encoder.folder import read_settings
from homoexport.errors import TeacherError, readable, refusing

Activation = Literal[
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.activation.Tanh",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.activation.GELU",
    "torch.nn.modules.activation.Sigmoid",
]
_IDENTITY: Activation = "torch.nn.modules.linear.Identity"
_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    _IDENTITY: nn.Identity,
    "torch.nn.modules.activation.Tanh": nn.Tanh,
    "torch.nn.modules.activation.ReLU": nn.ReLU,
    "torch.nn.modules.activation.GELU": nn.GELU,
    "torch.nn.modules.activation.Sigmoid": nn.Sigmoid,
}


class _Settings(BaseModel):
    """The module's config.json; the vector is the one thing that it may read and replace."""

    model_config = ConfigDict(strict=True, extra="forbid")

    in_features: PositiveInt
    out_features: PositiveInt
    bias: bool
    activation_function: Activation
    module_input_name: Literal["sentence_embedding"] = "sentence_embedding"
    module_output_name: Literal["sentence_embedding"] | None = None


class Dense(nn.Module):
    """activation(x Wᵀ + b) of vectors [B, D_i], given W [D_o, D_i] and b [D_o]; it is not trained as it stands."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, activation: Activation = _IDENTITY) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1, bias=bias is not None, device="meta")
        self.linear.out_features, self.linear.in_features = weight.shape
        self.linear.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            self.linear.bias = nn.Parameter(bias, requires_grad=False)
        self.activation_name = activation
        self.activation = _ACTIVATIONS[activation]()

    def arrays(self) -> tuple[str, NDArray[np.float32], NDArray[np.float32]]:
        """The activation's name, W and b, zeros where it has none, for numpy."""
        linear = self.linear
        bias = np.zeros(linear.out_features, np.float32) if linear.bias is None else linear.bias.numpy()
        return self.activation_name.rpartition(".")[2], linear.weight.numpy(), bias

    def forward(self, vectors: Tensor) -> Tensor:
        """[B, D_i] to [B, D_o]"""
        answer: Tensor = self.activation(self.linear(vectors))
        return answer


def read_dense(folder: Path, width: int) -> Dense:
    """The module in a folder, for vectors of a width, in fp32.

    Raises:
        TeacherError: another activation, input or width; weights that are missing, not as its config says, or no
            numbers.
    """
    config, weights = folder / "config.json", folder / "model.safetensors"
    with readable(TeacherError, folder):  # of a name that the folder's author chose
        is_there = config.is_file() and weights.is_file()
    if not is_there:
        hint = "save it again with sentence-transformers, as safetensors"
        raise TeacherError("has no config.json or no model.safetensors", where=str(folder), hint=hint)
    try:
        settings = _Settings.model_validate(read_settings(config))
    except ValidationError as error:
        what = f"is no Dense module that is supported: {first_fault(error)}"
        hint = "supported are Identity, Tanh, ReLU, GELU and Sigmoid behind a linear layer of the vector"
        raise TeacherError(what, where=str(config), hint=hint) from None
    if settings.in_features != width:
        what = f"takes vectors of {settings.in_features}, and those before it are of {width}"
        raise TeacherError(what, where=str(config), hint="put the module there that the model was saved with")
    with refusing(TeacherError, "its weights do not load", where=str(weights), hint="copy or download it again"):
        tensors = {name: tensor.to(torch.float32) for name, tensor in load_file(weights).items()}
    asked = {"linear.weight": (settings.out_features, width)} | (
        {"linear.bias": (settings.out_features,)} if settings.bias else {}
    )
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != asked:
        what = f"does not hold {' and '.join(f'{name} {list(shape)}' for name, shape in asked.items())} alone"
        raise TeacherError(what, where=str(weights), hint="put the weights there that its config.json was saved with")
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        what = "holds what is no number (NaN or infinity)"
        raise TeacherError(what, where=str(weights), hint="name a checkpoint from before its training went wrong")
    activation = settings.activation_function
    return Dense(tensors["linear.weight"], tensors.get("linear.bias"), activation=activation).eval()


def write_dense(dense: Dense, folder: Path) -> None:
    """Write a module into a new folder, as sentence-transformers does."""
    folder.mkdir(exist_ok=True)
    linear = dense.linear
    settings = _Settings(
        in_features=linear.in_features,
        out_features=linear.out_features,
        bias=linear.bias is not None,
        activation_function=dense.activation_name,
    )
    shown = settings.model_dump(include=set(_Settings.model_fields) - {"module_input_name", "module_output_name"})
    (folder / "config.json").write_text(json.dumps(shown, indent=2))
    tensors = {name: tensor.cpu().contiguous() for name, tensor in dense.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # the umask's
