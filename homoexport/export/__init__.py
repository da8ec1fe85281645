"""Students to ONNX packages: a portable graph, its fused and int8 variants, and the measured choice among them."""

from homoexport.export.choose import embeddings_of, schemes_for
from homoexport.export.forms import Form
from homoexport.export.package import export_encoder
from homoexport.export.quantize import Embeddings, Scheme
from homoexport.plan.template import Templates, refuse_blocks
from homoexport.sample_text import SAMPLE_TEXT

__all__ = [
    "SAMPLE_TEXT",
    "Embeddings",
    "Form",
    "Scheme",
    "Templates",
    "embeddings_of",
    "export_encoder",
    "refuse_blocks",
    "schemes_for",
]
