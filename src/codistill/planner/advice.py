"""What follows from the costs, by rules that are said with it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

from codistill.planner.costs import FORWARD_SHARE, HOST_BYTES_PER_S, Cost, Plan
from codistill.planner.snapshot_size import count_tensors
from codistill.planner.units import format_bytes, format_number, format_rate, format_seconds
from codistill.snapshots.precision import CODECS

AFFORDABLE_SHARE: Final = 0.1
"""Of a step, that training may wait for the link."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to do, and why."""

    scheme: str
    """The scheme to choose."""
    interval_steps: int | None
    """The interval to choose, of an exchange of snapshots; None for others."""
    reasons: tuple[str, ...]
    """Sentences, in the order in which the rules were asked."""


def advise(plan: Plan) -> Advice:
    """Return the scheme to choose.

    1. If an all-reduce between peers takes at most a tenth of a step, the link needs no relief.
    2. Of snapshots, the first of the codecs exact, bfloat16, int8 is a candidate whose publish and fetch each
       fit into an interval.
    3. Of predictions, the first of exact, bfloat16, top-k is one that takes at most a tenth of a step.
    4. The candidate of fewer bytes is chosen. If there is none: int8, at the shortest interval it fits in.

    Where the link or the time of a step is unknown, everything fits, and rule 1 is not asked.
    """
    reasons = []
    if plan.job.step_s is not None and plan.link is not None:
        share = _share(plan, plan.costs["all_reduce"])
        reasons.append(f"An all-reduce between the peers would keep the link busy {_of_a_step(share)}.")
        if share <= AFFORDABLE_SHARE:
            reasons.append(
                f"That is at most {_percent(AFFORDABLE_SHARE)}: the link needs no relief. Codistill for what "
                "the models teach one another, not for bytes."
            )
            return Advice(scheme="all_reduce", interval_steps=None, reasons=tuple(reasons))
    snapshots = _first_that_fits(plan, "checkpoint/")
    predictions = _first_that_fits(plan, "prediction/")
    reasons += _why_not(plan, "checkpoint/", snapshots)
    reasons += _why_not(plan, "prediction/", predictions)
    chosen = snapshots or predictions
    if chosen is None:
        return _longer_interval(plan, reasons)
    if snapshots is not None and predictions is not None:
        break_even = plan.break_even_interval_steps[snapshots.scheme][predictions.scheme]
        reasons.append(
            f"{snapshots.scheme} and {predictions.scheme} break even at an interval of "
            f"{format_number(break_even)} steps, and the interval is {plan.job.interval_steps:,}."
        )
        chosen = snapshots if plan.job.interval_steps >= break_even else predictions
    return Advice(
        scheme=chosen.scheme,
        interval_steps=plan.job.interval_steps if chosen is snapshots else None,
        reasons=(*reasons, _demands(chosen)),
    )


def slow_link(plan: Plan) -> str:
    """Return the sentence that says what codistillation cuts and what it does not."""
    job, reduced, chosen = plan.job, plan.costs["all_reduce"], plan.costs["checkpoint/exact"]
    before, after = reduced.rank_bytes(job), chosen.rank_bytes(job)
    fewer = reduced.between.sent_bytes / chosen.between.sent_bytes
    change = (
        "nothing is sent inside a peer, as it is one rank."
        if job.ranks_per_peer == 1
        else f"of all that a rank sends a step, {format_bytes(before)} with all_reduce and "
        f"{format_bytes(after)} with checkpoint/exact, {_percent(1 - after / before)} is cut."
        if after < before
        else f"all that a rank sends a step grows from {format_bytes(before)} with all_reduce to "
        f"{format_bytes(after)} with checkpoint/exact."
    )
    times = (
        f"{format_number(fewer)} times less than"
        if fewer >= 1
        else f"{format_number(1 / fewer)} times as much as"
    )
    return (
        "Codistillation cuts the slow link, not the total: between peers checkpoint/exact sends "
        f"{times} all_reduce; {change}"
    )


def guesses(plan: Plan) -> Iterator[str]:
    """Yield what was guessed, left out, or is at odds with the job."""
    job, link = plan.job, plan.link
    if job.model.tensors is None:
        yield (
            f"Documents and headers are those of {count_tensors(job.model):,} tensors, a guess by the number "
            "of parameters."
        )
    if job.ranks_per_peer > 1:
        yield (
            "all_reduce and diloco are taken to reduce in two levels, inside peers first; a flat ring moves "
            "up to twice as much between them."
        )
    yield "Memory leaves out what forward and backward keep for one another."
    yield (
        f"A teacher's forward is taken for a third of a step, and copies in host memory for "
        f"{format_bytes(HOST_BYTES_PER_S)}/s."
    )
    if link is None:
        yield "Without a link nothing is said about the time that bytes take."
    else:
        yield "What DDP hides behind the backward is counted as waiting."
        if link.latency_s == 0:
            yield "Rounds are taken to have no latency; give one, or calibrate by a measurement."
        store = plan.costs["checkpoint/exact"].store
        if job.step_s is not None and store is not None:
            rate = store.busier_bytes / job.step_s
            yield (
                f"The store is taken to keep up with all peers together, {format_rate(rate)} for exact "
                "snapshots."
            )
    if job.step_s is None:
        yield "Without the seconds of a step, signs of life are left out, and ages leave out the reading."
    if job.reads != job.teachers * job.peers:
        yield "Peers have different numbers of teachers: figures are those of one that has most."
    for cost in plan.costs.values():
        if cost.scheme.startswith("checkpoint/") and not _fits(plan, cost):
            yield (
                f"{cost.scheme} does not keep up with an interval of {job.interval_steps:,} steps: "
                f"{format_seconds(_longest_transfer_s(cost))} for one snapshot; intervals would be skipped."
            )


def _longer_interval(plan: Plan, reasons: list[str]) -> Advice:
    """Return the advice for a link that is too slow for everything."""
    assert plan.job.step_s is not None
    last = plan.costs[f"checkpoint/{CODECS[-1]}"]
    interval_steps = math.ceil(_longest_transfer_s(last) / plan.job.step_s)
    reason = f"The shortest interval at which {last.scheme} fits is {interval_steps:,} steps."
    return Advice(scheme=last.scheme, interval_steps=interval_steps, reasons=(*reasons, reason))


def _demands(cost: Cost) -> str:
    """Return what a scheme asks for besides bytes."""
    forwards = cost.teacher_forwards
    if not forwards:
        return (
            "An exchange of predictions needs the same batches in the same order for all peers and a process "
            "group between them: when one of them dies, all stop."
        )
    return (
        f"It costs {forwards} teacher forward{'s' if forwards > 1 else ''} a step, about "
        f"{_percent(forwards * FORWARD_SHARE)} of a step, and nobody waits for anybody."
    )


def _first_that_fits(plan: Plan, kind: str) -> Cost | None:
    costs = (cost for scheme, cost in plan.costs.items() if scheme.startswith(kind))
    return next((cost for cost in costs if _fits(plan, cost)), None)


def _fits(plan: Plan, cost: Cost) -> bool:
    """Return whether a scheme keeps up with training; everything does where time is unknown."""
    step_s = plan.job.step_s
    if step_s is None or plan.link is None:
        return True
    if cost.scheme.startswith("checkpoint/"):
        return _longest_transfer_s(cost) <= plan.job.interval_steps * step_s
    return _share(plan, cost) <= AFFORDABLE_SHARE


def _why_not(plan: Plan, kind: str, chosen: Cost | None) -> Iterator[str]:
    """Yield why those before the chosen one do not fit."""
    for scheme, cost in plan.costs.items():
        if cost is chosen:
            return
        if scheme.startswith(kind):
            assert plan.job.step_s is not None
            yield (
                f"{scheme} takes {format_seconds(_longest_transfer_s(cost))} for one snapshot, and an "
                f"interval lasts {format_seconds(plan.job.interval_steps * plan.job.step_s)}."
                if kind == "checkpoint/"
                else f"{scheme} would keep training waiting {_of_a_step(_share(plan, cost))}."
            )


def _share(plan: Plan, cost: Cost) -> float:
    assert cost.link_s is not None
    assert plan.job.step_s is not None
    return cost.link_s / plan.job.step_s


def _longest_transfer_s(cost: Cost) -> float:
    return max(transfer.seconds or 0.0 for transfer in cost.transfers.values())


def _of_a_step(share: float) -> str:
    if share < 1:
        return f"for {_percent(share)} of a step"
    return f"{format_number(share)} times as long as a step takes"


def _percent(share: float) -> str:
    return f"{format_number(100 * share)}%"
