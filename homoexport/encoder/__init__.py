"""Teachers and students: loading, layouts of model families, slicing."""

from homoexport.documents.package import Pooling
from homoexport.encoder.answers import input_names, max_length_of, outputs_of, pool, pooled, torch_answers
from homoexport.encoder.behind import behind_states
from homoexport.encoder.cross_encoder import write_cross_encoder_files
from homoexport.encoder.dense import Dense
from homoexport.encoder.families import family_of, supported_model_types, traits_of
from homoexport.encoder.layout import Family, Group, Layout, Slot, Window
from homoexport.encoder.loading import (
    Encoder,
    encoder_of,
    load_classifier,
    load_encoder,
    parent_of,
    resolve_folder,
    save_encoder,
    save_tokenizer,
    unused_head,
    weights_digest,
)
from homoexport.encoder.sentence import (
    SENTENCE_SETTINGS,
    files_of,
    read_sentence_settings,
    write_sentence_files,
)
from homoexport.encoder.shape import count_parameters, parameter_counts, parameters_at, start_from_scratch
from homoexport.encoder.slicing import Keep, slice_model

__all__ = [
    "SENTENCE_SETTINGS",
    "Dense",
    "Encoder",
    "Family",
    "Group",
    "Keep",
    "Layout",
    "Pooling",
    "Slot",
    "Window",
    "behind_states",
    "count_parameters",
    "encoder_of",
    "family_of",
    "files_of",
    "input_names",
    "load_classifier",
    "load_encoder",
    "max_length_of",
    "outputs_of",
    "parameter_counts",
    "parameters_at",
    "parent_of",
    "pool",
    "pooled",
    "read_sentence_settings",
    "resolve_folder",
    "save_encoder",
    "save_tokenizer",
    "slice_model",
    "start_from_scratch",
    "supported_model_types",
    "torch_answers",
    "traits_of",
    "unused_head",
    "weights_digest",
    "write_cross_encoder_files",
    "write_sentence_files",
]
