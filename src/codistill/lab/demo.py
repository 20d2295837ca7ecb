"""The demo: train its arms."""

from codistill.lab import experiment
from codistill.lab.folder import RunFolder
from codistill.lab.launch import LaunchOptions, OnProgress


def train_demo(folder: RunFolder, *, device: str = "auto", on_progress: OnProgress | None = None) -> None:
    """Train every arm of a results folder with each of its seeds; what is there already is kept.

    Of each arm the peers' store is kept for the first seed only.

    Args:
        folder: Made by `codistill.lab.folder.create`, with `codistill.lab.recipes.demo.arms` or others.
        device: As for `LaunchOptions`.
        on_progress: Called with the label of an arm, its updates done, and its updates in all.

    Raises:
        JobError: If a job fails.
    """
    experiment.train(
        folder, options=LaunchOptions(device=device, keep_exchange="first"), on_progress=on_progress
    )
