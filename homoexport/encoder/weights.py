"""The weights of a model's folder: the class that they are for, and whether they are all there."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from optimum.exporters.tasks import TasksManager
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    PreTrainedModel,
)
from transformers.utils import logging

from homoexport.choices import CLASSIFYING, ModelTask
from homoexport.documents.artifact import kind_of
from homoexport.encoder.folder import weights_bytes
from homoexport.errors import TeacherError, refusing

NO_ENCODER = "name an encoder of text"
_HEADS: dict[ModelTask, str] = {
    "fill-mask": "masked-LM head",
    "text-classification": "sequence-classification head",
    "token-classification": "token-classification head",
}
_SPARE_PARAMETERS = 10**6  # of a model, beyond what its weights have: a pooler that nothing reads


def load_weights(folder: Path, config: Any, task: ModelTask, source: str) -> PreTrainedModel:
    """The model of a config, with the head that a task needs, in fp32 and in eval mode; refuses (TeacherError) weights
    that are not the config's, and a model that takes no text.
    """
    model_class = _class_of(config, task, source)
    if any(folder.glob("onnx/*.onnx")) and not weights_bytes(folder):
        what, hint = "is an ONNX package, without weights for torch", "name the model that it was exported from"
        if kind_of(folder) != "package":
            what = "has a graph for onnxruntime, no weights for torch, and no manifest.json that makes it a package"
            hint = "copy or download the folder again, or name the model that it was exported from"
        raise TeacherError(what, where=source, hint=hint)
    no_model = refusing(TeacherError, "no model can be made of its config.json", where=source, hint="set it right")
    with no_model, torch.device("meta"):
        blank = model_class.from_config(config, trust_remote_code=False)
    takes = inspect.signature(blank.forward).parameters
    if missing_inputs := [name for name in ("input_ids", "attention_mask") if name not in takes]:
        what = f"its {type(blank).__name__} takes no {' and no '.join(missing_inputs)}"
        raise TeacherError(what, where=source, hint=NO_ENCODER)
    asked = sum(tensor.numel() for tensor in (*blank.parameters(), *blank.buffers()))
    if asked > weights_bytes(folder) + _SPARE_PARAMETERS:
        what = f"its config.json asks for {asked} parameters, and all of its weights are {weights_bytes(folder)} bytes"
        hint = "put the config.json there that the weights were saved with, or all of the weights"
        raise TeacherError(what, where=source, hint=hint)
    no_weights = refusing(TeacherError, "its weights do not load", where=source, hint="copy or download it again")
    with no_weights, without_bars():
        model, info = model_class.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )
    if info["mismatched_keys"]:
        found = min(info["mismatched_keys"])  # transformers 4 gives names, 5 names and shapes
        name = found if isinstance(found, str) else found[0]
        asked = " x ".join(map(str, model.state_dict()[name].shape))
        what = f"{name} is not {asked} in its weights, as its config.json says"
        raise TeacherError(what, where=source, hint="put the config.json there that the weights were saved with")
    pooler_counts = task == "text-classification"  # elsewhere nothing reads it
    missing = sorted(name for name in info["missing_keys"] if pooler_counts or "pooler" not in name)
    if missing:
        head = [name for name in missing if not name.startswith(f"{model.base_model_prefix}.")]
        what = f"weights are missing ({missing[0]})"
        if task in _HEADS and head:
            what = f"it has no {_HEADS[task]} ({head[0]})"
        raise TeacherError(what, where=source, hint="name a model that was saved with it")
    broken = next((name for name, weight in model.named_parameters() if not weight.isfinite().all()), None)
    if broken is not None:
        what = f"{broken} holds what is no number (NaN or infinity)"
        raise TeacherError(what, where=source, hint="name a checkpoint from before its training went wrong")
    with refusing(TeacherError, "its labels cannot be read", where=source, hint="set its config.json right"):
        count = model.config.num_labels if task in CLASSIFYING else 0
        labels = [model.config.id2label[number] for number in range(count)]
    if not all(isinstance(label, str) for label in labels):
        raise TeacherError("its labels are no text (id2label)", where=source, hint="set its config.json right")
    assert isinstance(model, PreTrainedModel)
    return model.eval()


def check_answers(model: PreTrainedModel, task: ModelTask, source: str) -> None:
    """Refuse (TeacherError) a model that does not answer two texts of four tokens as an encoder does."""
    hint = f"set its config.json right, or {NO_ENCODER}"
    tokens = torch.zeros((2, 4), dtype=torch.int64)
    with refusing(TeacherError, "its model cannot be run", where=source, hint=hint), torch.no_grad():
        output = model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
        answer = output.logits if task in _HEADS else output.last_hidden_state
    wanted = (*tokens.shape, model.config.hidden_size)
    if task not in _HEADS and answer.shape != wanted:
        what = f"its states are {' x '.join(map(str, answer.shape))} where {' x '.join(map(str, wanted))} were expected"
        raise TeacherError(what, where=source, hint=NO_ENCODER)


def new_classifier(folder: Path, source: str, **head: Any) -> PreTrainedModel:
    """A model with a sequence-classification head, in fp32, new where the folder has none of its outputs; refuses
    (TeacherError) a model that transformers makes no classifier of."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    what, hint = f"transformers makes no classifier of a '{config.model_type}'", "name a model that it has one for"
    if config.is_encoder_decoder or type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise TeacherError(what, where=source, hint=hint)
    with refusing(TeacherError, what, where=source, hint=hint), without_bars():
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=False,
            **head,
        )
    begins = f"{model.base_model_prefix}."
    if lost := sorted(name for name in info["missing_keys"] if name.startswith(begins) and "pooler" not in name):
        raise TeacherError(f"{what} without weights of its own ({lost[0]})", where=source, hint=hint)
    assert isinstance(model, PreTrainedModel)
    return model


def _class_of(config: Any, task: ModelTask, source: str) -> Any:
    """The auto class that loads a model for a task; of a pair of encoder and decoder, the encoder alone."""
    if task in _HEADS:
        return TasksManager.get_model_class_for_task(task, library="transformers")
    if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        return AutoModelForTextEncoding
    if config.is_encoder_decoder:
        raise TeacherError("is a pair of encoder and decoder", where=source, hint=NO_ENCODER)
    return AutoModel


@contextmanager
def without_bars() -> Iterator[None]:
    """Nothing below the command line prints; transformers shows a bar of the weights that it loads, and reports on
    those that a model has no use for."""
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
