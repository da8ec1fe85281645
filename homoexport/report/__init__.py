"""Reports: a run's figures as a summary, tables, plots, and a page for whoever decides on the release."""

from homoexport.report.markdown import rebuild_report, write_report
from homoexport.report.summary import budget_kept, summarize, verdicts_of
from homoexport.report.tables import measurement_table, summary_table, verdict_lines

__all__ = [
    "budget_kept",
    "measurement_table",
    "rebuild_report",
    "summarize",
    "summary_table",
    "verdict_lines",
    "verdicts_of",
    "write_report",
]
