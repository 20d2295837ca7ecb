import threading

import pytest
import torch
import torch.distributed as dist

from codistill.parallel.group import PeerRanks


class Ranks:
    """A world of one, which torch takes for a peer of its own."""

    def __enter__(self):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        return dist.group.WORLD

    def __exit__(self, *error):
        dist.destroy_process_group()


def use_all(ranks):
    ranks.connect()
    buffer = torch.arange(4, dtype=torch.uint8)
    ranks.broadcast_into([buffer])
    assert torch.equal(buffer, torch.arange(4, dtype=torch.uint8))
    is_done = ranks.start_broadcast([buffer])
    assert ranks.gather(b"word") == [b"word"]
    assert ranks.have_all_come(0.0)
    used = ranks.rank, ranks.size, ranks.maximum([3, -1]), ranks.broadcast(b"word"), is_done()
    ranks.close()
    ranks.close()
    return used


def test_without_a_process_group_it_is_this_process():
    assert use_all(PeerRanks()) == (0, 1, [3, -1], b"word", True)


def test_a_world_of_one_is_this_process():
    with Ranks() as world:
        assert use_all(PeerRanks()) == (0, 1, [3, -1], b"word", True)
        assert use_all(PeerRanks(world)) == (0, 1, [3, -1], b"word", True)


def test_a_single_rank_makes_no_group_and_sends_nothing(monkeypatch):
    with Ranks():
        ranks = PeerRanks()
        for name in ("new_group", "all_reduce", "broadcast", "gather"):
            monkeypatch.setattr(dist, name, lambda *args, **options: pytest.fail("must not be asked"))
        assert use_all(ranks)[1] == 1
        monkeypatch.undo()


def test_a_torch_without_distributed_is_this_process(monkeypatch):
    monkeypatch.setattr(dist, "is_available", lambda: False)
    monkeypatch.setattr(dist, "is_initialized", lambda: pytest.fail("must not be asked"))
    assert PeerRanks().size == 1
    monkeypatch.undo()


@pytest.mark.parametrize("group", [5, "world", [0, 1]])
def test_what_is_no_group_is_named(group):
    with pytest.raises(TypeError, match=f"group must be .* ProcessGroup, got {type(group).__name__}"):
        PeerRanks(group)


def test_a_group_of_other_ranks_is_refused(monkeypatch):
    with Ranks() as world:
        monkeypatch.setattr(dist, "get_rank", lambda group=None: -1)
        with pytest.raises(ValueError, match=r"group must hold this process, got a group of other ranks\."):
            PeerRanks(world)
        monkeypatch.undo()


def test_a_single_rank_leaves_no_thread():
    before = threading.active_count()
    use_all(PeerRanks())
    assert threading.active_count() == before
