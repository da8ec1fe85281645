"""Reports: a run's figures as a summary, tables, plots, and a page for whoever decides on the release."""

from homoexport.report.bench import write_bench_report
from homoexport.report.compared import compared, comparison_notes, comparison_table, write_comparison
from homoexport.report.exported import candidate_table, export_lines
from homoexport.report.judged import (
    evaluation_notes,
    evaluation_table,
    finetuned_table,
    write_evaluation_report,
    write_finetuned_report,
)
from homoexport.report.measured import (
    change_table,
    device_table,
    gate_lines,
    grid_table,
    measurement_remarks,
    measurement_table,
    need_lines,
)
from homoexport.report.outlook import outlook_table, row_lines, time_in_words
from homoexport.report.planned import plan_lines, plan_table, plan_tables, write_plan_report
from homoexport.report.released import release_lines, release_page, release_table
from homoexport.report.run import summary_table, write_report
from homoexport.report.side_by_side import names_of, side_by_side_notes, side_by_side_table, write_side_by_side
from homoexport.report.verdicts import next_steps
from homoexport.report.wording import verdict_lines

__all__ = [
    "candidate_table",
    "change_table",
    "compared",
    "comparison_notes",
    "comparison_table",
    "device_table",
    "evaluation_notes",
    "evaluation_table",
    "export_lines",
    "finetuned_table",
    "gate_lines",
    "grid_table",
    "measurement_remarks",
    "measurement_table",
    "names_of",
    "need_lines",
    "next_steps",
    "outlook_table",
    "plan_lines",
    "plan_table",
    "plan_tables",
    "release_lines",
    "release_page",
    "release_table",
    "row_lines",
    "side_by_side_notes",
    "side_by_side_table",
    "summary_table",
    "time_in_words",
    "verdict_lines",
    "write_bench_report",
    "write_comparison",
    "write_evaluation_report",
    "write_finetuned_report",
    "write_plan_report",
    "write_report",
    "write_side_by_side",
]
