"""What the processes of `test_sharded` run: ``python sharded_ranks.py WORLD RANK RANKS FOLDER``.

Each world is one peer, whose ranks divide the model among them with ``fully_shard`` (but for a world of one
rank, whose model is plain), and does the scenarios of its world in turn.
"""

import contextlib
import copy
import datetime
import functools
import os
import sys
import threading
import traceback
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from codistill import (
    CheckpointExchange,
    Codistiller,
    CodistillWarning,
    Membership,
    SnapshotOptions,
    TeacherOptions,
)
from codistill.errors import PeerTakenError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint import fetcher
from codistill.exchange.checkpoint.life import Life
from codistill.exchange.checkpoint.lives import claim_life, open_run
from codistill.exchange.checkpoint.publisher import Publisher
from codistill.fragments import Box
from codistill.parallel import group
from codistill.parallel.weights import named_fragments
from codistill.snapshots import partial_read, shards
from codistill.snapshots.codec import encode
from codistill.snapshots.partial_read import PartialRead
from codistill.snapshots.signing import SigningKey
from codistill.stores import DirectoryStore
from codistill.testing import FaultyStore
from codistill.topologies import Directed

BATCH = 8
TIMEOUT_S = 60.0
WORDS = 7


class Net(nn.Module):
    """Tied weights, running statistics, and sizes that no number of ranks divides."""

    def __init__(self, width=6):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width)
        self.inner = nn.Sequential(nn.Linear(width, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, width))
        self.head = nn.Linear(width, WORDS)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, tokens):
        return self.head(self.inner(self.embedding(tokens)) * self.scale)


def make_net(seed, width=6):
    torch.manual_seed(seed)
    return Net(width)


@functools.cache
def state_of(seed):
    """Return weights that a scenario publishes, and knows again by their seed."""
    state = make_net(seed).state_dict()
    state["inner.1.running_mean"] = torch.full((5,), seed / 1000)
    return state


class Peer:
    """One rank of a peer."""

    def __init__(
        self,
        folder,
        name,
        rank,
        ranks,
        *,
        width=6,
        build=None,
        shard=fully_shard,
        wrap=None,
        state=None,
        **options,
    ):
        self.store = FaultyStore(DirectoryStore(folder))
        self.rank, self.ranks = rank, ranks
        self.mesh = None if ranks == 1 else init_device_mesh("cpu", (ranks,))
        self.shard = shard
        self.model = self.divide(make_net(ord(name), width))
        if state is not None:
            with torch.no_grad():
                for own, values in zip(self.fragments(), state["model"], strict=True):
                    own.copy_(values)
        if wrap is not None:
            self.model = wrap(self.model)
        teachers = options.pop("teachers", None)
        if teachers is None and self.mesh is not None:
            teachers = TeacherOptions(build=build or self.build)
        elif teachers is None and build is not None:
            teachers = TeacherOptions(build=build)
        self.exchange = CheckpointExchange(self.store, peer=name, teachers=teachers, **options)
        self.codistiller = Codistiller(self.model, self.exchange)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.step = 0
        self.term = 0.0
        if state is not None:
            self.step = state["step"]
            self.codistiller.load_state_dict(state["codistiller"])

    def divide(self, model):
        if self.mesh is not None:
            self.shard(model.inner, mesh=self.mesh)
            self.shard(model, mesh=self.mesh)
        return model

    def build(self, info):
        with torch.device("meta"):
            model = Net()
        return self.divide(model)

    def fragments(self):
        return [fragment.values for fragment in named_fragments(self.model).values()]

    def save(self):
        """Return what a resumed run loads: this rank's weights, and what rank 0 says on all."""
        said = [self.codistiller.state_dict()]
        if self.ranks > 1:
            dist.broadcast_object_list(said)
        return {
            "step": self.step,
            "model": [values.clone() for values in self.fragments()],
            "codistiller": said[0],
        }

    def batch(self):
        generator = torch.Generator().manual_seed(1000 * self.rank + self.step)
        tokens = torch.randint(WORDS, (BATCH,), generator=generator)
        return tokens, torch.randint(WORDS, (BATCH,), generator=generator)

    def forward(self):
        tokens, targets = self.batch()
        logits = self.model(tokens)
        task_loss = F.cross_entropy(logits.float(), targets)
        term = self.codistiller.loss(logits, tokens)
        self.term, self.task_loss = term.item(), task_loss.detach()
        return task_loss + term

    def train(self, *, settle=True):
        self.optimizer.zero_grad()
        self.forward().backward()
        self.finish_step(settle=settle)

    def finish_step(self, *, settle=True):
        self.optimizer.step()
        self.step += 1
        self.report = self.codistiller.step(task_loss=self.task_loss)
        if settle:
            self.settle()

    def settle(self):
        """Wait until the background has nothing more to do."""
        pace = self.exchange._life.pace
        for worker in (pace._publish_worker, pace._looking, pace._delivery._worker):
            assert worker.wait(TIMEOUT_S)

    def own(self):
        return fragments_of(self.model)

    def teacher(self, name="b"):
        return self.exchange._life.classroom._teachers[name].module

    def taught(self):
        """Return what this rank holds of each teacher, and which snapshot it is."""
        return {
            peer: {"step": info.step, "fragments": fragments_of(self.teacher(peer))}
            for peer, info in self.codistiller.teachers.items()
        }

    def seeds(self, most=10):
        """Return the seed of each teacher's weights, compared to the bit; None if they are no seed's."""
        found = {}
        for peer in self.codistiller.teachers:
            own = named_fragments(self.teacher(peer))
            found[peer] = next((seed for seed in range(most) if _is_of(seed, own)), None)
        return found


def _is_of(seed, fragments):
    state = state_of(seed)
    return all(
        torch.equal(fragment.values, state[name][fragment.box.within(Box.whole(fragment.shape))])
        for name, fragment in fragments.items()
    )


def fragments_of(model):
    return {
        name: [list(fragment.box.offsets), list(fragment.shape), fragment.values.clone()]
        for name, fragment in named_fragments(model).items()
    }


class Other:
    """A peer that publishes when a scenario says so, by way of rank 0."""

    def __init__(self, folder, rank, name="b", *, interval_steps=10, signing_key=None):
        self.rank = rank
        if rank == 0:
            self.store = DirectoryStore(folder)
            life = Life(
                run_id=open_run(self.store),
                peer=name,
                incarnation=claim_life(self.store, name, after=None),
                interval_steps=interval_steps,
                metadata={},
            )
            self.publisher = Publisher(self.store, life, signing_key=signing_key)

    def publish(self, seed, *, step, change=None):
        """Publish the weights of a seed, as of a peer that has been trained on very much."""
        if self.rank == 0:
            state = copy.deepcopy(state_of(seed))
            if change is not None:
                change(state)
            self.publisher.publish(encode(state), Progress(step=step, samples=10**6), finished=False)
        dist.barrier()

    def file(self):
        """Return the file of the newest snapshot."""
        order = "-".join(map(str, self.publisher.previous.order))
        return f"b/snapshots/{order}/shard-00001-of-00001.safetensors"


@contextlib.contextmanager
def hearing():
    """Collect what is said."""
    messages = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", CodistillWarning)
        yield messages
    messages += [str(one.message) for one in said if issubclass(one.category, CodistillWarning)]


# Worlds of 1, 2 and 4 ranks, which are three peers


def unequal_ranks(folder, name, rank, ranks):
    """Peers of 1, 2 and 4 ranks learn from one another in lockstep."""
    peer = Peer(
        folder,
        name,
        rank,
        ranks,
        peers=["a", "b", "d"],
        topology="all",
        lockstep=True,
        interval_steps=2,
    )
    history = {}
    while peer.step < 6:
        peer.train(settle=False)
        if peer.step % 2 == 0:
            history[peer.step] = {"own": peer.own(), "taught": peer.taught()}
    peer.codistiller.close()
    return history


def two_architectures(folder, name, rank, ranks):
    """A wide peer of two ranks and a narrow one of one rank teach each other."""
    return _train_two_widths(folder, name, rank, ranks, topology="ring")


def the_wide_one_teaches(folder, name, rank, ranks):
    """Only the narrow peer learns, from the wide one."""
    return _train_two_widths(folder, name, rank, ranks, topology=Directed([("b", "a")]))


def _train_two_widths(folder, name, rank, ranks, *, topology):
    width = {"a": 6, "b": 10}[name]

    def build(info):
        model = Net(info.metadata["width"])
        # What is large is divided where the student is; what is small every rank holds.
        return peer.divide(model) if ranks > 1 and info.metadata["width"] == 10 else model

    peer = Peer(
        folder,
        name,
        rank,
        ranks,
        width=width,
        build=build,
        peers=["a", "b"],
        topology=topology,
        lockstep=True,
        interval_steps=2,
        snapshots=SnapshotOptions(metadata={"width": width}),
    )
    history = {}
    while peer.step < 4:
        peer.train(settle=False)
        if peer.step % 2 == 0:
            history[peer.step] = {"own": peer.own(), "taught": peer.taught(), "term": peer.term}
    peer.codistiller.close()
    return history


# The world of two ranks, which are peer "a" now, beside a peer "b" that the scenarios publish for


def running_free(folder, name, rank, ranks):
    """Train with intervals that do and do not fall on the meetings of ranks."""
    found = {}
    for interval in (10, 25):
        place = folder / str(interval)
        other = Other(place, rank)
        other.publish(1, step=1)
        peer = Peer(place, name, rank, ranks, interval_steps=interval, snapshots=SnapshotOptions(keep=100))
        seeds, own, skipped = [], {}, []
        while peer.step < 100:
            if peer.step == 30:
                other.publish(2, step=2)
            peer.train()
            seeds.append(peer.seeds().get("b"))
            skipped.append(peer.report.publishes_skipped)
            if peer.step % interval == 0:
                own[peer.step] = peer.own()
        peer.codistiller.close()
        found[interval] = {
            "seeds": seeds,
            "own": own,
            "skipped": skipped,
            "bytes": peer.report.bytes_published,
            "last": peer.own(),
            "reads": sorted({key for verb, key in peer.store.calls if verb == "read"}),
        }
    return found


def stores_that_fail_a_write(folder, name, rank, ranks):
    """Each of these fails once, on one rank."""
    found = {}
    for broken, on_rank in (("shard", 0), ("shard", 1), ("manifest", 0), ("latest", 0)):
        place = folder / f"{broken}-{on_rank}"
        with hearing() as said:
            peer = Peer(place, name, rank, ranks, interval_steps=10, snapshots=SnapshotOptions(keep=100))
            if rank == on_rank:
                peer.store.faults.fail("write", times=1, key_contains=broken)
            own, skipped = {}, []
            while peer.step < 60:
                peer.train()
                skipped.append(peer.report.publishes_skipped)
                if peer.step % 10 == 0:
                    own[peer.step] = peer.own()
            peer.codistiller.close()
        found[f"{broken}-{on_rank}"] = {
            "said": said,
            "own": own,
            "skipped": skipped,
            "published": peer.exchange.counters.publishes,
        }
    return found


@contextlib.contextmanager
def small_chunks():
    """Let a chunk be a few rows, so that ranks need different ones."""
    modules = (shards, partial_read, fetcher)
    usual = shards.CHUNK_BYTES
    for module in modules:
        module.CHUNK_BYTES = 32
    yield
    for module in modules:
        module.CHUNK_BYTES = usual


def reads_that_fail(folder, name, rank, ranks):
    """Rank 1 alone cannot read its part, or finds it damaged, or NaN in it."""
    with small_chunks():
        return _fail_to_read(folder, name, rank, ranks)


def _fail_to_read(folder, name, rank, ranks):
    other = Other(folder, rank)
    other.publish(1, step=1)
    peer = Peer(folder, name, rank, ranks, interval_steps=10)
    history = {}

    def train_until(step, *, key="nothing"):
        seeds, before = [], peer.store.count("read", key_contains=key)
        with hearing() as said:
            while peer.step < step:
                peer.train()
                seeds.append((peer.seeds().get("b"), bool(peer.report.quarantined)))
        return {"seeds": seeds, "said": said, "reads": peer.store.count("read", key_contains=key) - before}

    history["begin"] = train_until(10)
    other.publish(2, step=2)
    if rank == 1:
        peer.store.faults.fail("read", times=2, key_contains="shard")
    history["store"] = train_until(110)
    other.publish(3, step=3)
    only_of_rank_1, all_of_rank_1 = _chunks(peer, other)
    if rank == 0:
        path = folder / other.file()
        content = bytearray(path.read_bytes())
        content[only_of_rank_1[-1] * shards.CHUNK_BYTES] ^= 1
        path.write_bytes(content)
    dist.barrier()
    history["damage"] = train_until(170, key="0-2/shard")
    history["damage"]["chunks"] = all_of_rank_1
    other.publish(4, step=4)
    history["better"] = train_until(210)
    other.publish(5, step=5, change=lambda state: state["inner.0.weight"][4].fill_(torch.nan))
    history["nan"] = train_until(250)
    other.publish(6, step=6)
    history["let out"] = train_until(290)
    peer.codistiller.close()
    return history


def _chunks(peer, other):
    """Return the chunks of the newest snapshot that rank 1 alone reads, and all that it reads."""
    said = [other.publisher.previous if peer.rank == 0 else None]
    dist.broadcast_object_list(said)
    manifest = fetcher.Fetcher(peer.store, run_id=None, max_bytes=None).manifest(said[0])
    boxes = {name: fragment.box for name, fragment in named_fragments(peer.teacher()).items()}
    chunks = [None, None]
    dist.all_gather_object(chunks, [chunk for _, chunk in PartialRead(manifest, boxes).chunks])
    return sorted(set(chunks[1]) - set(chunks[0])), chunks[1]


def mistakes_in_the_background(folder, name, rank, ranks):
    """What is no failure of a store is raised on both ranks, at the same step."""
    found = {}
    for verb in ("write", "read"):
        place = folder / verb
        other = Other(place, rank)
        other.publish(1, step=1)
        peer = Peer(place, name, rank, ranks, interval_steps=10)
        peer.train()
        other.publish(2, step=2)
        if rank == 1:
            mistake = ZeroDivisionError("a mistake")
            peer.store.faults.fail(verb, times=1, key_contains="shard", error=mistake)
        try:
            while peer.step < 60:
                peer.train()
        except Exception as error:  # noqa: BLE001 - it is the result
            found[verb] = [peer.step, type(error).__name__, str(error)]
        peer.codistiller.close(publish=False)
    return found


def ends(folder, name, rank, ranks):
    """Both ranks close; or rank 1 leaves no snapshot, comes too late, or has a store that hangs."""
    found = {}
    for kind in ("both", "one leaves", "one is late", "one store hangs"):
        place = folder / kind.replace(" ", "-")
        peer = Peer(place, name, rank, ranks, interval_steps=10)
        while peer.step < 12:
            peer.train()
        is_odd, gate = rank == 1, threading.Event()
        if kind == "one store hangs" and is_odd:
            peer.store.faults.delay("write", gate.wait)
        with hearing() as said:
            if kind == "one is late" and is_odd:
                dist.barrier()
            # Long if all goes well: nothing waits for it then.
            timeout_s = TIMEOUT_S if kind == "both" else 0.3
            peer.codistiller.close(publish=not (kind == "one leaves" and is_odd), timeout_s=timeout_s)
            if kind == "one is late" and not is_odd:
                dist.barrier()
        gate.set()
        found[kind] = {"said": said, "own": peer.own()}
        dist.barrier()
    return found


def resumed_while_running_free(folder, name, rank, ranks):
    """A run that is resumed has the teachers it had, though there are newer ones."""
    other = Other(folder, rank)
    other.publish(1, step=1)
    first = Peer(folder, name, rank, ranks, interval_steps=10)
    while first.step < 20:
        first.train()
    state = first.save()
    before = [first.seeds(), dict(first.report.teachers)]
    first.codistiller.close(publish=False)
    other.publish(2, step=2)
    second = Peer(folder, name, rank, ranks, interval_steps=10, state=state)
    second.train()
    after = [second.seeds(), second.step]
    while second.step < 60:
        second.train()
    second.codistiller.close()
    return {"before": before, "after": after, "end": second.seeds()}


def resumed_in_lockstep(folder, name, rank, ranks):
    """A run that is resumed is the run that was not interrupted, to the bit."""
    ends = []
    for is_interrupted in (False, True):
        place = folder / str(is_interrupted)
        other = Other(place, rank, interval_steps=2)
        for step in range(0, 12, 2):
            other.publish(1 + step // 2, step=step)
        options = {"peers": ["a", "b"], "lockstep": True, "interval_steps": 2}
        peer = Peer(place, name, rank, ranks, **options)
        trace = []
        while peer.step < 10:
            if is_interrupted and peer.step == 5:
                state = peer.save()
                peer.train(settle=False)
                peer.codistiller.close(publish=False)
                peer = Peer(place, name, rank, ranks, state=state, **options)
            peer.train(settle=False)
            trace.append([peer.seeds(), peer.term, [values.tolist() for values in peer.fragments()]])
        peer.codistiller.close()
        ends.append(trace)
    return ends


def starting_with_peers(folder, name, rank, ranks):
    """It publishes step 0, waits for others, and has a teacher from the first loss on."""
    Other(folder, rank).publish(1, step=1)
    peer = Peer(folder, name, rank, ranks, interval_steps=10, membership=Membership(start_with_peers=1))
    loss = peer.forward()
    found = {
        "seeds": peer.seeds(),
        "term": peer.term,
        "files": sorted(path.name for path in folder.glob("a/snapshots/0-0/*")),
        "own": peer.own(),
    }
    peer.optimizer.zero_grad()
    loss.backward()
    peer.finish_step()
    peer.codistiller.close(publish=False)
    return found


def kinds_of_training(folder, name, rank, ranks):
    """However a model is divided, wrapped and stepped, it is published and taught the same."""

    def in_half(module, *, mesh):
        if isinstance(module, nn.Sequential):
            # Running statistics stay in full precision.
            full = MixedPrecisionPolicy(param_dtype=torch.float32, output_dtype=torch.bfloat16)
            fully_shard(module[1], mesh=mesh, mp_policy=full)
        return fully_shard(module, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))

    def recomputing(module, *, mesh):
        if isinstance(module, nn.Sequential):
            module[0] = checkpoint_wrapper(module[0])
        return fully_shard(module, mesh=mesh)

    def only_outermost(module, *, mesh):
        return fully_shard(module, mesh=mesh) if isinstance(module, Net) else module

    kinds = {
        "mixed precision": {"shard": in_half},
        "accumulation": {},
        "recomputing": {"shard": recomputing},
        "only outermost": {"shard": only_outermost},
        "compiled": {"wrap": lambda model: torch.compile(model, backend="aot_eager")},
    }
    found = {}
    for kind, options in kinds.items():
        place = folder / kind.replace(" ", "-")
        other = Other(place, rank, interval_steps=2)
        for step in range(0, 10, 2):
            other.publish(1 + step // 2, step=step)
        peer = Peer(place, name, rank, ranks, peers=["a", "b"], lockstep=True, interval_steps=2, **options)
        terms, seeds = [], []
        while peer.step < 6:
            if kind == "accumulation":
                peer.optimizer.zero_grad()
                for is_last in (False, True):
                    peer.model.set_requires_gradient_sync(is_last)
                    peer.forward().backward()
                peer.finish_step(settle=False)
            else:
                peer.train(settle=False)
            terms.append(peer.term)
            seeds.append(peer.seeds()["b"])
        peer.codistiller.close()
        found[kind] = {
            "terms": terms,
            "seeds": seeds,
            "own": peer.own(),
            "samples": peer.report.samples,
            "is_divided": peer.exchange._life.classroom.divided == {"b"},
        }
    return found


def other_ways_to_hold_a_model(folder, name, rank, ranks):
    """A student that each rank holds whole has a divided teacher, and the other way round."""
    found = {}

    mesh = init_device_mesh("cpu", (ranks,))

    def whole(module, *, mesh):
        return module

    def plain(info):
        return Net()

    def divided(info):
        model = Net()
        fully_shard(model.inner, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    kinds = {
        "divided teacher": {"shard": whole, "wrap": DistributedDataParallel, "build": divided},
        "whole teacher": {"build": plain},
    }
    for kind, options in kinds.items():
        place = folder / kind.replace(" ", "-")
        other = Other(place, rank)
        other.publish(1, step=1)
        peer = Peer(place, name, rank, ranks, interval_steps=10, **options)
        seeds, counts = [], []
        while peer.step < 60:
            if peer.step == 20:
                other.publish(2, step=2)
            peer.train()
            seeds.append(peer.seeds().get("b"))
            counts.append(peer.store.count("read", key_contains="shard"))
        peer.codistiller.close()
        found[kind] = {"seeds": seeds, "reads": counts, "term": peer.term, "own": peer.own()}
    return found


def weights_that_cannot_be_published(folder, name, rank, ranks):
    """What only rank 0 would publish keeps both from beginning."""
    peer = Peer(folder, name, rank, ranks, interval_steps=10)
    peer.model.register_buffer("odd", torch.zeros(2, dtype=torch.complex64))
    try:
        peer.forward()
    except Exception as error:  # noqa: BLE001 - it is the result
        return [type(error).__name__, str(error)]


def signed(folder, name, rank, ranks):
    """Every rank takes what is signed; what is not is refused."""
    file = folder.with_suffix(".key")
    if rank == 0:
        file.write_bytes(b"k" * 32)
        file.chmod(0o600)
    Other(folder, rank).publish(1, step=1)
    with hearing() as said:
        peer = Peer(
            folder, name, rank, ranks, interval_steps=10, snapshots=SnapshotOptions(signing_key_file=file)
        )
        peer.train()
        unsigned = peer.seeds()
        Other(folder, rank, signing_key=SigningKey(secret=b"k" * 32)).publish(2, step=2)
        while peer.step < 40:
            peer.train()
        peer.codistiller.close()
    return {"said": said, "unsigned": unsigned, "signed": peer.seeds(), "own": peer.own()}


def taken_over(folder, name, rank, ranks):
    """The name is taken over at a step that publishes; the ranks then close as after a good run."""
    peer = Peer(folder, name, rank, ranks, peers=["a", "b"], interval_steps=10)
    while peer.step < 9:
        peer.train()
    if rank == 0:
        claim_life(peer.store, name, after=None)
        peer.exchange._life.pace._side.heartbeat.try_to_beat()
    error = None
    try:
        peer.train()
    except PeerTakenError as caught:
        error = caught
    with hearing() as said:
        peer.codistiller.close(timeout_s=TIMEOUT_S)
    return {"step": peer.step, "is_taken": error is not None, "said": said}


def replaced_before_it_is_read(folder, name, rank, ranks):
    """What rank 0 has found at the start is replaced and deleted before any rank has read of it."""
    other = Other(folder, rank)
    if rank == 0:
        other.publisher._keep = 1
    other.publish(1, step=1)
    to_publish = [2]

    def build(info):
        if to_publish:
            other.publish(to_publish.pop(), step=2)
        return peer.build(info)

    membership = Membership(start_with_peers=1, start_timeout_s=TIMEOUT_S)
    peer = Peer(folder, name, rank, ranks, peers=["a", "b"], build=build, membership=membership)
    peer.train()
    found = peer.seeds()
    peer.codistiller.close()
    return found


# Of peers that meet one another.
TOGETHER = [unequal_ranks, two_architectures, the_wide_one_teaches]
# Of the world of two ranks alone, which starting another would take seconds.
ALONE = [
    running_free,
    stores_that_fail_a_write,
    reads_that_fail,
    mistakes_in_the_background,
    ends,
    resumed_while_running_free,
    resumed_in_lockstep,
    starting_with_peers,
    kinds_of_training,
    other_ways_to_hold_a_model,
    weights_that_cannot_be_published,
    signed,
    taken_over,
    replaced_before_it_is_read,
]
WORLDS = {"a": TOGETHER, "b": [*TOGETHER, *ALONE], "d": [unequal_ranks]}


def main(world, rank, ranks, folder):
    torch.set_num_threads(1)
    warnings.simplefilter("error", CodistillWarning)
    group._SECOND_WORD_S = 0.3
    if ranks > 1:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder / world}.rendezvous",
            rank=rank,
            world_size=ranks,
            timeout=datetime.timedelta(seconds=TIMEOUT_S),
        )
    results = {}
    for scenario in WORLDS[world]:
        name = "a" if scenario in ALONE else world
        results[scenario.__name__] = scenario(folder / scenario.__name__, name, rank, ranks)
    torch.save(results, folder / f"{world}-{rank}.pt")


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    except BaseException:  # noqa: BLE001 - it ends in the log
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    # Gloo may abort an interpreter that exits, and a rank that has failed must not wait for the others.
    os._exit(0)
