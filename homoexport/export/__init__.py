"""Students to ONNX packages: a portable graph, its fused and int8 variants, and the measured choice among them."""

from homoexport.export.choose import embeddings_of, schemes_for
from homoexport.export.forms import Form
from homoexport.export.package import export_encoder

__all__ = [
    "Form",
    "embeddings_of",
    "export_encoder",
    "schemes_for",
]
