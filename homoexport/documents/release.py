"""A package held against the one that is in use already: whether it is slower, bigger or worse than is allowed."""

from __future__ import annotations

from typing import ClassVar, Literal

from homoexport.documents.budget import QUALITY_LINE
from homoexport.documents.document import Document, Figures
from homoexport.documents.measurement import Interval

INSTRUCTIONS = "instructions"  # the line of a device whose times are an emulator's
ReleaseVerdict = Literal["kept", "worse", "undecided"]


class ReleaseLine(Figures):
    """One figure of both packages.

    `ratio` is the package's over the baseline's, with its interval (99 % of a latency, 95 % of a quality, none of what
    is counted); faithfulness to the baseline, of the baseline itself, is 1. `kept` is None where the interval lies on
    both sides of what is `allowed`, or the two cannot be compared.
    """

    line: str
    baseline: float
    package: float
    ratio: float
    interval: Interval | None
    allowed: float
    kept: bool | None

    @property
    def at_least(self) -> bool:
        """Whether `allowed` is a limit from below, as of quality."""
        return self.line.startswith(QUALITY_LINE)


class Release(Document):
    """Both packages under one condition, and the verdict on the newer one.

    `broken` says what makes it worse without a figure: it does not fit, or answers otherwise on the device than here.
    """

    VERSION: ClassVar[str] = "1.0"

    verdict: ReleaseVerdict
    baseline: str
    package: str
    device: str
    threads: int
    batch_size: int
    length: int
    lines: tuple[ReleaseLine, ...]
    broken: tuple[str, ...]
    remarks: tuple[str, ...]


def verdict_on(lines: tuple[ReleaseLine, ...], broken: tuple[str, ...]) -> ReleaseVerdict:
    """`worse` where one line says so, else `undecided` where one cannot be called."""
    found = [line.kept for line in lines]
    if broken or False in found:
        return "worse"
    return "undecided" if None in found else "kept"
