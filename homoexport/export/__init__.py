"""Students to ONNX packages: a portable graph, its fused and int8 variants, and the measured choice among them."""

from homoexport.export.graph import OUTPUT_NAMES
from homoexport.export.package import export_encoder, max_length_of
from homoexport.sample_text import SAMPLE_TEXT

__all__ = ["OUTPUT_NAMES", "SAMPLE_TEXT", "export_encoder", "max_length_of"]
