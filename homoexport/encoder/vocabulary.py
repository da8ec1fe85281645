"""A model with fewer words: its table and its heads' rows, and what its config says of ids.

Letters: V words before, W words after, E width of the table.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from homoexport.encoder.families import traits_of
from homoexport.encoder.loading import Encoder, save_tokenizer
from homoexport.errors import TeacherError, refusing

_OWN_FILES = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}  # slow ones have others
_TOKEN_ID = "_token_id"  # config keys that end so hold ids


def with_vocabulary(encoder: Encoder, kept: Sequence[int], file: Mapping[str, Any]) -> Encoder:
    """The encoder with the words of these ids alone, in ascending order, and the tokenizer.json that has them."""
    model = with_words(encoder.model, kept)
    return replace(encoder, model=model, tokenizer=_tokenizer_of(encoder.tokenizer, kept, file))


def _tokenizer_of(
    tokenizer: PreTrainedTokenizerBase, kept: Sequence[int], file: Mapping[str, Any]
) -> PreTrainedTokenizerBase:
    """A tokenizer of the same class and settings, by another tokenizer.json."""
    number = {old: new for new, old in enumerate(kept)}
    with TemporaryDirectory() as folder:
        save_tokenizer(tokenizer, Path(folder))
        for path in Path(folder).iterdir():
            if path.name not in _OWN_FILES:
                path.unlink()
        Path(folder, "tokenizer.json").write_text(json.dumps(file, ensure_ascii=False), encoding="utf-8")
        settings = Path(folder, "tokenizer_config.json")
        config = json.loads(settings.read_text(encoding="utf-8"))
        if added := config.get("added_tokens_decoder"):  # which transformers 4 writes, by the ids
            config["added_tokens_decoder"] = {str(number[int(index)]): token for index, token in added.items()}
        settings.write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
        made: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return made


def token_ids(config: Any) -> dict[str, int | list[int]]:
    """The ids that a config names, by its keys."""
    named = {name: value for name, value in config.to_dict().items() if name.endswith(_TOKEN_ID)}
    return {name: value for name, value in named.items() if type(value) is int or isinstance(value, list)}


def needed_ids(model: PreTrainedModel) -> set[int]:
    """The ids that the model or its config knows by their numbers."""
    config: Any = model.config
    needed = set(range(traits_of(config).settled_ids(model)))
    for value in token_ids(config).values():
        needed.update(value if isinstance(value, list) else [value])
    return {index for index in needed if 0 <= index < config.vocab_size}


def with_words(model: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """A new model whose words are these of the old one's, by their ids in ascending order; in eval mode.

    They have all of `needed_ids`.

    Sliced are the table of words [V, E], and of a masked-LM head the decoder [V, E] with its bias [V].
    """
    words = int(model.config.vocab_size)
    config: Any = copy.deepcopy(model.config)
    config.vocab_size = len(kept)
    number = {old: new for new, old in enumerate(kept)}
    for name, value in token_ids(config).items():
        # An id beyond the vocabulary (-1, say) stands for none, and stays.
        of = [number.get(each, each) for each in value] if isinstance(value, list) else number.get(value, value)
        setattr(config, name, of)
    of_words = {id(tensor) for tensor in _indexed_by_words(model, words)}
    state = {
        name: tensor[list(kept)] if id(tensor) in of_words else tensor
        for name, tensor in model.state_dict(keep_vars=True).items()
    }
    smaller = type(model)(config).to(model.dtype)
    what = f"a {type(model).__name__} keeps words where trimming does not look for them"
    with refusing(TeacherError, what, where=str(config.name_or_path), hint="trim the model without its head"):
        smaller.load_state_dict({name: tensor.detach() for name, tensor in state.items()})
    return smaller.eval()


def _indexed_by_words(model: PreTrainedModel, words: int) -> list[torch.Tensor]:
    """The parameters with a row for each word."""
    head = model.get_output_embeddings()
    found: list[torch.Tensor] = [model.get_input_embeddings().weight]
    if head is not None:
        own = (head.weight, *(() if head.bias is None else (head.bias,)))
        found += [tensor for tensor in own if tensor.shape[0] == words]  # DeBERTa names a layer before it
        biases = (parameter for name, parameter in model.named_parameters() if name.endswith("bias"))
        found += [bias for bias in biases if bias.shape == (words,) and _is_alone(model, bias)]
    return found


def _is_alone(model: nn.Module, bias: torch.Tensor) -> bool:
    """Whether it is no layer's own, but the head's beside its layers (as BERT's `predictions.bias`)."""
    layers = (module for module in model.modules() if getattr(module, "weight", None) is not None)
    return all(getattr(layer, "bias", None) is not bias for layer in layers)
