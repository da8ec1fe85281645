"""What sentence-transformers' CrossEncoder is told by a folder: that it is one, which file to load, and the activation.

The activation is what CrossEncoder puts behind the logits: where nobody says which, a sigmoid behind a single one. Its
own folders of version 5.7 say it in a file beside the model; students keep it in config.json, where older ones have it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from homoexport.documents.package import Prompts
from homoexport.encoder.folder import read_settings

SETTINGS, PROMPTS = "sentence_bert_config.json", "config_sentence_transformers.json"
NO_ACTIVATION = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}  # of a config.json
_KEPT, _TRUSTED = ("activation_fn",), "torch.nn."


def keep_activation(config: Any, folder: Path) -> None:
    """Write into a classifier's config the activation that a file of CrossEncoder's own names in its folder.

    Raises:
        TeacherError: the file is damaged.
    """
    path = folder / PROMPTS
    settings = read_settings(path) if path.is_file() else None
    activation = settings.get("activation_fn") if isinstance(settings, dict) else None
    if isinstance(activation, str) and activation.startswith(_TRUSTED):
        config.sentence_transformers = {"activation_fn": activation}


def write_cross_encoder_files(
    config: Any, folder: Path, *, file_name: str | None, max_length: int | None, prompts: Prompts | None = None
) -> None:
    """Have CrossEncoder load a text classifier's folder or package as it stands, and cut at its longest text.

    `file_name` is a package's ONNX file, for backend "onnx": by itself it would take model.onnx alone. `config` is the
    model's, `prompts` what CrossEncoder may be asked to put before a pair.
    """
    asked_for = {} if prompts is None else {"prompts": prompts.texts, "default_prompt_name": prompts.default}
    known = getattr(config, "sentence_transformers", None)
    activation = {key: known[key] for key in _KEPT if key in known} if isinstance(known, dict) else {}
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    transformer: dict[str, Any] = {"transformer_task": "sequence-classification"}
    if max_length is not None:
        transformer["max_seq_length"] = max_length
    if file_name is not None:
        transformer["model_args"] = {"file_name": file_name}
    for name, content in (
        ("modules.json", [module]),
        (SETTINGS, transformer),
        (PROMPTS, {"model_type": "CrossEncoder", **activation, **asked_for}),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
