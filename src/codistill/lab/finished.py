"""What has finished of an arm: the results of its peers, seed by seed."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from codistill.lab import methods, results
from codistill.lab.folder import RunFolder
from codistill.lab.recipe import Recipe
from codistill.lab.results import Evaluation, PeerResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What an arm has cost, mean over seeds."""

    samples: float
    """Samples trained on, over all peers."""
    teacher_samples: float
    """Samples that went through teachers, once for each teacher, over all peers."""
    seconds: float
    """Time in the training loop, of the slowest peer."""

    @property
    def passes(self) -> float:
        """Forward and backward passes in forwards of a sample: a forward counts 1, a backward 2."""
        return 3 * self.samples + self.teacher_samples

    def and_before(self, earlier: "Cost") -> "Cost":
        """Return the sum with what had to be trained before."""
        return Cost(
            samples=self.samples + earlier.samples,
            teacher_samples=self.teacher_samples + earlier.teacher_samples,
            seconds=self.seconds + earlier.seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """An arm and the seeds that it has finished; a seed counts when all its peers have finished."""

    arm: Recipe
    """Its recipe."""
    seeds: Mapping[int, tuple[PeerResult, ...]]
    """The results of all peers in order of their names, by seed; at least one seed."""

    @property
    def everyone(self) -> list[PeerResult]:
        """The results of all peers of all seeds."""
        return [peer for peers in self.seeds.values() for peer in peers]

    @property
    def has_teachers(self) -> bool:
        """Whether any of its models is to have a teacher."""
        return any(peer.teacher_share is not None for peer in self.everyone)

    @property
    def cost(self) -> Cost:
        """What it has cost by itself."""
        seeds = self.seeds.values()
        return Cost(
            samples=statistics.fmean(sum(peer.samples for peer in peers) for peers in seeds),
            teacher_samples=statistics.fmean(sum(peer.teacher_samples for peer in peers) for peers in seeds),
            seconds=statistics.fmean(max(peer.seconds for peer in peers) for peers in seeds),
        )


def find_finished(folder: RunFolder, arm: Recipe) -> Finished | None:
    """Return what has finished of an arm; None if no seed has.

    Raises:
        ValueError: If a result cannot be read; the file and field are named.
    """
    models = len(methods.method(arm.method).plan(arm).peers)
    found = {
        seed: tuple(folder.result(arm.label, seed, peer) for peer in folder.peers(arm.label, seed))
        for seed in folder.seeds
    }
    seeds = {seed: peers for seed, peers in found.items() if len(peers) == models}
    return Finished(arm=arm, seeds=seeds) if seeds else None


def last_rows(folder: RunFolder, finished: Finished) -> list[tuple[str, Evaluation]]:
    """Return the last evaluation of every peer of every seed, with the peer's name; those that left any."""
    found = []
    for seed, peers in finished.seeds.items():
        for peer in peers:
            path = folder.peer_path(finished.arm.label, seed, peer.peer) / results.METRICS
            last = results.load_last_evaluation(path) if path.exists() else None
            if last is not None:
                found.append((peer.peer, last))
    return found
