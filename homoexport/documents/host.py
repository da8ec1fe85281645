"""The machine that figures come from, as documents keep it."""

from __future__ import annotations

from homoexport.documents.document import Figures
from homoexport.host import describe_host


class Host(Figures):
    """CPU model, instruction sets, cores, memory and operating system of a machine."""

    cpu: str
    architecture: str
    instruction_sets: tuple[str, ...]
    cores: int
    available_cores: int
    memory_mb: int
    system: str

    @classmethod
    def here(cls) -> Host:
        """This machine."""
        return cls(**vars(describe_host()))
