import pytest
import torch

from codistill.exchange.checkpoint.changes import Announced, Changes
from codistill.exchange.checkpoint.fetcher import Fetcher


@pytest.fixture
def arrive(store, publish):
    def fetch(peer, step, **options):
        publish(store, peer, [step], **options)
        fetcher = Fetcher(store, run_id=None, max_bytes=None)
        reference = fetcher.pointer(peer).manifest
        return fetcher.fetch(fetcher.manifest(reference), reference, first_seen_step=7 + step)

    return fetch


def test_changes_come_to_another_rank_as_they_are(arrive):
    arrivals = (arrive("b", 1, metadata={"width": 4}), arrive("c", 2))
    changes = Changes(wanted=("b", "c", "d"), quarantined=frozenset("d"), arrivals=arrivals)
    announced = Announced.from_json(changes.to_json(), is_pinned=False)
    assert (announced.wanted, announced.quarantined) == (changes.wanted, changes.quarantined)
    for arrival, room in zip(arrivals, announced.contents, strict=True):
        for content, empty in zip(arrival.contents, room, strict=True):
            assert (empty.dtype, empty.shape) == (torch.uint8, content.shape)
            empty.copy_(content)
    received = announced.decode()
    assert (received.wanted, received.quarantined) == (changes.wanted, changes.quarantined)
    for got, sent in zip(received.arrivals, arrivals, strict=True):
        assert (got.manifest, got.reference, got.first_seen_step) == (
            sent.manifest,
            sent.reference,
            sent.first_seen_step,
        )
        assert got.tensors.keys() == sent.tensors.keys()
        assert all(torch.equal(tensor, sent.tensors[name]) for name, tensor in got.tensors.items())


def test_changes_without_snapshots_are_short(arrive):
    changes = Changes(wanted=(), quarantined=frozenset("b"))
    assert len(changes.to_json()) < 100
    assert Announced.from_json(changes.to_json(), is_pinned=False).decode() == changes


def test_the_weights_themselves_are_not_in_the_announcement(arrive, make_model):
    arrival = arrive("b", 1, model=torch.nn.Linear(300, 300))
    changes = Changes(wanted=("b",), arrivals=(arrival,))
    assert len(changes.to_json()) < 5_000 < arrival.manifest.total_bytes
