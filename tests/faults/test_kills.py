import pytest
import torch
from faults.processes import kill
from faults.trainer import Job
from torch import nn

from codistill import CheckpointExchange, load_snapshot
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.inspection import inspect_run
from codistill.exchange.checkpoint.membership import Membership
from codistill.exchange.checkpoint.publisher import SnapshotOptions
from codistill.stores.directory import DirectoryStore
from codistill.testing import InlineBackground
from faults import kills

pytestmark = pytest.mark.spawn

INTERVAL_STEPS = 5
INTERVALS = 4


def test_after_each_of_twenty_kills_readers_find_a_whole_snapshot_and_later_no_leftovers(tmp_path):
    result = kills.run(tmp_path / "run", count=20, seed=0, with_signals=False)
    assert result.torn == []
    assert result.not_removed == 0
    assert result.not_pruned == 0
    # Kills that hit nothing under way would show nothing.
    assert sum(result.left.values()) == 20
    assert result.left["nothing"] <= 15


def test_a_torn_snapshot_would_be_noticed(tmp_path):
    """The kills above prove something only if what they look for can be seen."""
    exchange = CheckpointExchange(
        tmp_path, peer="a", interval_steps=1, snapshots=SnapshotOptions(metadata={"base": 0})
    )
    exchange.background = InlineBackground()
    model = nn.Linear(kills.VALUES, 1, bias=False)
    exchange.bind(model, None)
    look = kills.Look(tmp_path)
    exchange.begin(Progress())
    for step in (1, 2):
        with torch.no_grad():
            model.weight.fill_(step)
        exchange.step(Progress(step=step))
    look.check_whole("a/snapshots/0-1/manifest.json")
    with pytest.raises(kills.TornError, match="is older than"):
        look.check_whole("a/snapshots/0-2/manifest.json")
    with torch.no_grad():
        model.weight[0, 0] = 7.0
    exchange.step(Progress(step=3))
    with pytest.raises(kills.TornError, match="is torn"):
        look.check_whole(None)
    exchange.close(Progress(step=3), publish=False)
    look.close()


@pytest.mark.parametrize("last_written", ["shard", "manifest"])
def test_what_a_killed_peer_left_is_deleted_as_soon_as_it_begins_again(tmp_path, join, last_written):
    killed = join(tmp_path, "a")
    killed.step()
    pointer = (tmp_path / "a" / "latest.json").read_bytes()
    killed.step()
    # As if it had been killed on the way to the second snapshot.
    (tmp_path / "a" / "latest.json").write_bytes(pointer)
    if last_written == "shard":
        (tmp_path / "a" / "snapshots" / "0-1" / "manifest.json").unlink()
    (orphan,) = inspect_run(DirectoryStore(tmp_path)).orphans
    assert orphan.order == (0, 1)
    join(tmp_path, "a", membership=Membership(rejoin=True)).loss()
    assert inspect_run(DirectoryStore(tmp_path)).orphans == ()
    assert load_snapshot(tmp_path, "a")[1].sequence == 0


def test_of_three_peers_one_is_killed_and_comes_back_and_the_others_just_go_on(tmp_path, start_peer, ask):
    def job(peer, life=0):
        return Job(
            store=tmp_path / "run",
            folder=tmp_path,
            peer=peer,
            life=life,
            interval_steps=INTERVAL_STEPS,
            width=8,
        )

    peers = {peer: start_peer(job(peer)) for peer in "abc"}
    for _, connection in peers.values():
        assert connection.poll(60.0)
        assert connection.recv() == {"step": 0}

    def train(intervals=1):
        for _ in range(intervals):
            answers = {
                peer: ask(connection, "train", INTERVAL_STEPS) for peer, (_, connection) in peers.items()
            }
            for peer, answer in answers.items():
                assert answer["error"] is None
                # Whoever comes back may find that its teachers' old snapshots have been deleted.
                assert all(peer == "c" and "taken instead" in message for message in answer["warnings"])
        return answers

    # A third of the way, together.
    told = train(INTERVALS)
    assert told["a"]["incarnations"] == {"b": 0, "c": 0}
    assert ask(peers["c"][1], "save") == {"step": INTERVALS * INTERVAL_STEPS}
    # Killed while it trains on.
    process, connection = peers.pop("c")
    connection.send(("train", 10 * INTERVAL_STEPS))
    assert kill(process) == -9
    # The second third without it: its teacher stays, and ages.
    told = train(INTERVALS)
    for peer in "ab":
        assert told[peer]["incarnations"]["c"] == 0
        assert told[peer]["ages"]["c"] >= (INTERVALS - 1) * INTERVAL_STEPS
        assert told[peer]["ages"]["ab".replace(peer, "")] <= 2 * INTERVAL_STEPS
    # It is back, where its state was saved.
    peers["c"] = start_peer(job("c", life=1))
    assert peers["c"][1].poll(60.0)
    assert peers["c"][1].recv() == {"step": INTERVALS * INTERVAL_STEPS}
    told = train(1)
    assert load_snapshot(tmp_path / "run", "c")[1].incarnation == 1
    used = dict.fromkeys("ab", 0)
    for intervals in (1, 2, 3):
        told = train(1)
        for peer in "ab":
            if told[peer]["incarnations"]["c"] == 1:
                used[peer] = used[peer] or intervals
    assert 0 not in used.values(), used
    for process, connection in peers.values():
        ask(connection, "close")
        process.join(30.0)
        assert process.exitcode == 0
