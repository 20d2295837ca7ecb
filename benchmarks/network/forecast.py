"""What the planner says of what was measured."""

import functools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from codistill.planner import Cost, Job, Link, Measurement, Model, calibrate, plan
from network.cases import INTERVALS, SIZES, TOP_K, Case, cases
from network.training import new_model

CALIBRATED_ON: Final = "small"
"""The size whose seconds the planner is told."""

Results = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A figure, measured and perhaps planned."""

    case: Case
    """Of what."""
    what: str
    """"sent" or "received", in bytes a step of host b's peer; "step", "publish" or "fetch", in seconds."""
    measured: list[float]
    """Of every run or, of a transfer, of every one."""
    planned: float | None = None
    """What the planner says; None where it was told."""
    error: float | None = None
    """By how much the plan is off, as a share of what was measured; None without a plan."""

    @property
    def is_bytes(self) -> bool:
        """Whether these are bytes, not seconds."""
        return self.what in ("sent", "received")

    @property
    def median(self) -> float:
        """The middle one of those measured."""
        return statistics.median(self.measured)


def compare(results: Results) -> Iterator[Row]:
    """Yield every figure that there is, beside the plan's.

    Bytes are the plan's own, beside the median. Seconds of the other size follow from `CALIBRATED_ON`, such
    that others' work on the machine matters least:

    - a step of a collective is one alone and what the collective took of `CALIBRATED_ON` besides its bytes;
      each run is held against the run alone of the same round, and the median of those ratios counts;
    - a publish or a fetch follows from the rate and latency that all of the same kind of store came to; the
      least that were measured are told, and the least counts.
    """
    for case in cases():
        runs = _runs(results, case)
        if not runs:
            continue
        if case.scheme != "alone":
            yield from _bytes(results, case)
        if case.scheme == "alone" or case.interval_steps is not None:
            yield Row(case=case, what="step", measured=_values(runs, "step_s"))
        else:
            yield _step(results, case)
        if case.interval_steps is not None:
            yield from _transfers(results, case)


@functools.cache
def _model_of(size: str) -> Model:
    return Model.of(new_model(SIZES[size], seed=0))


def job_of(size: str, *, step_s: float | None = None, interval_steps: int = 50) -> Job:
    """Return the planner's words for the two peers of a size."""
    return Job(
        model=_model_of(size),
        peers=2,
        batch_per_peer=SIZES[size].batch,
        outputs=SIZES[size].classes,
        optimizer="sgd",
        interval_steps=interval_steps,
        top_k=TOP_K,
        step_s=step_s,
    )


def _bytes(results: Results, case: Case) -> Iterator[Row]:
    between = _cost(results, case).between
    for what, planned in (("sent", between.sent_bytes), ("received", between.received_bytes)):
        measured = [run[f"{what}_bytes"] / run["steps"] for run in _runs(results, case)]
        error = planned / statistics.median(measured) - 1
        yield Row(case=case, what=what, measured=measured, planned=planned, error=error)


def _step(results: Results, case: Case) -> Row:
    """Return the seconds of a step with a collective in it."""
    measured = _values(_runs(results, case), "step_s")
    told = replace(case, size=CALIBRATED_ON)
    pairs, told_pairs = _beside_alone(results, case), _beside_alone(results, told)
    if case.size == CALIBRATED_ON or not pairs or not told_pairs:
        return Row(case=case, what="step", measured=measured)
    ((name, transfer),) = _cost(results, told).transfers.items()
    link = Link.parse(case.rate)
    rests_s = [step_s - alone_s for step_s, alone_s in told_pairs]
    latency_s = statistics.median(rests_s) - link.seconds(transfer.traffic.busier_bytes)
    link = replace(link, latency_s=max(0.0, latency_s / transfer.rounds))
    transfer = _cost(results, case).transfers[name]
    transfer_s = link.seconds(transfer.traffic.busier_bytes, rounds=transfer.rounds)
    return Row(
        case=case,
        what="step",
        measured=measured,
        planned=statistics.median(alone_s for _, alone_s in pairs) + transfer_s,
        error=statistics.median((alone_s + transfer_s) / step_s for step_s, alone_s in pairs) - 1,
    )


def _beside_alone(results: Results, case: Case) -> list[tuple[float, float]]:
    """Return the seconds of a step of each run, and of one without exchange in the same round."""
    steps_s, alone_s = (_values(_runs(results, each), "step_s") for each in (case, _alone(case)))
    return list(zip(steps_s, alone_s, strict=False))


def _transfers(results: Results, case: Case) -> Iterator[Row]:
    """Yield the seconds of publishes and fetches."""
    for name, transfer in _cost(results, case).transfers.items():
        measured = [seconds for run in _runs(results, case) for seconds in run[f"{name}_s"]]
        link = _link_of_transfers(results, case, name)
        # A transfer of a longer interval is the same one, and has been seen less often.
        if case.size == CALIBRATED_ON or case.interval_steps != min(INTERVALS) or link is None:
            yield Row(case=case, what=name, measured=measured)
            continue
        planned_s = link.seconds(transfer.traffic.busier_bytes, rounds=transfer.rounds)
        error = planned_s / min(measured) - 1
        yield Row(case=case, what=name, measured=measured, planned=planned_s, error=error)


def _link_of_transfers(results: Results, case: Case, name: str) -> Link | None:
    """Return the link as all publishes, or fetches, of `CALIBRATED_ON` show it; None if there are none."""
    seconds: dict[float, list[float]] = {}
    for other in cases():
        runs = _runs(results, other)
        if (other.rate, other.store, other.size) == (case.rate, case.store, CALIBRATED_ON) and runs:
            size_bytes = _cost(results, other).transfers[name].traffic.busier_bytes
            seconds.setdefault(size_bytes, []).extend(s for run in runs for s in run[f"{name}_s"])
    measured = [Measurement(size_bytes=size, seconds=min(taken)) for size, taken in seconds.items()]
    if not measured:
        return None
    sold = Link.parse(case.rate)
    found = calibrate(sold, *measured)
    if found.bytes_per_s <= sold.bytes_per_s:
        return found
    # No link is faster than it is sold: what looks so is how long the codecs take.
    rests_s = [transfer.seconds - sold.seconds(transfer.size_bytes) for transfer in measured]
    return replace(sold, latency_s=max(0.0, statistics.mean(rests_s)))


def _cost(results: Results, case: Case) -> Cost:
    alone_s = _values(_runs(results, _alone(case)), "step_s")
    step_s = statistics.median(alone_s) if alone_s else None
    return plan(job_of(case.size, step_s=step_s, interval_steps=case.interval_steps or 50)).costs[case.scheme]


def _alone(case: Case) -> Case:
    return Case(rate=case.rate, size=case.size, scheme="alone")


def _runs(results: Results, case: Case) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = results.get("cases", {}).get(case.key, [])
    return runs


def _values(runs: list[dict[str, Any]], name: str) -> list[float]:
    return [run[name] for run in runs]
