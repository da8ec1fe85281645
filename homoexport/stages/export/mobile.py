"""ORT format, for builds of ONNX Runtime that hold a few operators alone, as phones' and microcontrollers' do.

https://onnxruntime.ai/docs/performance/model-optimizations/ort-format-models.html
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnxruntime as ort

from homoexport.errors import HomoexportError

MODEL_NAME = "model.ort"
OPERATORS_NAME = "required_operators.config"

_WARNINGS, _ERRORS = 2, 3  # onnxruntime's severities, of which the first is its default


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The converter prints its progress, leaves files for Python to close, and has the root logger print everything.

    onnxruntime warns that a graph optimized for one kind of processor is for that one.
    """
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, root.manager.disable
    logging.disable(logging.INFO)
    ort.set_default_logger_severity(_ERRORS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            root.removeHandler(handler)
        root.setLevel(level)
        logging.disable(disabled)
        ort.set_default_logger_severity(_WARNINGS)


def write_ort_format(model_file: Path, folder: Path, *, arm: bool) -> None:
    """Write a graph in ORT format, and the list of operators and types that a build needs to run it.

    Args:
        model_file: an ONNX file.
        folder: for `model.ort` and `required_operators.config`; it exists.
        arm: whether the graph is optimized for ARM processors, or for x86.

    Raises:
        HomoexportError: onnxruntime cannot convert it.
    """
    with tempfile.TemporaryDirectory(prefix="homoexport-") as work, _quiet():
        from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

        try:
            convert_onnx_models_to_ort(
                model_file,
                output_dir=Path(work),
                optimization_styles=[OptimizationStyle.Fixed],
                target_platform="arm" if arm else "amd64",
                enable_type_reduction=True,
            )
        except Exception as error:  # it raises what its many parts raise
            told = " ".join(str(error).split())
            raise HomoexportError(f"onnxruntime cannot convert the graph to ORT format ({told})") from error
        (converted,) = Path(work).glob("*.ort")
        (operators,) = Path(work).glob("*.config")
        (folder / MODEL_NAME).write_bytes(converted.read_bytes())
        lines = [line for line in operators.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        (folder / OPERATORS_NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")
