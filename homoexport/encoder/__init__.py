"""Teachers and students: loading, layouts of model families, slicing."""

from homoexport.encoder.families import family_of, supported_model_types
from homoexport.encoder.layout import Family, Layout, Slot, Taps, Widths
from homoexport.encoder.loading import (
    Encoder,
    Pooling,
    Task,
    load_encoder,
    parent_of,
    resolve_folder,
    save_encoder,
    weights_digest,
    write_sentence_files,
)
from homoexport.encoder.shape import count_parameters, target_widths
from homoexport.encoder.slicing import Keep, LayerKeep, slice_model

__all__ = [
    "Encoder",
    "Family",
    "Keep",
    "LayerKeep",
    "Layout",
    "Pooling",
    "Slot",
    "Taps",
    "Task",
    "Widths",
    "count_parameters",
    "family_of",
    "load_encoder",
    "parent_of",
    "resolve_folder",
    "save_encoder",
    "slice_model",
    "supported_model_types",
    "target_widths",
    "weights_digest",
    "write_sentence_files",
]
