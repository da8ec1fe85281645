"""ORT format, for builds of ONNX Runtime that hold a few operators alone, as phones' and microcontrollers' do.

https://onnxruntime.ai/docs/performance/model-optimizations/ort-format-models.html
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from homoexport.errors import HomoexportError
from homoexport.lock import scratch_folder
from homoexport.stages.export.quiet import quiet

MODEL_NAME = "model.ort"
OPERATORS_NAME = "required_operators.config"

_WARNINGS, _ERRORS = 2, 3  # onnxruntime's severities, of which the first is its default


def write_ort_format(model_file: Path, folder: Path, *, arm: bool) -> None:
    """Write a graph in ORT format, optimized for ARM or x86, and the operators and types that a build needs for it."""
    with scratch_folder() as work, quiet():
        from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

        ort.set_default_logger_severity(_ERRORS)  # or it warns that such a graph is for one kind of processor
        try:
            convert_onnx_models_to_ort(
                model_file,
                output_dir=work,
                optimization_styles=[OptimizationStyle.Fixed],
                target_platform="arm" if arm else "amd64",
                enable_type_reduction=True,
            )
        except Exception as error:  # it raises what its many parts raise
            told = " ".join(str(error).split())
            raise HomoexportError(f"onnxruntime cannot convert the graph to ORT format ({told})") from error
        finally:
            ort.set_default_logger_severity(_WARNINGS)
        (converted,) = work.glob("*.ort")
        (operators,) = work.glob("*.config")
        (folder / MODEL_NAME).write_bytes(converted.read_bytes())
        lines = [line for line in operators.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        (folder / OPERATORS_NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")
