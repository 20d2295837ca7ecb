"""In a world of one rank, whose thread is this one; `test_sharded` has real ones."""

import threading

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from codistill.errors import StoreError
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.agreement import Agreement
from codistill.exchange.checkpoint.background import Threads
from codistill.exchange.checkpoint.fetcher import load_snapshot
from codistill.exchange.checkpoint.life import Life
from codistill.exchange.checkpoint.publisher import Publisher
from codistill.exchange.checkpoint.shard_writer import ShardWriter
from codistill.exchange.checkpoint.sharded_publishing import ShardedPublishing
from codistill.exchange.teacher_options import TeacherOptions
from codistill.parallel.group import PeerRanks
from codistill.parallel.weights import copy_into
from codistill.testing.inline_background import InlineBackground

FILES = ["manifest.json", "shard-00001-of-00001.safetensors"]


@pytest.fixture
def mesh():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.fixture
def make_divided(mesh, make_model):
    def make(value=0.0):
        return fully_shard(make_model(value), mesh=mesh)

    return make


def fill(model, value):
    copy_into(model, {"weight": torch.full((3, 4), value), "bias": torch.full((3,), value)})


def publishing_of(store, model, *, worker=None, is_still_ours=lambda: True):
    ranks = PeerRanks()
    options = {"peer": "a", "incarnation": 0, "codec": "exact", "ranks": ranks}
    life = Life(run_id="c0ffee", peer="a", incarnation=0, interval_steps=5, metadata={})
    return ShardedPublishing(
        ShardWriter.open(store, model, **options),
        Publisher(store, life, keep=None, is_still_ours=is_still_ours),
        ranks=ranks,
        agreement=Agreement(ranks),
        worker=worker or InlineBackground().worker("publish"),
    )


def value_of(store):
    state, info = load_snapshot(store, "a")
    (value,) = {float(number) for tensor in state.values() for number in tensor.flatten()}
    return value, info.step


def names(store):
    return store.list_names("a/snapshots", limit=10)


def test_it_is_written_and_then_pointed_to_when_ranks_meet(store, make_divided):
    publishing = publishing_of(store, make_divided(2.0))
    assert not publishing.is_under_way
    assert publishing.advance() is None
    publishing.begin(Progress(step=10))
    assert publishing.is_under_way
    assert not publishing.is_waiting
    assert store.list_names("a/snapshots/0-0", limit=10) == FILES[1:]
    assert publishing.advance() is None
    assert publishing.is_under_way
    assert not publishing.is_waiting
    published = publishing.advance()
    assert not publishing.is_under_way
    assert (published.has_failed, published.error) == (False, None)
    assert published.bytes_written == sum(
        len(store.read(call.key, max_bytes=10**6)) for call in store.calls if call.verb == "write"
    )
    assert value_of(store) == (2.0, 10)


def test_it_publishes_what_the_weights_were_when_it_began(store, make_divided):
    model = make_divided(2.0)
    publishing = publishing_of(store, model)
    publishing.begin(Progress(step=10), finished=True)
    fill(model, 3.0)
    assert publishing.finish().bytes_written > 0
    assert publishing.finish() is None
    assert value_of(store) == (2.0, 10)
    assert load_snapshot(store, "a")[1].finished


def test_one_snapshot_follows_the_other_under_numbers_of_their_own(store, make_divided):
    model = make_divided(1.0)
    publishing = publishing_of(store, model)
    for step in (5, 10):
        fill(model, float(step))
        publishing.publish_now(Progress(step=step))
    assert names(store) == ["0-0", "0-1"]
    assert value_of(store) == (10.0, 10)


@pytest.mark.parametrize("broken", ["shard", "manifest"])
def test_a_store_that_fails_leaves_nothing_of_this_snapshot_and_the_one_before(store, make_divided, broken):
    model = make_divided(1.0)
    publishing = publishing_of(store, model)
    publishing.publish_now(Progress(step=5))
    store.faults.fail("write", times=1, key_contains=broken)
    publishing.begin(Progress(step=10))
    published = publishing.finish()
    assert published.has_failed
    assert published.bytes_written == 0
    where = "Rank 0 of this peer could not write its shard: " if broken == "shard" else ""
    assert str(published.error).startswith(f"{where}The test lets write")
    assert names(store) == ["0-0"]
    assert value_of(store) == (1.0, 5)
    publishing.publish_now(Progress(step=15))
    assert names(store) == ["0-0", "0-2"]
    assert value_of(store) == (1.0, 15)


def test_a_shard_that_was_written_is_deleted_where_ranks_give_up(store, make_divided):
    publishing = publishing_of(store, make_divided())
    store.faults.lose_answer("write", times=1, key_contains="shard")
    publishing.begin(Progress(step=5))
    assert names(store) == ["0-0"]
    assert publishing.finish().has_failed
    assert names(store) == []


def test_a_snapshot_that_may_have_been_pointed_to_stays_and_is_never_written_again(store, make_divided):
    publishing = publishing_of(store, make_divided(1.0))
    store.faults.lose_answer("write", times=1, key_contains="latest")
    with pytest.raises(StoreError, match="get lost"):
        publishing.publish_now(Progress(step=5))
    assert value_of(store) == (1.0, 5)
    publishing.publish_now(Progress(step=10))
    assert names(store) == ["0-0", "0-1"]


def test_a_failure_without_a_word_is_a_failure_all_the_same(store, make_divided):
    publishing = publishing_of(store, make_divided())
    store.faults.fail("write", times=1, key_contains="shard", error=StoreError(""))
    publishing.begin(Progress(step=5))
    assert publishing.finish().has_failed


def test_a_mistake_is_raised_where_ranks_meet(store, make_divided):
    publishing = publishing_of(store, make_divided())
    store.faults.fail("write", times=1, key_contains="shard", error=ZeroDivisionError("a mistake"))
    publishing.begin(Progress(step=5))
    assert not publishing.is_waiting
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        publishing.advance()


def test_after_a_mistake_nothing_is_under_way(store, make_divided):
    publishing = publishing_of(store, make_divided())
    store.faults.fail("write", times=1, error=ZeroDivisionError("a mistake"))
    publishing.begin(Progress(step=5))
    with pytest.raises(ZeroDivisionError):
        publishing.finish()
    assert not publishing.is_under_way
    assert publishing.finish() is None
    publishing.publish_now(Progress(step=6))
    assert value_of(store)[1] == 6


def test_weights_that_cannot_be_published_are_raised_where_ranks_meet(store, make_divided):
    model = make_divided()
    publishing = publishing_of(store, model)
    model.register_buffer("odd", torch.zeros(2, dtype=torch.complex64))
    publishing.begin(Progress(step=5))
    with pytest.raises(TypeError, match=r"state\['odd'\] must be a dense tensor"):
        publishing.advance()


def test_a_name_that_has_been_taken_over_is_not_written_under(store, make_divided):
    publishing = publishing_of(store, make_divided(), is_still_ours=lambda: False)
    publishing.begin(Progress(step=5))
    published = publishing.finish()
    assert not published.has_failed
    assert names(store) == []
    assert store.count("write", key_contains="latest") == 0


def test_a_store_that_hangs_is_given_up_at_the_end(store, make_divided):
    background, gate = Threads(), threading.Event()
    publishing = publishing_of(store, make_divided(), worker=background.worker("publish"))
    store.faults.delay("write", gate.wait, times=1)
    publishing.begin(Progress(step=5))
    assert publishing.is_waiting
    published = publishing.finish(timeout_s=0.01)
    assert published.has_failed
    assert "The store has not answered in time." in str(published.error)
    gate.set()
    assert background.stop(60.0) == []


# As a part of an exchange


def exchange_of(join, store, model, **options):
    build = options.pop("build", None) or (lambda info: nn.Linear(4, 3))
    return join(store, "a", model=model, teachers=TeacherOptions(build=build), **options)


def test_one_rank_of_a_divided_model_is_a_peer_like_any_other(store, join, publish, make_divided, weight_of):
    publish(store, "b", [30])
    model = make_divided(1.0)
    exchange = exchange_of(join, store, model, build=lambda info: make_divided())
    assert weight_of(exchange, "b") == 30.0
    assert exchange._life.classroom.divided == {"b"}
    for step in range(1, 8):
        if step == 3:
            publish(store, "b", [50], incarnation=1)
        fill(model, float(step))
        exchange.step(Progress(step=step))
    assert weight_of(exchange, "b") == 50.0
    assert exchange.counters.publishes > 1
    exchange.close(Progress(step=8), publish=True)
    assert value_of(store) == (7.0, 8)
    assert load_snapshot(store, "a")[1].finished


def test_a_model_of_which_only_the_outermost_is_divided_is_so_after_its_forward_too(
    store, join, publish, make_divided
):
    """The first loss follows the first forward, after which the weights are whole."""
    publish(store, "b", [3])
    model = make_divided(1.0)
    model(torch.zeros(2, 4))
    exchange = exchange_of(join, store, model, build=lambda info: make_divided())
    for step in range(1, 5):
        exchange.predict(torch.zeros(2, 4), None)
        model(torch.zeros(2, 4))
        assert exchange._life.classroom.divided == {"b"}
        exchange.step(Progress(step=step))
    exchange.close(Progress(step=5), publish=True)
    assert value_of(store) == (1.0, 5)


def test_a_divided_student_needs_build(store, join, make_divided):
    model = make_divided(1.0)
    model(torch.zeros(2, 4))
    with pytest.raises(
        TypeError, match=r"fully_shard\) cannot be copied .* Pass TeacherOptions\(build=\.\.\.\)"
    ):
        join(store, "a", model=model)


def test_earlier_snapshots_are_deleted_with_their_shards(store, join, make_divided):
    exchange = exchange_of(join, store, make_divided(1.0))
    for step in range(1, 10):
        exchange.step(Progress(step=step))
    exchange.close(Progress(step=10), publish=True)
    left = names(store)
    assert len(left) == 2
    assert all(store.list_names(f"a/snapshots/{name}", limit=10) == FILES for name in left)
    assert exchange.counters.publishes > 3
