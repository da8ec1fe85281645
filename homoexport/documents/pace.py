"""The best pace that a machine was ever seen at, kept in the user's cache."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from homoexport.documents.document import Document


class BestPace(Document):
    """Microseconds that a fixed piece of arithmetic took at the median, at the quietest and fastest time so far.

    `reached_at` is when it was last about as fast, in seconds since the epoch.
    """

    VERSION: ClassVar[str] = "1.0"

    spin_p50_us: Annotated[float, Field(gt=0)]
    reached_at: float
