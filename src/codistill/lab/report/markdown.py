"""A comparison as Markdown, for a README or a log."""

from codistill.lab.comparison import Comparison
from codistill.lab.report.columns import footnotes, headlines, label


def comparison_markdown(comparison: Comparison) -> str:
    """Return the table, the verdicts and the notes as Markdown, with a line break at the end."""
    columns = headlines(comparison)
    heads = ["arm", *(column.label for column in columns)]
    lines = [_line(heads), _line(["---", *("---:" for _ in columns)])]
    for row in comparison.rows:
        lines.append(
            _line(
                [f"`{row.arm}`{label(row).removeprefix(row.arm)}", *(column.cell(row) for column in columns)]
            )
        )
    lines.append("")
    lines += [f"- {verdict.sentence()}" for verdict in comparison.verdicts]
    lines += (
        ["", " ".join(footnotes(comparison))] if comparison.verdicts else [" ".join(footnotes(comparison))]
    )
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
