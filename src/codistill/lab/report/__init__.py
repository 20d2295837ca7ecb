"""Show a comparison: as a web page of one file, in the terminal, as Markdown."""

from codistill.lab.report.markdown import comparison_markdown
from codistill.lab.report.page import write_report
from codistill.lab.report.terminal import print_comparison

__all__ = ["comparison_markdown", "print_comparison", "write_report"]
