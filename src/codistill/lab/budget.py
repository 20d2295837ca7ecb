"""Give all arms of a comparison as much of something: updates, compute, samples, seconds or bytes."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from codistill.lab import experiment, folder, methods, results
from codistill.lab.folder import RunFolder
from codistill.lab.launch import LaunchOptions
from codistill.lab.recipe import Recipe
from codistill.lab.results import Evaluation
from codistill.topologies import Directed, as_topology

Budget = Literal["updates", "compute", "samples", "seconds", "bytes"]

DOCUMENT = "budget.json"
_MEASURED = ("seconds", "bytes")
_LEAST_UPDATES = 10
_THIRDS = 3
_SEED = 100
"""Of the runs that are measured: none of the comparison's."""

_SAYS: Mapping[Budget, str] = {
    "updates": (
        "All arms make as many updates, of as many samples over all models and ranks together. Not equal: "
        "compute, since teachers predict too; bytes; seconds."
    ),
    "compute": (
        "All arms make as many forward and backward passes, those of teachers counted. Not equal: updates, "
        "samples, bytes, seconds."
    ),
    "samples": (
        "All arms train on as many samples, over all models and ranks together. Not equal: compute, bytes, "
        "seconds; updates where arms have other batches."
    ),
    "seconds": (
        "All arms have as many seconds in the training loop, by what a few updates took on this machine, "
        "without what happens once a run. Not equal: updates, samples, compute, bytes."
    ),
    "bytes": (
        "All arms send as many bytes, over all models and ranks together, by what a few updates sent, "
        "without what happens once a run. Not equal: updates, samples, compute, seconds."
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """What each arm may use."""

    kind: Budget
    """What is equal."""
    says: str
    """What is equal and what is not, in a few sentences."""
    arms: tuple[Recipe, ...]
    """The arms with the updates that this leaves them; what has to be trained before comes first."""
    costs: Mapping[str, float]
    """What one update of each arm costs, by label, in passes, samples, seconds or bytes; 1 for updates."""

    def to_document(self) -> dict[str, object]:
        """Return it as JSON can hold it."""
        return {
            "kind": self.kind,
            "says": self.says,
            "arms": {arm.label: arm.updates for arm in self.arms},
            "costs": dict(self.costs),
        }


def allot(
    arms: Sequence[Recipe],
    kind: Budget,
    *,
    options: LaunchOptions,
    measured: Mapping[str, float] | None = None,
) -> Allotment:
    """Return arms that use as much of something as the first one does with its updates.

    Counts of steps that belong to a course (warm-up, burn-in, evaluations) change in proportion. What is
    trained before an arm counts with it where the method says so.

    Args:
        arms: The arms; what has to be trained before them may be among them.
        kind: What is to be equal.
        options: As for `codistill.lab.launch`, for the runs of a few updates by which seconds and bytes are
            measured; these read no test set and leave nothing.
        measured: What an update of some arms cost when it was measured before, by label: measured again it
            would differ, and a comparison that goes on must not.

    Raises:
        JobError: If such a run fails.
    """
    own = _without_earlier(arms)
    costs = {arm.label: 1.0 for arm in own}
    if kind == "compute":
        costs = {arm.label: _passes(arm) for arm in own}
    elif kind == "samples":
        costs = {arm.label: _samples(arm) for arm in own}
    elif kind in _MEASURED:
        measured = measured or {}
        known = {arm.label: measured[arm.label] for arm in own if arm.label in measured}
        costs = {**known, **_measure([arm for arm in own if arm.label not in known], kind, options)}
        costs = {arm.label: costs[arm.label] for arm in own}
    if kind == "updates":
        changed = own
    else:
        total = costs[own[0].label] * own[0].updates
        changed = [
            _with_updates(arm, round(total / costs[arm.label])) if total and costs[arm.label] else arm
            for arm in own
        ]
    return Allotment(
        kind=kind, says=_says(kind, own, costs), arms=experiment.with_earlier(changed), costs=costs
    )


def _says(kind: Budget, arms: Sequence[Recipe], costs: Mapping[str, float]) -> str:
    """Return what is equal and what is not, with the arms that it does not hold for."""
    updates = sorted({arm.updates for arm in arms})
    free = [arm.label for arm in arms if not costs[arm.label]]
    if kind == "updates" and len(updates) > 1:
        said = [f"Each arm makes its own updates, from {updates[0]:,} to {updates[-1]:,}: nothing is equal."]
    elif arms[0].label in free:
        said = [
            f"Nothing is equal but the recipe's updates: {arms[0].label}, whose {kind} all were to have, "
            "uses none."
        ]
    else:
        said = [_SAYS[kind]]
        if free:
            said.append(f"Without any, and with the recipe's updates: {', '.join(free)}.")
    counted: list[str] = []
    uncounted: list[str] = []
    for arm in arms:
        method = methods.method(arm.method)
        earlier = method.earlier(arm)
        if earlier is not None:
            (counted if method.counts_earlier and kind != "updates" else uncounted).append(earlier.label)
    if counted:
        said.append(f"Trained before and counted: {', '.join(counted)}.")
    if uncounted:
        said.append(f"Trained before and not counted: {', '.join(uncounted)}.")
    return " ".join(said)


def _without_earlier(arms: Sequence[Recipe]) -> list[Recipe]:
    earlier = {one.label for arm in arms if (one := methods.method(arm.method).earlier(arm)) is not None}
    return [arm for arm in arms if arm.label not in earlier]


def _with_updates(arm: Recipe, updates: int) -> Recipe:
    """Return an arm with other updates, and with courses of the same form."""
    updates = max(updates, 1)
    share = updates / arm.updates
    return replace(
        arm,
        updates=updates,
        warmup_steps=min(_scaled(arm.warmup_steps, share), updates),
        burn_in_steps=_scaled(arm.burn_in_steps, share),
        evaluate_every=_scaled(arm.evaluate_every, share),
        teacher_updates=None if arm.teacher_updates is None else _scaled(arm.teacher_updates, share),
    )


def _scaled(steps: int, share: float) -> int:
    """Return a share of some steps: none of none, else at least one."""
    return max(1, round(steps * share)) if steps else 0


def _samples(arm: Recipe) -> float:
    """Return the samples of an update over all models and ranks, those of an earlier phase spread over it."""
    method = methods.method(arm.method)
    earlier = method.earlier(arm)
    before = 0.0
    if earlier is not None and method.counts_earlier:
        before = _samples(earlier) * earlier.updates / arm.updates
    return arm.batch_size + before


def _passes(arm: Recipe) -> float:
    """Return the passes of an update: 3 a sample, forward and backward, and 1 a sample and teacher."""
    method = methods.method(arm.method)
    plan, earlier = method.plan(arm), method.earlier(arm)
    passes = 3.0 * arm.batch_size
    if earlier is not None:
        passes += arm.batch_size * earlier.peers
        if method.counts_earlier:
            passes += _passes(earlier) * earlier.updates / arm.updates
    elif method.uses_store and not method.keeps_store:
        topology = Directed(arm.teacher_pairs()) if arm.topology == "directed" else arm.topology
        teachers = as_topology(topology).teachers(plan.peers)
        passes += sum(map(len, teachers.values())) * plan.batch_size * plan.ranks
    return passes


def _measure(arms: Sequence[Recipe], kind: Budget, options: LaunchOptions) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="codistill-budget-") as name:
        costs = {}
        for arm in arms:
            # As many whole intervals as there must be for that many updates.
            third = arm.interval_steps * math.ceil(_LEAST_UPDATES / arm.interval_steps)
            tried = replace(arm, checkpoint_every=None, teacher_updates=None)
            tried = replace(
                _with_updates(tried, _THIRDS * third), warmup_steps=0, burn_in_steps=0, evaluate_every=third
            )
            runs = _try(tried, Path(name) / arm.label, options)
            costs[arm.label] = _cost(tried, runs, kind)
            method = methods.method(arm.method)
            earlier, before = method.earlier(arm), method.earlier(tried)
            if earlier is not None and before is not None and method.counts_earlier:
                costs[arm.label] += _cost(before, runs, kind) * earlier.updates / arm.updates
        return costs


def _try(arm: Recipe, out: Path, options: LaunchOptions) -> RunFolder:
    runs = folder.create(out, arms=experiment.with_earlier([arm]), seeds=[_SEED], command=["budget"])
    experiment.train(runs, options=replace(options, read_test=False, keep_exchange="none", trackers=()))
    return runs


def _cost(arm: Recipe, runs: RunFolder, kind: Budget) -> float:
    """Return what an update costs: the seconds of the slowest model, or the bytes of all."""
    method = methods.method(arm.method)
    plan = method.plan(arm)
    costs = []
    for peer in plan.peers:
        rows = results.load_evaluations(runs.peer_path(arm.label, _SEED, peer) / results.METRICS)
        # The second third of the updates: peers wait for one another in the first and publish once more, and
        # some publish at the very end.
        before, after = rows[0], rows[1]
        spent = [_spent(row, kind, ranks=plan.ranks, is_shared=method.uses_store) for row in (before, after)]
        costs.append((spent[1] - spent[0]) / (after.step - before.step))
    return max(costs) if kind == "seconds" else math.fsum(costs)


def _spent(row: Evaluation, kind: Budget, *, ranks: int, is_shared: bool) -> float:
    """Return what a model has spent so far; rows are of one rank, whose snapshots are of the whole model."""
    if kind == "seconds":
        return row.seconds
    return row.bytes_published * (1 if is_shared else ranks) + row.bytes_all_reduced * ranks
