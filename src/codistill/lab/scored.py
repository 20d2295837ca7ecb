"""What an arm scores on the test set, seed by seed: what a row shows and a claim is judged by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from codistill import metrics
from codistill.lab import intervals
from codistill.lab.evaluation import Scores
from codistill.lab.finished import Finished
from codistill.lab.folder import RunFolder
from codistill.lab.kept_scores import Floats, KeptScores, ensemble
from codistill.lab.results import PeerResult

BySeed = Mapping[int, float]
ByPair = Mapping[tuple[int, int], float]
"""By two seeds, the one that comes first in the folder first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The scores of one model of an arm, or of an ensemble; seeds without a score are left out."""

    accuracy: BySeed = field(default_factory=dict)
    """Share of right answers."""
    nll: BySeed = field(default_factory=dict)
    """Mean negative log-likelihood, in nats."""
    calibration_error: BySeed = field(default_factory=dict)
    """Expected calibration error."""
    further: Mapping[str, BySeed] = field(default_factory=dict)
    """Further scores by name."""
    churn: ByPair = field(default_factory=dict)
    """Share of positions at which two retrainings find different classes likeliest."""
    difference: ByPair = field(default_factory=dict)
    """Mean absolute difference between the probabilities of two retrainings."""

    def of(self, metric: str) -> BySeed:
        """Return the scores that a claim is about, by seed.

        Args:
            metric: A name of `codistill.lab.claims.metric` that is no mean over pairs.
        """
        name = metric.removeprefix("test_")
        return {"accuracy": self.accuracy, "nll": self.nll}.get(name, self.further.get(name, {}))

    def of_pairs(self, metric: str) -> ByPair:
        """Return the values of pairs of seeds that a claim is about: those of "churn" or "difference"."""
        return self.churn if metric == "churn" else self.difference


def score_first_peer(folder: RunFolder, finished: Finished) -> Scored:
    """Return the scores of the first peer: the model that a user would ship."""
    first = {seed: peers[0] for seed, peers in finished.seeds.items()}
    kept = {seed: _load(folder, finished, seed, peer) for seed, peer in first.items()}
    names = dict.fromkeys(name for peer in first.values() for name in peer.further)
    churn, difference = _compare_pairs({seed: one for seed, one in kept.items() if one is not None})
    return Scored(
        accuracy=_present({seed: peer.test_accuracy for seed, peer in first.items()}),
        nll=_present({seed: peer.test_nll for seed, peer in first.items()}),
        calibration_error=_present({seed: peer.test_calibration_error for seed, peer in first.items()}),
        further={
            name: {seed: peer.further[name] for seed, peer in first.items() if name in peer.further}
            for name in names
        },
        churn=churn,
        difference=difference,
    )


def score_ensemble(folder: RunFolder, finished: Finished) -> Scored | None:
    """Return the scores of the mean of the probabilities of all peers; None where there are none.

    None, too, where a model has left no scores, or others' right answers, as in a search.
    """
    joint = {}
    for seed, peers in finished.seeds.items():
        members = [_load(folder, finished, seed, peer) for peer in peers]
        found = [member for member in members if member is not None]
        mean = ensemble(found) if len(found) == len(peers) > 1 else None
        if mean is not None:
            joint[seed] = mean
    if not joint:
        return None
    churn, difference = _compare_pairs(joint)
    return Scored(
        accuracy={seed: one.accuracy for seed, one in joint.items() if _has_labels(one)},
        nll={seed: one.nll for seed, one in joint.items()},
        calibration_error={
            seed: _calibration_error(one.whole, one) for seed, one in joint.items() if one.whole is not None
        },
        churn=churn,
        difference=difference,
    )


def pseudo_values(pairs: ByPair) -> list[float]:
    """Return the jackknife pseudo-values of a mean over pairs, one a seed; none if a pair is missing.

    See `codistill.lab.intervals.pair_pseudo_values`.
    """
    seeds = sorted({seed for pair in pairs for seed in pair})
    values = {**pairs, **{(b, a): value for (a, b), value in pairs.items()}, **{(s, s): 0.0 for s in seeds}}
    if len(values) < len(seeds) ** 2:
        return []
    return intervals.pair_pseudo_values([[values[one, other] for other in seeds] for one in seeds])


def _load(folder: RunFolder, finished: Finished, seed: int, peer: PeerResult) -> KeptScores | None:
    return KeptScores.load(folder.peer_path(finished.arm.label, seed, peer.peer))


def _has_labels(kept: KeptScores) -> bool:
    """Return whether the likeliest classes are known: of ensembles over many classes they are not."""
    return not bool(np.any(kept.labels < 0))


def _calibration_error(whole: Floats, kept: KeptScores) -> float:
    log_probabilities = torch.from_numpy(whole)
    return Scores(
        accuracy=kept.accuracy,
        nll=kept.nll,
        targets=torch.from_numpy(kept.targets),
        labels=torch.from_numpy(kept.labels),
        confidences=log_probabilities.amax(dim=1).exp().clamp(max=1.0),
        target_log_probabilities=torch.from_numpy(kept.of_targets),
        log_probabilities=log_probabilities,
    ).calibration_error()


def _compare_pairs(kept: Mapping[int, KeptScores]) -> tuple[dict[tuple[int, int], float], ...]:
    """Return churn and mean absolute difference of every two seeds that were scored on the same positions.

    Pairs are compared here and not where they are used, so that only one arm's probabilities are held at a
    time: those of a language model take tens of megabytes a seed.
    """
    churn, difference = {}, {}
    seeds: Sequence[int] = list(kept)
    for i, one in enumerate(seeds):
        for other in seeds[i + 1 :]:
            a, b = kept[one], kept[other]
            if not np.array_equal(a.targets, b.targets):
                continue
            if _has_labels(a) and _has_labels(b):
                churn[one, other] = float(np.mean(a.labels != b.labels))
            if a.whole is not None and b.whole is not None:
                difference[one, other] = metrics.mean_absolute_difference(
                    *(torch.from_numpy(whole).exp().clamp(max=1.0) for whole in (a.whole, b.whole))
                )
    return churn, difference


def _present(values: Mapping[int, float | None]) -> dict[int, float]:
    return {seed: value for seed, value in values.items() if value is not None}
