"""Measuring: the shipped file, in a clean process, in turns with what it is compared to."""

from homoexport.stages.measure.browsers import as_chosen, is_browser, left_open
from homoexport.stages.measure.compare import compare_results, keeps_pace
from homoexport.stages.measure.counting import count_files, refuse_uncounted
from homoexport.stages.measure.devices import diagnose, list_devices, set_up
from homoexport.stages.measure.extras import Extras
from homoexport.stages.measure.intervals import mean_interval, percentile_intervals
from homoexport.stages.measure.measurement import (
    FileFigures,
    check_measurement,
    check_packages,
    measure_packages,
    rank_files,
    rank_runs,
    time_files,
)
from homoexport.stages.measure.noise import quiet_rounds
from homoexport.stages.measure.targets import cache_folder, find_target, is_plain_cpu, refuse_runtime
from homoexport.stages.measure.there import answers_of_file, host_of

__all__ = [
    "Extras",
    "FileFigures",
    "answers_of_file",
    "as_chosen",
    "cache_folder",
    "check_measurement",
    "check_packages",
    "compare_results",
    "count_files",
    "diagnose",
    "find_target",
    "host_of",
    "is_browser",
    "is_plain_cpu",
    "keeps_pace",
    "left_open",
    "list_devices",
    "mean_interval",
    "measure_packages",
    "percentile_intervals",
    "quiet_rounds",
    "rank_files",
    "rank_runs",
    "refuse_runtime",
    "refuse_uncounted",
    "set_up",
    "time_files",
]
