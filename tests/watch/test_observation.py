import pytest

from codistill.errors import SnapshotFormatError, StoreError
from codistill.exchange.checkpoint.lives import open_run
from codistill.snapshots.keys import manifest_key, pointer_key
from codistill.snapshots.manifest import ManifestReference
from codistill.snapshots.pointer import Pointer
from codistill.snapshots.status import MAX_STATUS_BYTES
from codistill.watch.observation import MOST_PEERS, observe


def point(store, peer, incarnation, sequence):
    reference = ManifestReference(
        key=manifest_key(peer, incarnation, sequence), size_bytes=100, sha256="0" * 64
    )
    pointer = Pointer(
        run_id=open_run(store),
        peer=peer,
        incarnation=incarnation,
        sequence=sequence,
        manifest=reference,
    )
    store.write(pointer_key(peer), pointer.to_json())


def test_status_and_pointer_are_read_and_nothing_else_of_a_peer(store, tell):
    tell("a", step=3)
    point(store, "a", 1, 7)
    before = len(store.calls)
    (a,) = observe(store).peers
    assert (a.status.step, a.newest, a.problems) == (3, (1, 7), ())
    keys = [call.key for call in store.calls[before:]]
    assert keys == ["run.json", "", "a/status.json", "a/latest.json"]
    assert {call.verb for call in store.calls[before:]} == {"read", "list_names"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"format": 1, "run_id": "\\u001b[2J"}',
        b'{"format": 99}',
        b" " * (MAX_STATUS_BYTES + 1),
    ],
)
def test_a_hostile_document_is_a_problem_of_its_peer_only(store, tell, content):
    tell("a", step=3)
    store.write("b/status.json", content)
    store.write("b/latest.json", content)
    a, b = observe(store).peers
    assert (a.status.step, a.problems) == (3, ())
    assert (b.status, b.newest, len(b.problems)) == (None, None, 2)
    assert all(problem.isprintable() and "b/" in problem for problem in b.problems)


def test_a_status_of_another_run_is_a_problem(store, tell):
    tell("a", run_id="abc")
    (a,) = observe(store).peers
    assert a.status is None
    assert "of run" in a.problems[0]
    assert a.problems[0].endswith("got abc.")


def test_a_peer_that_cannot_be_read_does_not_hide_the_others(store, tell):
    tell("a")
    tell("b")
    store.faults.fail("read", key_contains="a/")
    a, b = observe(store).peers
    assert len(a.problems) == 2
    assert (b.status.peer, b.problems) == ("b", ())


def test_what_else_lies_there_is_no_peer(store, tell):
    tell("a")
    store.write("RUN.JSON", b"{}")
    store.write("x" * 80 + "/status.json", b"{}")
    assert [peer.peer for peer in observe(store).peers] == ["a"]


def test_a_store_without_its_run_is_an_error(store):
    store.delete("run.json")
    with pytest.raises(StoreError, match=r"no run\.json any more"):
        observe(store)


def test_a_store_of_something_else_is_an_error(store):
    store.write("run.json", b'{"format": 1, "kind": "results"}')
    with pytest.raises(SnapshotFormatError, match="run_id"):
        observe(store)


def test_more_peers_than_can_be_shown_are_said(store):
    for number in range(MOST_PEERS + 1):
        store.write(f"p{number:04}/x", b"")
    observation = observe(store)
    assert len(observation.peers) == MOST_PEERS
    assert f"more than {MOST_PEERS} peers" in observation.problems[0]
