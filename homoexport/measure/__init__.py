"""Measuring: the shipped file, in a clean process, in turns with what it is compared to."""

from homoexport.measure.measurement import (
    Comparison,
    Measurement,
    PackageFigures,
    check_measurement,
    measure_packages,
    rank_files,
)

__all__ = ["Comparison", "Measurement", "PackageFigures", "check_measurement", "measure_packages", "rank_files"]
