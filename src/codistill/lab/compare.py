"""From a results folder to a table of arms and the verdicts on what was claimed; numbers only."""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codistill.errors import DataMissingError
from codistill.lab import claims, methods, results
from codistill.lab.claims import DEMO_CLAIMS, Claim, Verdict
from codistill.lab.comparison import Comparison, Row
from codistill.lab.folder import RunFolder
from codistill.lab.recipe import Recipe
from codistill.lab.results import PeerResult

FIRST_PEER = "a"
"""The model that an arm is judged by; it is the one a user would ship."""

LEAST_TEACHER_SHARE = 0.5
"""Of the updates of any one model; below it the arm has not been codistilled, say its row and verdicts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scored:
    """What a claim needs of an arm, seed by seed."""

    test_accuracy: Mapping[int, float]
    test_nll: Mapping[int, float]
    labels: Mapping[int, NDArray[np.int64]]


def compare(folder: RunFolder, *, declared: Sequence[Claim] = DEMO_CLAIMS) -> Comparison:
    """Return the table and the verdicts of a results folder.

    A seed counts for an arm when all its peers have finished. Verdicts pair the seeds that both arms
    have; those on churn use the pairs of seeds that both arms have, through
    `codistill.lab.claims.pair_pseudo_values`.

    Args:
        folder: The results; not changed.
        declared: The claims to judge.

    Raises:
        DataMissingError: If no arm has a finished seed.
        ValueError: If a result cannot be read; the file and field are named.
    """
    finished = {arm.label: _finished(folder, arm) for arm in folder.arms}
    plain_samples = _plain_samples(folder.arms, finished)
    rows: list[Row] = []
    scored: dict[str, _Scored] = {}
    for arm in folder.arms:
        seeds = finished[arm.label]
        if not seeds:
            continue
        scored[arm.label] = _score_first_peer(folder, arm.label, seeds)
        rows.append(_row(arm, seeds, scored[arm.label], plain_samples))
        ensemble = _score_ensemble(folder, arm, seeds)
        if ensemble is not None:
            label = f"{arm.label}_ensemble"
            scored[label] = ensemble
            rows.append(_ensemble_row(label, rows[-1], ensemble))
    if not rows:
        raise DataMissingError(
            f"{folder.path} must hold at least one arm that has finished, and it holds none. "
            "Finish the run with --resume."
        )
    not_codistilled = {row.arm for row in rows if row.is_codistilled is False}
    verdicts = tuple(
        _judge(claim, scored[claim.arm], scored[claim.against], not_codistilled)
        for claim in declared
        if claim.arm in scored and claim.against in scored
    )
    return Comparison(rows=tuple(rows), verdicts=verdicts)


def churn_matrix(labels: Sequence[NDArray[np.int64]]) -> list[list[float]]:
    """Return the share of samples on which each two retrainings give different labels.

    Args:
        labels: One [samples] a retraining.

    Returns:
        [n, n], symmetric, zero on the diagonal.
    """
    return [[float(np.mean(one != other)) for other in labels] for one in labels]


def _finished(folder: RunFolder, arm: Recipe) -> dict[int, tuple[PeerResult, ...]]:
    """Return the results of every seed whose peers have all finished."""
    models = len(methods.method(arm.method).plan(arm).peers)
    found = {
        seed: tuple(folder.result(arm.label, seed, peer) for peer in folder.peers(arm.label, seed))
        for seed in folder.seeds
    }
    return {seed: peers for seed, peers in found.items() if len(peers) == models}


def _plain_samples(
    arms: Sequence[Recipe], finished: Mapping[str, Mapping[int, Sequence[PeerResult]]]
) -> float | None:
    """Return the samples that the first all_reduce arm trains on; None if there is no such arm."""
    for arm in arms:
        if arm.method == "all_reduce" and finished[arm.label]:
            return statistics.fmean(_samples(peers) for peers in finished[arm.label].values())
    return None


def _samples(peers: Sequence[PeerResult]) -> int:
    return sum(peer.samples for peer in peers)


def _score_first_peer(folder: RunFolder, arm: str, seeds: Mapping[int, Sequence[PeerResult]]) -> _Scored:
    first = {seed: peers[0] for seed, peers in seeds.items()}
    scores = {seed: _test_scores(folder, arm, seed, peer.peer) for seed, peer in first.items()}
    return _Scored(
        test_accuracy=_present({seed: peer.test_accuracy for seed, peer in first.items()}),
        test_nll=_present({seed: peer.test_nll for seed, peer in first.items()}),
        labels={seed: found.argmax(axis=1) for seed, found in scores.items() if found is not None},
    )


def _score_ensemble(
    folder: RunFolder, arm: Recipe, seeds: Mapping[int, Sequence[PeerResult]]
) -> _Scored | None:
    """Score the mean of the probabilities of models that never met; None where there are none.

    Also None where a model has left no scores or no right answers, as in a search.
    """
    if arm.method != "alone" or arm.peers < 2:
        return None
    accuracy, nll, labels = {}, {}, {}
    for seed, peers in seeds.items():
        members = [_test_scores(folder, arm.label, seed, peer.peer) for peer in peers]
        scores = [member for member in members if member is not None]
        targets = _common_targets([_test_targets(folder, arm.label, seed, peer.peer) for peer in peers])
        if targets is None or [len(member) for member in scores] != [len(targets)] * len(peers):
            continue
        probabilities = np.mean([np.exp(member.astype(np.float64)) for member in scores], axis=0)
        labels[seed] = probabilities.argmax(axis=1)
        accuracy[seed] = float(np.mean(labels[seed] == targets))
        nll[seed] = -float(np.mean(np.log(probabilities[np.arange(len(targets)), targets])))
    return _Scored(test_accuracy=accuracy, test_nll=nll, labels=labels) if labels else None


def _test_scores(folder: RunFolder, arm: str, seed: int, peer: str) -> NDArray[np.float32] | None:
    path = folder.peer_path(arm, seed, peer) / results.TEST_SCORES
    return results.load_test_scores(path) if path.exists() else None


def _test_targets(folder: RunFolder, arm: str, seed: int, peer: str) -> NDArray[np.int64] | None:
    path = folder.peer_path(arm, seed, peer) / results.TEST_TARGETS
    return results.load_test_targets(path) if path.exists() else None


def _common_targets(found: Sequence[NDArray[np.int64] | None]) -> NDArray[np.int64] | None:
    """Return the right answers that all models were scored against; None unless they are the same."""
    first = found[0]
    if first is None or not all(one is not None and np.array_equal(one, first) for one in found):
        return None
    return first


def _row(
    arm: Recipe,
    seeds: Mapping[int, Sequence[PeerResult]],
    scored: _Scored,
    plain_samples: float | None,
) -> Row:
    everyone = [peer for peers in seeds.values() for peer in peers]
    first = [peers[0] for peers in seeds.values()]
    shares = [peer.teacher_share for peer in everyone if peer.teacher_share is not None]
    intervals = arm.updates // arm.interval_steps
    passes = statistics.fmean(
        3 * _samples(peers) + sum(peer.teacher_samples for peer in peers) for peers in seeds.values()
    )
    return Row(
        arm=arm.label,
        summary=arm.summary,
        models=len(everyone) // len(seeds),
        seeds=len(seeds),
        test_accuracy=_mean(scored.test_accuracy.values()),
        test_accuracy_sd=_sd(scored.test_accuracy.values()),
        test_nll=_mean(scored.test_nll.values()),
        test_nll_sd=_sd(scored.test_nll.values()),
        peers_test_accuracy=_mean(
            [peer.test_accuracy for peer in everyone if peer.test_accuracy is not None]
        ),
        peers_test_nll=_mean([peer.test_nll for peer in everyone if peer.test_nll is not None]),
        churn=_mean_over_pairs(list(scored.labels.values())),
        distance=statistics.fmean(peer.distance for peer in first),
        exchanged_bytes=statistics.fmean(_exchanged_bytes(peer) for peer in everyone),
        teacher_share=_mean(shares),
        is_codistilled=min(shares) >= LEAST_TEACHER_SHARE if shares else None,
        seconds=statistics.fmean(max(peer.seconds for peer in peers) for peers in seeds.values()),
        compute=None if plain_samples is None else passes / (3 * plain_samples),
        is_lockstep=arm.lockstep if shares else None,
        skipped_share=_mean([peer.publishes_skipped / max(intervals, 1) for peer in everyone])
        if shares
        else None,
        quarantined_share=_mean([peer.quarantined_updates / peer.updates for peer in everyone])
        if shares
        else None,
        weight_factor=min(peer.weight_factor for peer in everyone) if shares else None,
    )


def _ensemble_row(label: str, members: Row, scored: _Scored) -> Row:
    return dataclasses.replace(
        members,
        arm=label,
        summary=f"the mean of the probabilities of the {members.models} models above",
        seeds=len(scored.labels),
        test_accuracy=_mean(scored.test_accuracy.values()),
        test_accuracy_sd=_sd(scored.test_accuracy.values()),
        test_nll=_mean(scored.test_nll.values()),
        test_nll_sd=_sd(scored.test_nll.values()),
        peers_test_accuracy=None,
        peers_test_nll=None,
        churn=_mean_over_pairs(list(scored.labels.values())),
        distance=None,
    )


def _exchanged_bytes(peer: PeerResult) -> float:
    return (peer.bytes_published + peer.bytes_fetched + peer.bytes_all_reduced) / peer.updates


def _judge(claim: Claim, arm: _Scored, against: _Scored, not_codistilled: Set[str]) -> Verdict:
    missing = [label for label in (claim.arm, claim.against) if label in not_codistilled]
    return claims.judge(claim, _differences(claim, arm, against), not_codistilled=missing)


def _differences(claim: Claim, arm: _Scored, against: _Scored) -> list[float]:
    if claim.metric == "churn":
        seeds = [seed for seed in arm.labels if seed in against.labels]
        ours = churn_matrix([arm.labels[seed] for seed in seeds])
        theirs = churn_matrix([against.labels[seed] for seed in seeds])
        return claims.pair_pseudo_values(np.subtract(ours, theirs).tolist())
    values, others = _values(arm, claim.metric), _values(against, claim.metric)
    return [values[seed] - others[seed] for seed in values if seed in others]


def _values(scored: _Scored, metric: str) -> Mapping[int, float]:
    return scored.test_accuracy if metric == "test_accuracy" else scored.test_nll


def _mean_over_pairs(labels: Sequence[NDArray[np.int64]]) -> float | None:
    matrix = churn_matrix(labels)
    return _mean([matrix[i][j] for i in range(len(labels)) for j in range(i)])


def _present(values: Mapping[int, float | None]) -> dict[int, float]:
    return {seed: value for seed, value in values.items() if value is not None}


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return statistics.fmean(values) if values else None


def _sd(values: Iterable[float]) -> float | None:
    values = list(values)
    return statistics.stdev(values) if len(values) > 1 else None
