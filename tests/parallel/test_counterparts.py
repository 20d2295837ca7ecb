import threading

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from codistill.errors import ExchangeTimeout
from codistill.parallel import counterparts as module
from codistill.parallel.counterparts import Counterparts
from codistill.testing.peers import connect_peers, run_peers


def among_peers(function, count, *, timeout_s=30.0):
    """Run a function of counterparts in as many threads, and return what each returned."""
    groups = connect_peers(count, timeout_s=timeout_s)

    def run(name):
        counterparts = Counterparts(groups[int(name)])
        counterparts.connect()
        return function(counterparts)

    return list(run_peers(run, map(str, range(count))).values())


def test_peers_are_numbered():
    assert among_peers(lambda peers: (peers.number, peers.size), 3) == [(0, 3), (1, 3), (2, 3)]


def test_words_of_all_come_to_all():
    words = [[number, -number, 2**62 + number] for number in range(3)]
    assert among_peers(lambda peers: peers.gather_words(words[peers.number], step=0), 3) == [words] * 3


def test_bytes_may_be_of_different_lengths():
    contents = [b"", b"short", b"x" * 1000]
    got = among_peers(lambda peers: peers.gather_bytes(contents[peers.number], step=0), 3)
    assert got == [contents] * 3
    assert among_peers(lambda peers: peers.gather_bytes(b"", step=0), 2) == [[b"", b""]] * 2


@pytest.mark.parametrize("size", [0, 1, 7, 20])
def test_tensors_are_gathered_in_pieces(size, monkeypatch):
    monkeypatch.setattr(module, "_PIECE_BYTES", 7)
    own = [torch.arange(size, dtype=torch.uint8) + 100 * number for number in range(2)]
    for rows in among_peers(lambda peers: peers.gather(own[peers.number], step=0), 2):
        assert all(torch.equal(row, expected) for row, expected in zip(rows, own, strict=True))
    monkeypatch.undo()


def test_tensors_of_a_device_that_the_group_does_not_serve_go_the_way_of_words():
    own = [torch.full((3,), number, dtype=torch.uint8) for number in range(2)]
    words = connect_peers(2)

    def swap(peers):
        peers._words, peers._devices = words[peers.number], {"cuda"}
        return peers.gather(own[peers.number], step=0)

    for rows in among_peers(swap, 2):
        assert torch.equal(torch.stack(rows), torch.stack(own))
    assert [group._get_sequence_number_for_group() for group in words] == [1, 1]


def test_a_peer_that_has_ended_is_missed_at_once():
    gone = threading.Event()

    def swap(peers):
        peers.gather_words([1], step=1)
        if peers.number == 1:
            peers._group = peers._words = None
            gone.set()
            return None
        gone.wait(30)
        with pytest.raises(ExchangeTimeout) as caught:
            peers.gather(torch.ones(3, dtype=torch.uint8), step=2)
        return caught.value

    groups = connect_peers(2)

    def run(name):
        counterparts = Counterparts(groups[int(name)])
        groups[int(name)] = None  # the last reference is the counterparts' own
        counterparts.connect()
        return swap(counterparts)

    error = run_peers(run, "01")["0"]
    assert isinstance(error, TimeoutError)
    assert (error.peer, error.step) == ("1", 2)
    assert "Peer '1' did not take part in the swap of predictions at step 2" in str(error)


def test_peers_that_come_too_late_are_missed_after_the_timeout():
    def swap(peers):
        if peers.number != 0:
            return None
        with pytest.raises(ExchangeTimeout) as caught:
            peers.gather_words([1], step=5)
        return caught.value

    error = among_peers(swap, 3, timeout_s=0.2)[0]
    assert (error.peer, error.step) == (None, 5)
    assert "One of the peers '1', '2' did not take part" in str(error)


@pytest.fixture
def world_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_one_peer_is_none(world_of_one):
    with pytest.raises(ValueError, match="group must hold at least two peers, got 1"):
        Counterparts(world_of_one)
    with pytest.raises(ValueError, match="group must hold at least two peers, got 1"):
        Counterparts(DeviceMesh("cpu", [0], mesh_dim_names=("peers",)))


def test_a_mesh_of_more_dimensions_is_refused(world_of_one):
    mesh = DeviceMesh("cpu", [[0]], mesh_dim_names=("peers", "ranks"))
    with pytest.raises(ValueError, match=r'1-D mesh over peers, got one of 2 dimensions\. .*mesh\["peers"\]'):
        Counterparts(mesh)


@pytest.mark.parametrize("group", [5, "world", [0, 1], None])
def test_what_is_no_group_is_named(group):
    with pytest.raises(TypeError, match=f"group must be .* ProcessGroup .*, got {type(group).__name__}"):
        Counterparts(group)


def test_a_group_of_other_ranks_is_refused():
    with pytest.raises(ValueError, match=r"group must hold this process, got a group of other ranks\."):
        Counterparts(dist.GroupMember.NON_GROUP_MEMBER)


def test_no_thread_is_left():
    before = threading.active_count()
    among_peers(lambda peers: peers.gather_words([1], step=0), 2)
    assert threading.active_count() == before
