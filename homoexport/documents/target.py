"""What is known of a target before anything is measured on it."""

from __future__ import annotations

from homoexport.documents.document import Figures


class TargetHost(Figures):
    """A target's processor and runtime.

    Attributes:
        is_here: whether they are this machine's, with the same kernels.
        emulated: whether an emulator stands for the device.
        provider: onnxruntime's, such as `CPUExecutionProvider`.
        cpu: name of the processor.
        x86: whether it is an x86 processor.
        instruction_sets: of the processor, as `homoexport.host` names them.
        runtime: version of onnxruntime there.
        cores: how many may be used.
    """

    is_here: bool
    emulated: bool
    provider: str
    cpu: str
    x86: bool
    instruction_sets: tuple[str, ...]
    runtime: str = ""
    cores: int = 0
