"""On a single rank; `test_ranks` and `test_sharded` have several."""

import pytest
import torch

from codistill.errors import SnapshotIntegrityError, SnapshotMismatchError, StoreError
from codistill.exchange.checkpoint.changes import Changes
from codistill.exchange.checkpoint.classroom import Classroom
from codistill.exchange.checkpoint.delivery import Delivery
from codistill.exchange.checkpoint.fading import Fading
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.part_reader import NotFiniteError, PartReader
from codistill.exchange.checkpoint.sighting import Discovery
from codistill.exchange.teacher_options import TeacherOptions
from codistill.parallel.group import PeerRanks
from codistill.testing.inline_background import InlineBackground


class Way:
    """A delivery with what it needs around it."""

    def __init__(self, store, make_model):
        self.fetcher = Fetcher(store, run_id=None, max_bytes=None)
        options = TeacherOptions(build=lambda info: make_model())
        classroom = Classroom(make_model(), options, Fading(max_age_steps=1, when_stale="keep"))
        parts = PartReader(classroom, self.fetcher)
        self.delivery = Delivery(PeerRanks(), InlineBackground().worker("decode"), parts, is_pinned=False)

    def find(self, peer):
        reference = self.fetcher.pointer(peer).manifest
        return Discovery(manifest=self.fetcher.manifest(reference), reference=reference, first_seen_step=0)

    def changes(self, *, whole="", parts=""):
        arrivals = [self.find(peer) for peer in whole]
        return Changes(
            wanted=(*whole, *parts),
            arrivals=tuple(
                self.fetcher.fetch(one.manifest, one.reference, first_seen_step=0) for one in arrivals
            ),
            discoveries=tuple(map(self.find, parts)),
        )

    def deliver(self):
        """Return what was delivered while training goes on."""
        self.delivery.start()
        assert self.delivery.is_under_way
        for _ in range(10):
            if self.delivery.is_done():
                return self.delivery.take()
        return None


@pytest.fixture
def way(store, make_model):
    return Way(store, make_model)


def test_a_single_rank_has_at_once_what_it_brings(way):
    changes = Changes(wanted=("b",))
    way.delivery.announce(changes)
    assert way.delivery.bring() == changes
    assert not way.delivery.is_under_way


@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_found_is_read_in_part_and_joins_what_was_read_whole(way, store, publish, at_once):
    for peer in "bc":
        publish(store, peer, [ord(peer)])
    changes = way.changes(whole="b", parts="c")
    way.delivery.announce(changes)
    found = way.delivery.bring() if at_once else way.deliver()
    assert [(one.manifest.peer, one.is_part) for one in found.arrivals] == [("b", False), ("c", True)]
    assert torch.equal(found.arrivals[1].tensors["bias"], torch.full((3,), float(ord("c"))))
    assert found.discoveries == changes.discoveries
    assert found.unread == {}
    assert found.coming == {"b", "c"}
    assert not way.delivery.is_under_way


@pytest.mark.parametrize("at_once", [True, False])
def test_what_keeps_a_rank_from_reading_its_part_stands_in_the_changes(
    way, store, publish, make_model, at_once
):
    nan = make_model(1.0)
    with torch.no_grad():
        nan.bias[0] = torch.nan
    models = {
        "b": make_model(1.0),
        "c": make_model(2.0),
        "d": make_model(classes=7),
        "e": nan,
        "f": make_model(3.0),
    }
    for peer, model in models.items():
        publish(store, peer, [1], model=model)
    changes = way.changes(parts="bcdef")
    store.faults.flip_bit(key_contains="b/snapshots")
    store.faults.fail("read", key_contains="c/snapshots")
    way.delivery.announce(changes)
    found = way.delivery.bring() if at_once else way.deliver()
    assert [one.manifest.peer for one in found.arrivals] == ["f"]
    assert {peer: type(error) for peer, error in found.unread.items()} == {
        "b": SnapshotIntegrityError,
        "c": StoreError,
        "d": SnapshotMismatchError,
        "e": NotFiniteError,
    }


def test_a_mistake_while_reading_is_raised(way, store, publish):
    publish(store, "b", [1])
    way.delivery.announce(way.changes(parts="b"))
    store.faults.fail("read", key_contains="shard", error=ZeroDivisionError("a mistake"))
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        way.deliver()


def test_one_delivery_follows_another(way, store, publish):
    for step, parts in ((1, "b"), (2, ""), (3, "b")):
        publish(store, "b", [step], incarnation=step)
        way.delivery.announce(way.changes(parts=parts))
        found = way.deliver()
        assert [one.manifest.step for one in found.arrivals] == ([step] if parts else [])
