"""Loading a teacher (or any encoder folder) and saving a student."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import HFValidationError
from tokenizers import Tokenizer, normalizers
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from homoexport import packaged
from homoexport.choices import CLASSIFYING, ModelTask
from homoexport.documents.artifact import digest_in, refuse_links, sha256_file
from homoexport.documents.document import digest_of
from homoexport.documents.package import Pooling, Prompts
from homoexport.encoder.cross_encoder import NO_ACTIVATION, keep_activation, write_cross_encoder_files
from homoexport.encoder.dense import Dense
from homoexport.encoder.families import traits_of
from homoexport.encoder.folder import check_folder
from homoexport.encoder.sentence import (
    MODEL_FILES,
    MODULES,
    SENTENCE_FILES,
    is_transformer_alone,
    read_dense_modules,
    read_pooling,
    read_prompts,
    read_prompts_of_pairs,
    read_sentence_settings,
    transformer_folder,
    write_sentence_files,
)
from homoexport.encoder.shape import count_parameters
from homoexport.encoder.weights import NO_ENCODER, check_answers, load_weights, new_classifier
from homoexport.errors import TeacherError, first_line, readable, refusing
from homoexport.panics import unprinted_panics
from homoexport.plain import visible

_TASK_OF_ARCHITECTURE: dict[str, ModelTask] = {  # by the end of the class's name
    "ForMaskedLM": "fill-mask",
    "ForPreTraining": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "WithLMHeadModel": "fill-mask",  # XLM's and FlauBERT's
    "Model": "feature-extraction",
}
_DECODERS = ("LMHeadModel", "DoubleHeadsModel")  # ends of names, too: their heads are for the next word
_NOT_A_MODEL = "name a folder with config.json, model.safetensors and a tokenizer"
_NO_FOLDER, _LONGEST_NAME, _SHORTEST = Path(os.devnull), 1000, 3
_ENDLESS, _USUAL = 10**9, 512  # tokens: a tokenizer's limit that is none, and what is taken where nothing else says one


@dataclass(frozen=True)
class Encoder:
    """A loaded model with all that belongs to it. The model is in fp32 and in eval mode.

    `folder` is where its files lie; of a model in memory it is no folder, so that nothing is found there. `root` is the
    folder of sentence-transformers' that it lies in, if that is another. `artifact` is the digest of the artifact that
    it was loaded from, and that was verified then. `dense` are the layers that a sentence's vector goes through behind
    the pooling, `prompts` what may be put before its text.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: ModelTask
    pooling: Pooling | None
    folder: Path
    source: str
    artifact: str | None = None
    dense: tuple[Dense, ...] = ()
    prompts: Prompts | None = None
    root: Path | None = None

    @property
    def home(self) -> Path:
        """The folder that all its files lie in or below."""
        return self.root or self.folder

    @property
    def width(self) -> int:
        """Numbers of a sentence's vector."""
        modes = 1 if self.pooling is None else len(self.pooling.modes)
        return self.dense[-1].linear.out_features if self.dense else modes * int(self.model.config.hidden_size)

    @property
    def parameters(self) -> int:
        """All of them; shared ones count once."""
        return sum(map(count_parameters, (self.model, *self.dense)))


def resolve_folder(source: str) -> Path:
    """The local folder of a hub name, a folder, or a `package:` spec; hub files are downloaded. PackageError: links."""
    if visible(source) != source or len(source) > _LONGEST_NAME:
        raise TeacherError("no model can have that name", where=source[:_LONGEST_NAME], hint=_NOT_A_MODEL)
    with readable(TeacherError, source):
        if Path(source).is_file():
            raise TeacherError("is a file, not a model's folder", where=source, hint=_NOT_A_MODEL)
        if source.startswith(packaged.PREFIX):
            try:
                folder = packaged.locate_folder(source, cache_dir=_archives)
            except (OSError, ValueError) as error:
                raise TeacherError(str(error), where=source) from None
        else:
            folder = Path(source) if Path(source).is_dir() else _download(source)
        if has_modules := (folder / MODULES).is_file():
            refuse_links(folder, hidden=False)  # before it is read
        inner = transformer_folder(folder)
        if not (inner / "config.json").is_file():
            place = "" if inner == folder else f" in {inner.relative_to(folder)}, where its {MODULES} has it"
            raise TeacherError(f"is not a model: it has no config.json{place}", where=source, hint=_NOT_A_MODEL)
        if not has_modules:
            refuse_links(folder, hidden=False)
    return folder


def _archives() -> Path:
    """Where the archives of packages are unpacked: beside the hub's cache (HF_HOME, HF_ASSETS_CACHE)."""
    return huggingface_hub.cached_assets_path("homoexport", "packages", "unpacked")


def _download(name: str) -> Path:
    def pull(*patterns: str) -> Path:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(patterns)))

    try:
        folder = pull("config.json", *SENTENCE_FILES)  # first, for they say where the model lies
        inner = transformer_folder(folder)
        place = "" if inner == folder else f"{inner.relative_to(folder)}/"
        pull(*(f"{place}{pattern}" for pattern in (*MODEL_FILES, "model*.safetensors*")))
        if not any(inner.glob("*.safetensors")):
            pull(f"{place}pytorch_model*")
    except HFValidationError:  # no model of the hub can have that name
        hint = "give a hub name, a folder, or package:DIST/PATH"
        raise TeacherError("no such model folder", where=name, hint=hint) from None
    except (OSError, ValueError) as error:
        what = f"no such folder, and the hub did not give a model of that name ({first_line(error)})"
        raise TeacherError(what, where=name, hint="check the name and the connection, or give a folder") from None
    return folder


def _infer_task(folder: Path, config: Any) -> ModelTask:
    is_cross_encoder = _task_of_head(config) in CLASSIFYING and is_transformer_alone(folder)
    if (folder / MODULES).is_file() and not is_cross_encoder:
        return "sentence-similarity"
    if _class_name(config).endswith("ForPreTraining") and not traits_of(config).pretrains_lm_head:
        return "feature-extraction"
    if task := _task_of_head(config):
        return task
    raise TeacherError(
        f"the head of a {_class_name(config)} is not supported, and would be lost",
        where=str(folder),
        hint="supported: bare models, masked-LM models, sequence and token classifiers, sentence-transformers folders",
    )


def _class_name(config: Any) -> str:
    return str((getattr(config, "architectures", None) or ["Model"])[0])


def _task_of_head(config: Any) -> ModelTask | None:
    """What the class that a config names is for; None where its name does not say, and of a decoder's head."""
    if _class_name(config).endswith(_DECODERS) and not _class_name(config).endswith("WithLMHeadModel"):
        return None
    return next((task for end, task in _TASK_OF_ARCHITECTURE.items() if _class_name(config).endswith(end)), None)


def unused_head(encoder: Encoder) -> str | None:
    """The class of a classifier, as its folder names it, that was loaded for another task, without its head."""
    config = encoder.model.config
    return _class_name(config) if _task_of_head(config) in set(CLASSIFYING) - {encoder.task} else None


def encoder_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    task: ModelTask = "sentence-similarity",
    pooling: Pooling | None = None,
    name: str = "a model in memory",
) -> Encoder:
    """A model in memory as an encoder. It is left in eval mode.

    Args:
        model: any encoder of transformers, in fp32, with the head that the task needs.
        tokenizer: a fast one.
        pooling: of a sentence encoder; by default the mean, normalised.
        name: what messages and manifests call it.

    Raises:
        TeacherError: the tokenizer is not the model's.
    """
    traits = traits_of(model.config)
    traits.prepare_config(model.config)
    _check_tokenizer(tokenizer, model.config, traits.longest_sequence(model), name)
    if task == "sentence-similarity":
        pooling = pooling or Pooling()
    return Encoder(model.eval(), tokenizer, task, pooling, _NO_FOLDER, name)


def load_encoder(source: str, *, task: ModelTask | None = None) -> Encoder:
    """Load a model with its tokenizer: any encoder that transformers knows by itself.

    Args:
        source: hub name, folder, or `package:DISTRIBUTION/PATH`.
        task: what the model is for; by default what its folder says.

    Raises:
        TeacherError: not found, not a model, not an encoder of text, damaged weights, no tokenizer, or no head where
            `task` needs one.
        PackageError: a folder that holds links, or that its manifest does not describe.
    """
    root = resolve_folder(source)
    with readable(TeacherError, source):
        artifact = digest_in(root)
        folder = transformer_folder(root)
        check_folder(folder, source)
    with refusing(TeacherError, "is not a model: its config does not load", where=source, hint=_NOT_A_MODEL):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if getattr(config, "is_decoder", False):
        raise TeacherError("is a decoder (is_decoder in its config)", where=source, hint=NO_ENCODER)
    if getattr(config, "num_hidden_layers", None) == 0:
        raise TeacherError("has no layers (num_hidden_layers in its config)", where=source, hint=NO_ENCODER)
    positions = str(getattr(config, "position_embedding_type", None))
    if positions.startswith("relative_key"):  # which transformers 5 has no longer, and reads as absolute
        raise TeacherError(f"its positions are '{positions}'", where=source, hint="name a model with absolute ones")
    traits = traits_of(config)
    traits.prepare_config(config)
    if type(getattr(config, "vocab_size", None)) is not int or type(getattr(config, "hidden_size", None)) is not int:
        what = f"its config of a '{config.model_type}' names no vocab_size or no hidden_size"
        raise TeacherError(what, where=source, hint=NO_ENCODER)
    other = _task_of_head(config)
    if task in CLASSIFYING and other in CLASSIFYING and task != other:  # their heads can have the same weights
        what = f"is a {_class_name(config)}, which is for {other}, not {task}"
        raise TeacherError(what, where=source, hint="name a model with that head")
    task = task or _infer_task(root, config)
    model = load_weights(folder, config, task, source)
    tokenizer = _load_tokenizer(folder, source)
    _apply_settings(tokenizer, folder, root)
    _check_tokenizer(tokenizer, config, traits.longest_sequence(model), source)
    _name_padding(model, tokenizer)
    check_answers(model, task, source)
    if task == "fill-mask" and tokenizer.mask_token_id is None:
        raise TeacherError("its tokenizer has no mask token", where=source, hint="set mask_token and save it again")
    inside, prompts = None if root == folder else root, None
    if task == "text-classification":
        keep_activation(model.config, root)
        prompts = read_prompts_of_pairs(root)
    if task != "sentence-similarity":
        return Encoder(model, tokenizer, task, None, folder, source, artifact, prompts=prompts, root=inside)
    pooling = read_pooling(root)
    dense = read_dense_modules(root, len(pooling.modes) * model.config.hidden_size)
    return Encoder(model, tokenizer, task, pooling, folder, source, artifact, dense, read_prompts(root), inside)


def _name_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Tell a model what padding is, by which decoders' classifiers find the last token."""
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id


def _load_tokenizer(folder: Path, source: str) -> PreTrainedTokenizerBase:
    file = folder / "tokenizer.json"
    if file.is_file():
        damaged = refusing(TeacherError, "its tokenizer.json does not load", where=source, hint="copy it again")
        with damaged, unprinted_panics():
            Tokenizer.from_file(str(file))
    hint = "add tokenizer.json to the folder"
    with refusing(TeacherError, "its tokenizer does not load", where=source, hint=hint), unprinted_panics():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        is_usable = getattr(tokenizer, "is_fast", False) and len(tokenizer) >= 10
        if is_usable:
            tokenizer(["a", ""], ["b", ""], truncation=True, max_length=16)
    if not is_usable:
        raise TeacherError("has no fast tokenizer", where=source, hint=hint)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    tokenizer.padding_side = "right"  # as all batches here are, by which a model is judged
    return tokenizer


def _apply_settings(tokenizer: PreTrainedTokenizerBase, folder: Path, root: Path) -> None:
    """Have a tokenizer do what sentence-transformers does by its own settings."""
    settings = read_sentence_settings(folder)
    if settings.get("do_lower_case"):
        _lower_case(tokenizer)
    longest = settings.get("max_seq_length")
    if isinstance(longest, int) and is_transformer_alone(root):  # students of a classifier have no such settings
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)


def _lower_case(tokenizer: PreTrainedTokenizerBase) -> None:
    """Put lower-casing before all else, as sentence-transformers does where its own settings ask for it."""
    backend = tokenizer.backend_tokenizer
    normalizer, parts = backend.normalizer, _normalizers_of(tokenizer)
    if not any(part["type"] == "Lowercase" or part.get("lowercase") for part in parts):
        rest = [] if normalizer is None else [normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])


def _normalizers_of(tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """What is done to a text first, in its order, as a tokenizer's file has it."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    if normalizer is None:
        return []
    spec = json.loads(normalizer.__getstate__())
    return list(spec.get("normalizers", [spec]))


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, config: Any, longest: int | None, source: str) -> None:
    """Refuse a tokenizer that does not fit the model, and teach it the model's positions."""
    if tokenizer.pad_token_id is None:
        raise TeacherError("its tokenizer has no padding token", where=source, hint="set pad_token and save it again")
    if not isinstance(tokenizer.model_max_length, int | float) or tokenizer.model_max_length < _SHORTEST:
        what = f"its tokenizer takes {tokenizer.model_max_length} tokens at most"
        raise TeacherError(what, where=source, hint=f"set model_max_length to {_SHORTEST} or more")
    highest = max(tokenizer.get_vocab().values())
    if highest >= config.vocab_size:
        what = f"its tokenizer's ids go up to {highest} and the model knows {config.vocab_size} tokens"
        raise TeacherError(what, where=source, hint="put the tokenizer there that the model was trained with")
    if longest is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    elif tokenizer.model_max_length > _ENDLESS:
        tokenizer.model_max_length = _USUAL


def load_classifier(source: str, names: Sequence[str]) -> Encoder:
    """A model as a text classifier with these labels, or with one output for scores where there are none.

    Its head is new, drawn by torch's seed, unless the model has one of as many outputs already. What `load_encoder`
    refuses (TeacherError) is refused.
    """
    found = load_encoder(source)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    head = {**labels, "problem_type": "single_label_classification"} if names else {"problem_type": "regression"}
    model = new_classifier(found.folder, source, num_labels=len(names) or 1, **head)
    if not names:
        model.config.update(NO_ACTIVATION)  # scores are learned as they are
    _name_padding(model, found.tokenizer)
    return replace(found, model=model, task="text-classification", pooling=None, dense=(), prompts=None)


def parent_of(encoder: Encoder) -> str:
    """The digest of the artifact that the model was loaded from, or its name where homoexport did not make it."""
    return encoder.artifact or encoder.source


def weights_digest(encoder: Encoder) -> str:
    """Hex sha256 over the files of the weights; of a model in memory, and of Dense modules, over the weights."""
    dense = nn.ModuleList(encoder.dense).state_dict()
    if not encoder.folder.is_dir():
        return _digest_of_tensors(encoder.model.state_dict() | {f"dense.{name}": dense[name] for name in dense})
    files = sorted(path for path in encoder.folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    digest = digest_of([sha256_file(path) for path in files]) if len(files) != 1 else sha256_file(files[0])
    return digest_of([digest, _digest_of_tensors(dense)]) if dense else digest


def _digest_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, weight in tensors.items():
        digest.update(name.encode())
        digest.update(weight.cpu().numpy().tobytes())
    return digest.hexdigest()


def save_encoder(encoder: Encoder, model: PreTrainedModel, folder: Path, *, max_length: int | None = None) -> None:
    """Write a model as a stock one into an existing folder, with an encoder's tokenizer, pooling and prompts, and of a
    sentence model the tokens of the longest sequence that it was trained on."""
    model.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):
        weights.chmod((folder / "config.json").stat().st_mode)  # the umask's; safetensors makes them private
    save_tokenizer(encoder.tokenizer, folder)
    write_sentence_files(encoder, folder, hidden_size=model.config.hidden_size, max_length=max_length)
    if encoder.task == "text-classification" and encoder.prompts is not None:
        write_cross_encoder_files(model.config, folder, file_name=None, max_length=None, prompts=encoder.prompts)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tokenizer, but not what its last call asked for, so that transformers 4 and 5 load it alike."""
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # A class of transformers 5 that makes its own normalizer would lose the lower-casing that was put before it.
    is_lower_cased = tokenizer.is_fast and [part["type"] for part in _normalizers_of(tokenizer)][:1] == ["Lowercase"]
    if is_lower_cased or config.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast"):  # 5's, 4's
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        # By default 4 has token types among them, which some models refuse, and 5 has none.
        config.setdefault("model_input_names", list(tokenizer.model_input_names))
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
