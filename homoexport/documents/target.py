"""What is known of a target before anything is measured on it."""

from __future__ import annotations

from homoexport.documents.document import Figures


class TargetHost(Figures):
    """A target's processor and runtime; `is_here`: they are this machine's, with the same kernels."""

    is_here: bool
    emulated: bool  # an emulator stands for the device
    provider: str  # onnxruntime's, such as `CPUExecutionProvider`
    cpu: str
    x86: bool
    instruction_sets: tuple[str, ...]  # as `homoexport.host` names them
    runtime: str = ""  # version of onnxruntime there
    cores: int = 0  # that may be used
