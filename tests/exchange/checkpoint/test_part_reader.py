import pytest
import torch

from codistill.errors import SnapshotIntegrityError, SnapshotMismatchError, StoreError
from codistill.exchange.checkpoint.classroom import Classroom
from codistill.exchange.checkpoint.fading import Fading
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.part_reader import NotFiniteError, PartReader
from codistill.exchange.checkpoint.sighting import Discovery
from codistill.exchange.teacher_options import TeacherOptions


class Reading:
    """A reader of parts with what it needs around it."""

    def __init__(self, store, make_model):
        self.fetcher = Fetcher(store, run_id=None, max_bytes=None)
        options = TeacherOptions(build=lambda info: make_model())
        self.classroom = Classroom(make_model(), options, Fading(max_age_steps=1, when_stale="keep"))
        self.parts = PartReader(self.classroom, self.fetcher)

    def find(self, peer="b"):
        reference = self.fetcher.pointer(peer).manifest
        return Discovery(manifest=self.fetcher.manifest(reference), reference=reference, first_seen_step=2)


@pytest.fixture
def reading(store, make_model):
    return Reading(store, make_model)


def test_it_reads_what_the_teacher_needs(reading, store, publish):
    publish(store, "b", [5])
    found = reading.find()
    reading.parts.prepare(found)
    arrival = reading.parts.read(found)
    assert sorted(arrival.tensors) == ["bias", "weight"]
    assert torch.equal(arrival.tensors["weight"], torch.full((3, 4), 5.0))
    assert arrival.is_part
    assert arrival.first_seen_step == 2
    assert reading.parts.bytes_read == reading.fetcher.bytes_read > found.manifest.total_bytes


def test_what_does_not_fit_is_refused_when_it_is_read_without_a_download(reading, store, publish, make_model):
    """So that a rank that finds it out goes on with the others."""
    publish(store, "b", [5], model=make_model(classes=7))
    found = reading.find()
    reading.parts.prepare(found)
    with pytest.raises(SnapshotMismatchError, match="Let build return the architecture"):
        reading.parts.read(found)
    assert store.count("read", key_contains="shard") == 0


def test_nan_is_named(reading, store, publish, make_model):
    model = make_model(5.0)
    with torch.no_grad():
        model.bias[1] = torch.nan
    publish(store, "b", [7], model=model)
    found = reading.find()
    reading.parts.prepare(found)
    with pytest.raises(NotFiniteError, match="'bias' of its snapshot at step 7 holds NaN"):
        reading.parts.read(found)


def test_damage_and_outages_are_raised(reading, store, publish):
    publish(store, "b", [5])
    found = reading.find()
    reading.parts.prepare(found)
    store.faults.flip_bit(times=1, key_contains="shard")
    with pytest.raises(SnapshotIntegrityError):
        reading.parts.read(found)
    store.faults.fail("read", times=1, key_contains="shard")
    with pytest.raises(StoreError):
        reading.parts.read(found)
    assert reading.parts.read(found).tensors["bias"].tolist() == [5.0] * 3


def test_it_can_be_given_up(reading, store, publish):
    publish(store, "b", [5])
    found = reading.find()
    reading.parts.prepare(found)
    reading.parts.give_up()
    with pytest.raises(StoreError, match="has been given up"):
        reading.parts.read(found)
