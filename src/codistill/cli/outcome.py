"""How a run came out: report, table, verdicts."""

from pathlib import Path

from codistill.cli import output
from codistill.lab.comparison import COMPARISON, read_comparison, to_document
from codistill.lab.report import print_comparison, write_report


def show(folder: Path, *, json: bool) -> None:
    """Write the report of a results folder, and print what it says.

    Args:
        folder: The results.
        json: Print the comparison as JSON, in place of the table.
    """
    report = write_report(folder)
    comparison = read_comparison(folder / COMPARISON)
    if json:
        output.print_json({**to_document(comparison), "report": str(report)})
    else:
        print_comparison(comparison)
        output.print_text(f"Report: {report}")
