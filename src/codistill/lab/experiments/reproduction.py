"""Run an experiment: tune its arms, train them, judge its claims; go on where an earlier call stopped."""

import sys
from dataclasses import replace
from pathlib import Path

from codistill.lab import documents, folder
from codistill.lab import experiment as training
from codistill.lab.claims import write_claims
from codistill.lab.experiments.base import Experiment
from codistill.lab.folder import RunFolder
from codistill.lab.launch import LaunchOptions, OnProgress
from codistill.lab.recipe import Recipe
from codistill.lab.search import RECORD, search_arms

SEARCH = "search"
RUNS = "runs"


def reproduce(
    experiment: Experiment,
    *,
    out: Path,
    options: LaunchOptions | None = None,
    on_progress: OnProgress | None = None,
) -> RunFolder:
    """Tune and train all arms of an experiment, and read the test set once, at the end of each run.

    Args:
        experiment: What to run.
        out: Folder for the search and the runs; what an interrupted call left there is used.
        options: As for `codistill.lab.launch`; no stores are kept.
        on_progress: Called with the label of an arm, its updates done, and its updates in all.

    Returns:
        The folder of the runs, which also holds the claims: `codistill.lab.compare.compare` judges them.

    Raises:
        DataMissingError, ExtraMissingError: As for `codistill.lab.launch.check`.
        JobError: If a run fails.

    **Blocks**: until all have finished.

    **On failure**: what has finished stays; a second call goes on from it.
    """
    options = replace(options or LaunchOptions(), keep_exchange="none")
    tuned, record = search_arms(
        experiment.searched, experiment.space, out=out / SEARCH, options=options, on_progress=on_progress
    )
    arms = _settled(experiment, {arm.label: arm for arm in tuned})
    runs = folder.create(
        out / RUNS,
        arms=training.with_earlier(arms),
        seeds=experiment.seeds,
        command=sys.argv,
        if_exists="resume",
    )
    write_claims(runs.path, experiment.claims)
    documents.write_json(runs.path / RECORD, record)
    training.train(runs, options=options, on_progress=on_progress)
    return runs


def _settled(experiment: Experiment, tuned: dict[str, Recipe]) -> list[Recipe]:
    """Return all arms in order, with the settings that were chosen for them or for another."""
    arms = []
    for arm in experiment.arms:
        chosen = tuned[experiment.settings_of.get(arm.label, arm.label)]
        arms.append(replace(arm, learning_rate=chosen.learning_rate, weight_decay=chosen.weight_decay))
    return arms
