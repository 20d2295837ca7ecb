"""``codistill reproduce``: how a claim of the papers came out at the scale of a laptop."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from codistill.cli import output, parsing
from codistill.errors import DataMissingError
from codistill.lab import documents, experiments
from codistill.lab.experiments import finding as findings
from codistill.lab.experiments import page
from codistill.lab.experiments.base import Experiment
from codistill.lab.experiments.reproduction import RUNS, reproduce
from codistill.lab.launch import LaunchOptions
from codistill.lab.report import print_comparison, write_report

ClaimWord = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="CLAIM")]]

FINDING = "finding.json"


def run(arguments: Sequence[str]) -> None:
    """Run the verb."""
    if arguments:
        parsing.call(show, arguments, verb="reproduce")
        return
    rows = [
        (one.name, one.arms[0].task, *verdict)
        for one in map(experiments.experiment, experiments.names())
        for verdict in _verdicts(one)
    ]
    columns = ("experiment", "task", "claim", "says", "came out")
    output.print_table(dict.fromkeys(columns, "left"), rows)
    output.print_text(
        "One with its numbers: codistill reproduce S1-S3-KL. S3 alone means the first that has it."
    )


def _verdicts(experiment: Experiment) -> list[tuple[str, str, str]]:
    """Return claim, what it says and how it came out."""
    finding = findings.committed(experiment)
    if finding is None:
        return [("-", experiment.says, "not run")]
    return [(one.name, one.says, one.holds or one.outcome) for one in finding.comparison.verdicts]


def show(
    claim: ClaimWord,
    /,
    *,
    anew: bool = False,
    out: Path | None = None,
    data_root: Path | None = None,
    device: str = "auto",
    cores: int | None = None,
    json: bool = False,
) -> None:
    """Show how a claim of the papers came out here, or run its experiment anew; without a claim, list them.

    Args:
        claim: Row of the papers' experiments, such as S3.
        anew: Search, train and judge here, or finish what an earlier call began.
        out: Folder for that; runs/reproduce- and the experiment's name if not given.
        data_root: Folder that holds the data sets' folders; $CODISTILL_DATA, else ./data, if not given.
        device: Where models live: "auto", "cpu", "cuda", or another device of torch.
        cores: Cores to use; all if not given.
        json: Print the finding as JSON.
    """
    experiment = experiments.experiment(claim)
    if anew:
        out = out or Path("runs") / f"reproduce-{experiment.name}"
        with output.bars() as progress:
            reproduce(
                experiment,
                out=out,
                options=LaunchOptions(data_root=data_root, device=device, cores=cores),
                on_progress=progress,
            )
        finding = findings.find(experiment, out)
        documents.write_json(out / FINDING, findings.to_document(finding, name=experiment.name))
        write_report(out / RUNS)
    else:
        known = findings.committed(experiment)
        if known is None:
            raise DataMissingError(
                f"{experiment.name} must have been run to be shown, and no result comes with this version. "
                "Pass --anew to run it here."
            )
        finding = known
    if json:
        output.print_json(findings.to_document(finding, name=experiment.name))
        return
    for paragraph in page.describe(experiment):
        output.print_text(f"{paragraph}\n")
    print_comparison(finding.comparison)
    output.print_text(page.describe_finding(finding))
    if anew and out is not None:
        output.print_text(f"Report: {out / RUNS / 'report.html'}")
