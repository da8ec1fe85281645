"""Students to ONNX packages: a portable graph, its fused and int8 variants, and the measured choice among them."""

from homoexport.export.forms import Form
from homoexport.export.package import export_encoder

__all__ = [
    "Form",
    "export_encoder",
]
