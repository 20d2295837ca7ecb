"""The folder that a run leaves its results in.

::

    <out>/run.json                              arms, seeds, command, versions, machine; marks it as ours
    <out>/<arm>/seed-<s>/<peer>/metrics.jsonl   one row an evaluation
    <out>/<arm>/seed-<s>/<peer>/result.json     written when the peer has finished
    <out>/<arm>/seed-<s>/<peer>/test_scores.npy log-probabilities on the test set
    <out>/<arm>/seed-<s>/<peer>/test_targets.npy the right classes of the test set
    <out>/<arm>/seed-<s>/<peer>/checkpoint.pt   for resuming
    <out>/<arm>/seed-<s>/exchange/              the store of codistilling peers, unless they meet elsewhere
    <out>/<arm>/logs/<peer>.log                 what the job of a peer printed
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from codistill.errors import RunExistsError
from codistill.lab import documents, provenance, recipe, results
from codistill.lab.recipe import Recipe

FORMAT = 1
KIND = "codistill results"
MARK = "run.json"

IfExists = Literal["refuse", "overwrite", "resume"]

_NAME_RESULTS = "Name what codistill demo or codistill train left."
_NAME_ANOTHER = "Name another folder; this one is left as it is."


class RunFolder:
    """A results folder: where things are, and what is there.

    Attributes:
        path: The folder.
        arms: Resolved recipe of each arm, in order: labelled, its seed the first of ``seeds``.
        seeds: Seeds that each arm is trained with.
        document: What ``run.json`` holds.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the folder of an earlier run.

        Raises:
            RunExistsError: If it is not a results folder of codistill, or of a newer format.
            RecipeError: If a recipe in ``run.json`` cannot be read.
        """
        self.path = Path(path)
        self.document = _read_mark(self.path, argument="folder", next_step=_NAME_RESULTS)
        where = str(self.path / MARK)
        self.arms = tuple(recipe.from_document(arm, where=where) for arm in self.document["arms"])
        self.seeds = tuple(int(seed) for seed in self.document["seeds"])

    def seed_path(self, arm: str, seed: int) -> Path:
        """Return the folder of one arm trained with one seed."""
        return self.path / arm / f"seed-{seed}"

    def peer_path(self, arm: str, seed: int, peer: str) -> Path:
        """Return the folder of one peer."""
        return self.seed_path(arm, seed) / peer

    def exchange_path(self, arm: str, seed: int) -> Path:
        """Return the folder of the store that the peers of one run share."""
        return self.seed_path(arm, seed) / "exchange"

    def logs_path(self, arm: str) -> Path:
        """Return the folder of what the jobs of an arm printed."""
        return self.path / arm / "logs"

    def peers(self, arm: str, seed: int) -> tuple[str, ...]:
        """Return the names of the peers that have finished, sorted."""
        found = self.seed_path(arm, seed).glob(f"*/{results.RESULT}")
        return tuple(sorted(path.parent.name for path in found))

    def result(self, arm: str, seed: int, peer: str) -> results.PeerResult:
        """Return what came of a peer that has finished.

        Raises:
            OSError: If it has not.
            ValueError: If its result cannot be read.
        """
        return results.load_result(self.peer_path(arm, seed, peer) / results.RESULT)

    def results(self) -> list[results.PeerResult]:
        """Return the results of all peers that have finished, by arm, seed and peer in order."""
        return [
            self.result(arm.label, seed, peer)
            for arm in self.arms
            for seed in self.seeds
            for peer in self.peers(arm.label, seed)
        ]


def create(
    path: str | Path,
    *,
    arms: Sequence[Recipe],
    seeds: Sequence[int],
    command: Sequence[str],
    if_exists: IfExists = "refuse",
) -> RunFolder:
    """Make a results folder, or take over one that is there, and check that it can be written.

    Args:
        path: The folder; missing parents are made.
        arms: What will be trained; labels must differ.
        seeds: Seeds that each arm is trained with.
        command: The command line, for the record.
        if_exists: What to do about an earlier run: "refuse" it, "overwrite" it (delete everything in
            the folder first), or "resume" it: arms and seeds may be added then, not changed.

    Raises:
        RunExistsError: If the folder has an earlier run and that is refused, or anything else in it.
        ValueError: If two arms have one label, or there are no arms or seeds.
        OSError: If the folder cannot be made or written.
    """
    _check_plan(arms, seeds)
    path = Path(path)
    origin: dict[str, Any] = {
        "command": list(command),
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "resumed_with": [],
    }
    arms = [replace(arm, arm=arm.label, seed=seeds[0]) for arm in arms]
    if path.is_dir() and any(path.iterdir()):
        earlier = _take_over(path, if_exists)
        if earlier is not None:
            _check_same_arms(path, earlier.arms, arms)
            labels = {arm.label for arm in earlier.arms}
            arms = [*earlier.arms, *(arm for arm in arms if arm.label not in labels)]
            seeds = tuple(dict.fromkeys((*earlier.seeds, *seeds)))
            arms = [replace(arm, seed=seeds[0]) for arm in arms]
            origin = _resumed(earlier.document, origin)
    document = {
        "format": FORMAT,
        "kind": KIND,
        **origin,
        "arms": [recipe.to_document(arm) for arm in arms],
        "seeds": list(seeds),
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        documents.write_json(path / MARK, document)
    except OSError as e:
        raise OSError(
            f"out must be a folder that can be made and written, got {path} ({e.strerror}). "
            "Name another folder."
        ) from e
    return RunFolder(path)


def _resumed(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return where the results come from: from the first command, and from those that went on with it."""
    later = {field: now[field] for field in ("command", "versions")}
    return {
        **{field: earlier[field] for field in ("command", "versions", "machine") if field in earlier},
        "resumed_with": [*earlier["resumed_with"], later],
    }


def _check_plan(arms: Sequence[Recipe], seeds: Sequence[int]) -> None:
    labels = [arm.label for arm in arms]
    if not labels or len(set(labels)) != len(labels):
        raise ValueError(f"arms must be one or more, each with a label of its own, got {labels}.")
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must be one or more different numbers >= 0, got {list(seeds)}.")


def _take_over(path: Path, if_exists: IfExists) -> RunFolder | None:
    """Deal with what a folder holds; return the earlier run if it is to be gone on with."""
    if if_exists == "refuse" and (path / MARK).exists():
        raise RunExistsError(
            f"out must be a new folder, got {path}, which holds an earlier run. "
            "Pass --resume to finish it, or --overwrite to delete it and start again."
        )
    _read_mark(path, argument="out", next_step=_NAME_ANOTHER)
    if if_exists == "resume":
        return RunFolder(path)
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return None


def _check_same_arms(path: Path, earlier: Sequence[Recipe], arms: Sequence[Recipe]) -> None:
    asked = {arm.label: recipe.to_document(arm) for arm in arms}
    for arm in earlier:
        if arm.label not in asked:
            continue
        for field, before in recipe.to_document(arm).items():
            now = asked[arm.label][field]
            if field != "seed" and now != before:
                raise RunExistsError(
                    f"{field} must be as in the run that is resumed, {before!r}, got {now!r} for arm "
                    f"{arm.label!r} of {path}. Pass the same options, or --overwrite to start again."
                )


def _read_mark(path: Path, *, argument: str, next_step: str) -> dict[str, Any]:
    if not (path / MARK).is_file():
        raise RunExistsError(
            f"{argument} must be a results folder of codistill, got {path}, which has no {MARK}. {next_step}"
        )
    document = documents.read_json(path / MARK)
    if not isinstance(document, Mapping) or document.get("kind") != KIND:
        raise RunExistsError(
            f"{argument} must be a results folder of codistill, got {path}, whose {MARK} is something else. "
            f"{next_step}"
        )
    if document.get("format") != FORMAT:
        raise RunExistsError(
            f"{path / MARK} must have format {FORMAT}, got {document.get('format')!r}. "
            "Use the version of codistill that wrote it."
        )
    # Absent in folders that were made before it was recorded.
    document = {"resumed_with": [], **document}
    for field in ("arms", "seeds", "command", "resumed_with"):
        if not isinstance(document.get(field), list):
            raise RunExistsError(f"{path / MARK} must list {field}, got {document.get(field)!r}.")
    for later in document["resumed_with"]:
        if not isinstance(later, Mapping) or not isinstance(later.get("command"), list):
            raise RunExistsError(f"{path / MARK} must list a command in each resumed_with, got {later!r}.")
    return document
