"""The numbers of one arm, put together into a row of the comparison."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codistill.lab import intervals
from codistill.lab.comparison import Row
from codistill.lab.declared import Judge
from codistill.lab.finished import Finished
from codistill.lab.results import Evaluation, PeerResult
from codistill.lab.scored import Scored, pseudo_values

LEAST_TEACHER_SHARE = 0.5
"""Of the updates of any one model; below it the arm has not been codistilled, say its row and verdicts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a row needs beside the results and scores of its arm."""

    judge: Judge
    """Which validation metric chooses the best peer."""
    ensemble: Scored | None
    """The scores of the mean of all its models' probabilities."""
    is_ensemble: bool
    """Whether that is what the arm is judged by."""
    plain_passes: float | None
    """What compute is relative to."""
    earlier_arm: str | None
    """Label of the arm whose cost counts as this one's; None for none."""
    earlier: Finished | None
    """That arm, as far as it has finished."""
    last_rows: Sequence[tuple[str, Evaluation]]
    """The last evaluation of every peer of every seed, with the peer's name."""


def make_row(finished: Finished, scored: Scored, context: Context) -> Row:
    """Return the row of an arm.

    Args:
        finished: Its results.
        scored: What it is judged by.
        context: What else there is to know.
    """
    arm, everyone = finished.arm, finished.everyone
    first = [peers[0] for peers in finished.seeds.values()]
    best = [_best(peers, context.judge) for peers in finished.seeds.values()]
    shares = [peer.teacher_share for peer in everyone if peer.teacher_share is not None]
    intervals = arm.updates // arm.interval_steps
    cost = finished.cost if context.earlier is None else finished.cost.and_before(context.earlier.cost)
    # Without what was trained before, the sum would look cheaper than the arm is.
    is_whole = (context.earlier_arm is None) == (context.earlier is None)
    plain_passes = context.plain_passes
    memory = [peer.peak_memory_bytes for peer in everyone if peer.peak_memory_bytes is not None]
    agreements = _by_pair((peer, row.agreements) for peer, row in context.last_rows)
    losses = _by_pair((peer, row.teacher_losses) for peer, row in context.last_rows)
    ages = _by_pair((peer, row.teacher_ages) for peer, row in context.last_rows)
    return Row(
        arm=arm.label,
        summary=arm.summary,
        models=len(everyone) // len(finished.seeds),
        seeds=len(finished.seeds),
        **_scores(scored),
        peers_test_accuracy=_mean(peer.test_accuracy for peer in everyone),
        peers_test_nll=_mean(peer.test_nll for peer in everyone),
        best_peer_test_accuracy=_mean(peer.test_accuracy for peer in best),
        best_peer_test_nll=_mean(peer.test_nll for peer in best),
        ensemble_test_accuracy=_mean(context.ensemble.accuracy.values()) if context.ensemble else None,
        ensemble_test_nll=_mean(context.ensemble.nll.values()) if context.ensemble else None,
        distance=None if context.is_ensemble else statistics.fmean(peer.distance for peer in first),
        exchanged_bytes=statistics.fmean(_exchanged_bytes(peer) for peer in everyone),
        bytes_published=statistics.fmean(peer.bytes_published / peer.updates for peer in everyone),
        bytes_fetched=statistics.fmean(peer.bytes_fetched / peer.updates for peer in everyone),
        bytes_all_reduced=statistics.fmean(peer.bytes_all_reduced / peer.updates for peer in everyone),
        teacher_share=_mean(shares),
        is_codistilled=min(shares) >= LEAST_TEACHER_SHARE if shares else None,
        seconds=cost.seconds,
        samples=cost.samples if is_whole else None,
        compute=cost.passes / plain_passes if plain_passes is not None and is_whole else None,
        is_lockstep=arm.lockstep if shares else None,
        skipped_share=_mean(peer.publishes_skipped / max(intervals, 1) for peer in everyone)
        if shares
        else None,
        quarantined_share=_mean(peer.quarantined_updates / peer.updates for peer in everyone)
        if shares
        else None,
        weight_factor=min(peer.weight_factor for peer in everyone) if shares else None,
        advised=sum(bool(peer.advice) for peer in everyone),
        advice=next((peer.advice for peer in everyone if peer.advice), ()),
        agreement=_mean(agreements.values()),
        agreements=agreements,
        teacher_loss=_mean(losses.values()),
        teacher_losses=losses,
        teacher_age=_mean(ages.values()),
        stall_s=statistics.fmean(peer.stall_s for peer in everyone),
        peak_memory_bytes=float(max(memory)) if memory else None,
        is_ensemble=context.is_ensemble,
        earlier=context.earlier_arm if is_whole else None,
    )


def ensemble_row(label: str, members: Row, scored: Scored) -> Row:
    """Return the row of the ensemble of an arm's models.

    Args:
        label: Its name in the table.
        members: The row of the arm.
        scored: Of the ensemble.
    """
    return dataclasses.replace(
        members,
        arm=label,
        summary=f"the mean of the probabilities of the {members.models} models above",
        seeds=len(scored.nll),
        **_scores(scored),
        peers_test_accuracy=None,
        peers_test_nll=None,
        best_peer_test_accuracy=None,
        best_peer_test_nll=None,
        ensemble_test_accuracy=None,
        ensemble_test_nll=None,
        distance=None,
        is_ensemble=True,
    )


def _scores(scored: Scored) -> dict[str, Any]:
    """Return the fields of a row that say how well and how repeatably an arm does."""
    low, high = intervals.interval(pseudo_values(scored.churn))
    means = {name: _mean(values.values()) for name, values in scored.further.items()}
    sds = {name: _sd(values.values()) for name, values in scored.further.items()}
    return {
        "test_accuracy": _mean(scored.accuracy.values()),
        "test_accuracy_sd": _sd(scored.accuracy.values()),
        "test_nll": _mean(scored.nll.values()),
        "test_nll_sd": _sd(scored.nll.values()),
        "test_calibration_error": _mean(scored.calibration_error.values()),
        "further": {name: mean for name, mean in means.items() if mean is not None},
        "further_sd": {name: sd for name, sd in sds.items() if sd is not None},
        "churn": _mean(scored.churn.values()),
        "churn_low": low,
        "churn_high": high,
        "difference": _mean(scored.difference.values()),
    }


def _best(peers: Sequence[PeerResult], judge: Judge) -> PeerResult:
    """Return the peer that did best on validation; never on test, which is not to be chosen by."""

    def merit(peer: PeerResult) -> tuple[float, float]:
        accuracy, likelihood = (
            -math.inf if math.isnan(value) else value
            for value in (peer.validation_accuracy, -peer.validation_nll)
        )
        return (accuracy, likelihood) if judge == "accuracy" else (likelihood, accuracy)

    return max(peers, key=merit)


def _exchanged_bytes(peer: PeerResult) -> float:
    return (peer.bytes_published + peer.bytes_fetched + peer.bytes_all_reduced) / peer.updates


def _by_pair(found: Iterable[tuple[str, Mapping[str, float]]]) -> dict[str, float]:
    """Return the mean over seeds of what students say of their teachers, by teacher:student."""
    values: dict[str, list[float]] = {}
    for student, of_teachers in found:
        for teacher, value in of_teachers.items():
            values.setdefault(f"{teacher}:{student}", []).append(value)
    return {pair: statistics.fmean(values[pair]) for pair in sorted(values)}


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else None


def _sd(values: Iterable[float]) -> float | None:
    present = list(values)
    return statistics.stdev(present) if len(present) > 1 else None
