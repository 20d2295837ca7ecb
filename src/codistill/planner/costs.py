"""What each way of training n peers costs."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, final

from codistill.arguments import check_type
from codistill.exchange.checkpoint.agreement import EVERY_STEPS
from codistill.planner.job import Job
from codistill.planner.link import FRAME_BYTES, Link
from codistill.planner.memory import (
    Memory,
    checkpoint_memory,
    diloco_memory,
    plain_memory,
    prediction_memory,
)
from codistill.planner.snapshot_size import snapshot_bytes
from codistill.planner.traffic import (
    NOTHING,
    Traffic,
    all_reduce_bytes,
    break_even_interval_steps,
    fetch,
    heartbeat,
    prediction_bytes,
    prediction_codecs,
    publish,
    swap,
)
from codistill.snapshots.precision import CODECS

HOST_BYTES_PER_S: Final = 2e9
"""How fast weights are copied between device, staging and teachers: a guess for one thread."""
FORWARD_SHARE: Final = 1 / 3
"""Of a training step: a backward costs two forwards. A guess."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What one peer moves over its link at once."""

    traffic: Traffic
    """On the wire, each time."""
    every_steps: int
    """Steps between two of them."""
    rounds: int
    """How many times one has to wait for another's bytes before one's own can go on."""
    seconds: float | None
    """How long it takes each time; None without a link."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one way of training costs a peer that has as many teachers as any."""

    scheme: str
    """"all_reduce", "diloco", "checkpoint/" or "prediction/" and a codec."""
    transfers: Mapping[str, Transfer]
    """By name, what crosses between peers: "all_reduce"; "publish" and "fetch"; "swap"; "average"."""
    between: Traffic
    """Bytes a step between peers, of a whole peer, on the wire: all transfers and signs of life."""
    inside_bytes: float
    """Bytes a step that each rank sends to others of its peer, on average."""
    memory: Memory
    """What a rank holds."""
    teacher_forwards: int
    """Forwards of teachers a step."""
    link_s: float | None
    """Seconds a step that the link is busy, on average; None without a link."""
    stall_s: float | None
    """Seconds a step that training waits, on average, if nothing can be hidden behind the backward."""
    age_steps: int | None
    """The greatest age of a teacher, in steps since its snapshot was first seen; None without teachers."""
    store: Traffic | None
    """What all peers together write to the store a step, and read from it; None without a store."""

    def rank_bytes(self, job: Job) -> float:
        """Return the bytes a step that each rank sends in all, inside its peer and to other peers."""
        return self.inside_bytes + self.between.sent_bytes / job.ranks_per_peer


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What every way of training costs."""

    job: Job
    """What is trained."""
    link: Link | None
    """What joins the peers; None if nothing is said about time."""
    costs: Mapping[str, Cost]
    """By scheme."""

    @property
    def between_peers_bytes_per_step(self) -> dict[str, float]:
        """By scheme, bytes a step on a peer's interface to the others, both directions together."""
        return {scheme: cost.between.total_bytes for scheme, cost in self.costs.items()}

    @property
    def inside_peer_bytes_per_step(self) -> dict[str, float]:
        """By scheme, bytes a step that each rank sends to others of its own peer."""
        return {scheme: cost.inside_bytes for scheme, cost in self.costs.items()}

    @property
    def break_even_interval_steps(self) -> dict[str, dict[str, float]]:
        """By scheme of snapshots and of predictions, the interval above which the former are cheaper: T*.

        That of the busier direction, without what documents, requests and headers add.
        """
        job = self.job
        predictions = {
            f"prediction/{name}": (job.peers - 1) * prediction_bytes(job, codec)
            for name, codec in prediction_codecs(job)
        }
        return {
            f"checkpoint/{codec}": {
                scheme: break_even_interval_steps(job.teachers * snapshot_bytes(job.model, codec), size_bytes)
                for scheme, size_bytes in predictions.items()
            }
            for codec in CODECS
        }


def plan(job: Job, link: Link | None = None) -> Plan:
    """Return what every way of training costs: synchronous SGD, both exchanges with each codec, DiLoCo.

    Formulas and what they leave out: docs/cost.md.

    Args:
        job: What is trained.
        link: A peer's link to the others; without it nothing is said about time.

    Example:
        >>> from codistill.planner.job import Model
        >>> job = Job(
        ...     model=Model(parameters=25_600_000), peers=2, batch_per_peer=256, outputs=1000,
        ...     interval_steps=2500,
        ... )
        >>> costs = plan(job)
        >>> round(costs.break_even_interval_steps["checkpoint/exact"]["prediction/exact"])
        100
        >>> bytes_per_step = costs.between_peers_bytes_per_step
        >>> round(bytes_per_step["all_reduce"] / bytes_per_step["checkpoint/exact"])
        2499
    """
    check_type("job", job, Job)
    if link is not None:
        check_type("link", link, Link)
    planner = _Planner(job, link)
    return Plan(job=job, link=link, costs={cost.scheme: cost for cost in planner.costs()})


@final
class _Planner:
    """One job on one link."""

    def __init__(self, job: Job, link: Link | None) -> None:
        self._job = job
        self._link = link
        self._frame_bytes = FRAME_BYTES if link is None else link.frame_bytes

    def costs(self) -> Iterator[Cost]:
        yield self._all_reduce()
        for codec in CODECS:
            yield self._checkpoint(codec)
        for name, predictions in prediction_codecs(self._job):
            yield self._prediction(name, prediction_bytes(self._job, predictions))
        yield self._diloco()

    def _all_reduce(self) -> Cost:
        job = self._job
        size_bytes = all_reduce_bytes(job.model.weight_bytes, job.peers)
        reduced = self._transfer(Traffic(size_bytes, size_bytes), rounds=2 * (job.peers - 1))
        return self._collective("all_reduce", {"all_reduce": reduced}, plain_memory(job))

    def _prediction(self, name: str, size_bytes: int) -> Cost:
        job = self._job
        others = job.peers - 1
        # What each looks like is gathered first, and then they themselves.
        swapped = self._transfer(swap(job, size_bytes, self._frame_bytes), rounds=2 * others, is_framed=True)
        return self._collective(f"prediction/{name}", {"swap": swapped}, prediction_memory(job, name))

    def _diloco(self) -> Cost:
        job = self._job
        size_bytes = all_reduce_bytes(job.model.weight_bytes, job.peers)
        averaged = self._transfer(
            Traffic(size_bytes, size_bytes), rounds=2 * (job.peers - 1), every_steps=job.outer_steps
        )
        return self._collective("diloco", {"average": averaged}, diloco_memory(job))

    def _collective(self, scheme: str, transfers: dict[str, Transfer], memory: Memory) -> Cost:
        """Return the cost of what all peers do together, and wait for."""
        between = _a_step(transfers)
        link_s = self._link_s(transfers)
        return Cost(
            scheme=scheme,
            transfers=transfers,
            between=between,
            inside_bytes=self._gradients_bytes(),
            memory=memory,
            teacher_forwards=0,
            link_s=link_s,
            stall_s=link_s,
            age_steps=0 if scheme.startswith("prediction/") else None,
            store=None,
        )

    def _checkpoint(self, codec: str) -> Cost:
        job, frame_bytes = self._job, self._frame_bytes
        transfers = {
            "publish": self._transfer(
                publish(job, codec, frame_bytes), is_framed=True, every_steps=job.interval_steps
            ),
            "fetch": self._transfer(
                fetch(job, codec, frame_bytes),
                rounds=job.teachers,
                is_framed=True,
                every_steps=job.interval_steps,
            ),
        }
        memory = checkpoint_memory(job, codec)
        copied_bytes = memory.staging_bytes + memory.teachers_bytes
        return Cost(
            scheme=f"checkpoint/{codec}",
            transfers=transfers,
            between=_a_step(transfers) + heartbeat(job, frame_bytes),
            inside_bytes=self._gradients_bytes() + self._teachers_bytes(codec),
            memory=memory,
            teacher_forwards=job.teachers,
            link_s=self._link_s(transfers),
            stall_s=copied_bytes / HOST_BYTES_PER_S / job.interval_steps,
            age_steps=self._age_steps(transfers),
            store=Traffic(
                job.peers * transfers["publish"].traffic.sent_bytes / job.interval_steps,
                job.reads
                / max(job.teachers, 1)
                * transfers["fetch"].traffic.received_bytes
                / job.interval_steps,
            ),
        )

    def _transfer(
        self, traffic: Traffic, *, rounds: int = 1, every_steps: int = 1, is_framed: bool = False
    ) -> Transfer:
        on_wire = traffic if is_framed else traffic.on_wire(self._frame_bytes)
        return Transfer(
            traffic=on_wire,
            every_steps=every_steps,
            rounds=rounds,
            seconds=None if self._link is None else self._link.seconds(on_wire.busier_bytes, rounds=rounds),
        )

    def _link_s(self, transfers: Mapping[str, Transfer]) -> float | None:
        if self._link is None:
            return None
        return sum((t.seconds or 0.0) / t.every_steps for t in transfers.values())

    def _gradients_bytes(self) -> float:
        """Return what the ranks of a peer send one another to train at all.

        Gradients are averaged, 2 (g - 1) / g of the weights; or, where weights are divided, gathered for
        the forward and again for the backward, and gradients divided, (g - 1) / g each time.
        """
        job = self._job
        whole = all_reduce_bytes(job.model.weight_bytes, job.ranks_per_peer)
        return 1.5 * whole if job.is_sharded else whole

    def _teachers_bytes(self, codec: str) -> float:
        """Return what they send for their teachers.

        Rank 0 hands every snapshot on to the others; divided teachers are read in parts and gathered for
        every forward instead.
        """
        job = self._job
        share = (job.ranks_per_peer - 1) / job.ranks_per_peer
        if job.is_sharded:
            return job.teachers * share * job.model.weight_bytes
        return job.teachers * share * snapshot_bytes(job.model, codec) / job.interval_steps

    def _age_steps(self, transfers: Mapping[str, Transfer]) -> int:
        """Return the age at which a teacher is replaced.

        It was first seen when it began to be read; its successor is, an interval later, or as many
        intervals as publishing or reading one takes, and has to be read whole then.
        """
        job = self._job
        published_s, fetched_s = transfers["publish"].seconds, transfers["fetch"].seconds
        if job.step_s is None or published_s is None or fetched_s is None:
            return job.interval_steps
        interval_s = job.interval_steps * job.step_s
        intervals = max(1, math.ceil(max(published_s, fetched_s) / interval_s))
        reading_steps = math.ceil(fetched_s / job.step_s)
        if job.ranks_per_peer > 1:
            reading_steps = math.ceil(reading_steps / EVERY_STEPS) * EVERY_STEPS
        return intervals * job.interval_steps + reading_steps


def _a_step(transfers: Mapping[str, Transfer]) -> Traffic:
    return sum((1 / t.every_steps * t.traffic for t in transfers.values()), NOTHING)
