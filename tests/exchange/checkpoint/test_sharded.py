"""Peers whose ranks divide the model among them, each rank a process, through a directory."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from codistill import load_snapshot
from codistill.cli import main
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.inspection import inspect_run
from codistill.snapshots.keys import parse_snapshot_name
from codistill.stores import DirectoryStore

pytestmark = pytest.mark.spawn

ANY = {"run_id": None, "max_bytes": None}
PROGRAM = Path(__file__).with_name("sharded_ranks.py")
NAMES = [
    "embedding.weight",
    "head.bias",
    "head.weight",
    *(f"inner.0.{name}" for name in ("bias", "weight")),
    *(f"inner.1.{name}" for name in ("bias", "num_batches_tracked", "running_mean", "running_var", "weight")),
    *(f"inner.3.{name}" for name in ("bias", "weight")),
    "scale",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def results(start_world, folder):
    """Results of peers of 1, 2 and 4 ranks, by peer, rank and scenario."""
    worlds = {
        name: start_world(PROGRAM, name, ranks, folder) for name, ranks in (("a", 1), ("b", 2), ("d", 4))
    }
    return {name: world.results() for name, world in worlds.items()}


@pytest.fixture(scope="module")
def trio(results):
    """Results of the three, by scenario, peer and rank."""
    return {
        scenario: {
            name: [rank[scenario] for rank in of_peer]
            for name, of_peer in results.items()
            if scenario in of_peer[0]
        }
        for scenario in results["a"][0]
    }


@pytest.fixture(scope="module")
def two(results):
    """Results of both ranks of one peer, by scenario."""
    first, second = results["b"]
    return {scenario: (first[scenario], second[scenario]) for scenario in first}


def joined(fragments):
    """Return whole tensors from every rank's fragments; what is not divided is rank 0's."""
    found = {}
    for of_rank in reversed(fragments):
        for name, (offsets, shape, values) in of_rank.items():
            whole = found.setdefault(name, torch.full(shape, -1, dtype=values.dtype))
            whole[tuple(map(slice, offsets, map(int.__add__, offsets, values.shape)))] = values
    return found


def differences(state, other):
    """Return the names of what is not the same to the bit."""
    assert sorted(state) == sorted(other)
    return [name for name, tensor in state.items() if not torch.equal(tensor, other[name])]


def snapshots(folder, peer="a"):
    """Return step, weights and what is known of every snapshot that lies there, oldest first."""
    fetcher = Fetcher(DirectoryStore(folder), **ANY)
    manifests, reference = [], fetcher.pointer(peer).manifest
    while reference is not None:
        manifests.append(fetcher.manifest(reference))
        reference = manifests[-1].previous
    return [(manifest, fetcher.tensors(manifest)) for manifest in reversed(manifests)]


def said_nothing(scenario):
    return [result["said"] for result in scenario] == [[], []]


# Peers of 1, 2 and 4 ranks


def test_peers_of_unequal_ranks_teach_one_another_the_very_weights(trio):
    peers = trio["unequal_ranks"]
    for step in (2, 4, 6):
        own = {name: joined([rank[step]["own"] for rank in ranks]) for name, ranks in peers.items()}
        for name, ranks in peers.items():
            others = sorted(peers.keys() - {name})
            assert all(sorted(rank[step]["taught"]) == others for rank in ranks)
            for other in others:
                taught = [rank[step]["taught"][other] for rank in ranks]
                assert {one["step"] for one in taught} == {step}
                assert differences(joined([one["fragments"] for one in taught]), own[other]) == []


def test_each_rank_holds_its_part_of_a_teacher_only(trio):
    for name, ranks in trio["unequal_ranks"].items():
        held = [rank[2]["taught"]["a" if name != "a" else "b"]["fragments"] for rank in ranks]
        rows = [len(of_rank["embedding.weight"][2]) for of_rank in held]
        assert rows == {"a": [7], "b": [4, 3], "d": [2, 2, 2, 1]}[name]


def test_every_rank_of_a_peer_has_all_of_what_is_not_divided(trio):
    """Running statistics are of each rank's own batches; those of rank 0 are published."""
    b, d = trio["unequal_ranks"]["b"], trio["unequal_ranks"]["d"]
    own = [rank[2]["own"]["inner.1.running_mean"][2] for rank in b]
    assert not torch.equal(own[0], own[1])
    for rank in d:
        assert torch.equal(rank[2]["taught"]["b"]["fragments"]["inner.1.running_mean"][2], own[0])


@pytest.mark.parametrize("scenario", ["two_architectures", "the_wide_one_teaches"])
def test_peers_of_different_architectures_hold_each_others_weights(trio, scenario):
    peers = trio[scenario]
    shapes = {"a": (7, 6), "b": (7, 10)}
    learners = {"a": "b", "b": "a"} if scenario == "two_architectures" else {"a": "b"}
    for step in (2, 4):
        own = {name: joined([rank[step]["own"] for rank in ranks]) for name, ranks in peers.items()}
        for name, ranks in peers.items():
            assert own[name]["embedding.weight"].shape == shapes[name]
            taught = [rank[step]["taught"] for rank in ranks]
            if name not in learners:
                assert taught == [{}, {}]
                continue
            other = learners[name]
            for of_rank in taught:
                assert list(of_rank) == [other]
            fragments = [of_rank[other]["fragments"] for of_rank in taught]
            assert differences(joined(fragments), own[other]) == []
            assert all(rank[step]["term"] > 0.0 for rank in ranks)


# While training goes on


@pytest.mark.parametrize("interval_steps", [10, 25])
def test_ranks_change_teachers_and_skip_publishes_at_the_same_step(two, interval_steps):
    first, second = (result[interval_steps] for result in two["running_free"])
    assert first["seeds"] == second["seeds"]
    assert first["skipped"] == second["skipped"]
    assert first["seeds"][0] == 1
    changes = [
        step for step, (one, next_one) in enumerate(pairwise(first["seeds"]), start=2) if one != next_one
    ]
    assert len(changes) == 1
    assert changes[0] % 10 == 0
    assert first["seeds"][-1] == 2


@pytest.mark.parametrize("interval_steps", [10, 25])
def test_a_snapshot_holds_the_weights_of_all_ranks_at_one_step(two, folder, interval_steps):
    first, second = (result[interval_steps] for result in two["running_free"])
    found = snapshots(folder / "running_free" / str(interval_steps))
    assert len(found) > 3
    assert [manifest.finished for manifest, _ in found] == [False] * (len(found) - 1) + [True]
    for manifest, state in found[:-1]:
        assert [len(entry.parts) for entry in manifest.tensors if entry.name == "inner.0.weight"] == [2]
        own = joined([first["own"][manifest.step], second["own"][manifest.step]])
        assert differences(state, own) == []
    assert found[-1][0].step == 100
    assert differences(found[-1][1], joined([first["last"], second["last"]])) == []


def test_ranks_beside_the_first_touch_nothing_but_shards(two):
    first, second = two["running_free"]
    for interval_steps in (10, 25):
        assert second[interval_steps]["reads"]
        assert all("shard" in key for key in second[interval_steps]["reads"])
        assert any("latest" in key for key in first[interval_steps]["reads"])
        assert 0 < second[interval_steps]["bytes"] < first[interval_steps]["bytes"]


@pytest.mark.parametrize("broken", ["shard-0", "shard-1", "manifest-0", "latest-0"])
def test_a_store_that_fails_a_write_on_one_rank_costs_all_one_snapshot(two, folder, broken):
    first, second = (result[broken] for result in two["stores_that_fail_a_write"])
    assert first["skipped"] == second["skipped"]
    assert first["published"] == second["published"] >= 2
    (said,) = first["said"]
    assert second["said"] == []
    assert "Training goes on, and it is tried again at a later interval." in said
    if broken.startswith("shard"):
        assert f"Rank {broken[-1]} of this peer could not write its shard" in said
    place = folder / "stores_that_fail_a_write" / broken
    found = snapshots(place)
    assert len(found) == first["published"]
    for manifest, state in found[:-1]:
        own = joined([result["own"][manifest.step] for result in (first, second)])
        assert differences(state, own) == []
    # Nothing is left of the snapshot that failed, unless somebody may have been pointed to it.
    numbers = sorted(parse_snapshot_name(path.name)[1] for path in (place / "a" / "snapshots").iterdir())
    (missing,) = set(range(max(numbers) + 1)) - {manifest.sequence for manifest, _ in found}
    assert (missing in numbers) == (broken == "latest-0")
    for path in (place / "a" / "snapshots").iterdir():
        assert len(list(path.iterdir())) == 3


def test_a_store_that_fails_reads_on_one_rank_is_said_once_and_asked_again(two):
    first, second = (result["store"] for result in two["reads_that_fail"])
    assert first["seeds"] == second["seeds"]
    assert {seed for seed, _ in first["seeds"][:39]} == {1}
    assert first["seeds"][-1] == (2, False)
    (said,) = first["said"]
    assert said.startswith("Nothing new was taken from peer 'b' at step")
    assert "The test lets read" in said
    assert second["said"] == []


def test_a_chunk_that_is_damaged_for_one_rank_is_refused_by_all(two):
    first, second = (result["damage"] for result in two["reads_that_fail"])
    assert set(first["seeds"]) == set(second["seeds"]) == {(2, False)}
    (said,) = first["said"]
    assert "'b/snapshots/0-2/shard-00001-of-00001.safetensors' of peer 'b' is not what was published" in said
    assert second["said"] == []
    # It is damaged for good, and not read again.
    assert 0 < second["reads"] <= len(second["chunks"])
    better = [result["better"] for result in two["reads_that_fail"]]
    assert better[0]["seeds"] == better[1]["seeds"]
    assert better[0]["seeds"][-1] == (4, False)
    assert said_nothing(better)


def test_nan_in_one_ranks_part_quarantines_on_all_until_there_is_a_better_snapshot(two):
    first, second = (result["nan"] for result in two["reads_that_fail"])
    assert first["seeds"] == second["seeds"]
    # The weights are still those of before.
    assert first["seeds"][-1] == (4, True)
    (said,) = first["said"]
    assert "'inner.0.weight' of its snapshot at step 5 holds NaN" in said
    assert second["said"] == []
    out = [result["let out"] for result in two["reads_that_fail"]]
    assert out[0]["seeds"] == out[1]["seeds"]
    assert out[0]["seeds"][-1] == (6, False)
    assert said_nothing(out)


@pytest.mark.parametrize("verb", ["write", "read"])
def test_a_mistake_in_the_background_of_one_rank_is_raised_on_all_at_the_same_step(two, verb):
    first, second = (result[verb] for result in two["mistakes_in_the_background"])
    assert first[0] == second[0]
    assert first[0] % 10 == 0
    assert second[1:] == ["ZeroDivisionError", "a mistake"]
    assert first[1:] == ["RuntimeError", "Rank 1 of this peer failed with ZeroDivisionError: a mistake"]


# The end


def test_ranks_that_close_leave_a_last_snapshot_together(two, folder):
    first, second = (result["both"] for result in two["ends"])
    assert first["said"] == second["said"] == []
    state, info = load_snapshot(folder / "ends" / "both", "a")
    assert (info.step, info.finished) == (12, True)
    assert differences(state, joined([first["own"], second["own"]])) == []
    assert '"finished"' in (folder / "ends" / "both" / "a" / "status.json").read_text()


@pytest.mark.parametrize("kind", ["one leaves", "one is late"])
def test_a_rank_that_does_not_come_keeps_no_other_and_there_is_no_last_snapshot(two, folder, kind):
    first, second = (result[kind] for result in two["ends"])
    (said,) = first["said"]
    assert said.startswith(
        "Not all ranks of peer 'a' were closed in time, so that it leaves no last snapshot."
    )
    # Who comes too late finds that out.
    assert second["said"] == (first["said"] if kind == "one is late" else [])
    place = folder / "ends" / kind.replace(" ", "-")
    assert not any(last_words(place))
    assert '"left"' in (place / "a" / "status.json").read_text()


def last_words(place):
    """Return whether each snapshot that lies there is marked as the last, pointed to or not."""
    return [json.loads(path.read_text())["finished"] for path in place.glob("a/snapshots/*/manifest.json")]


def test_a_store_that_hangs_on_one_rank_at_the_end_is_given_up_by_all(two, folder):
    first, second = (result["one store hangs"] for result in two["ends"])
    (said,) = first["said"]
    assert said.startswith(
        "Rank 1 of this peer could not write its shard: The store has not answered in time."
    )
    (said,) = second["said"]
    assert said.startswith("The store has not answered within")
    assert not any(last_words(folder / "ends" / "one-store-hangs"))


# The beginning


def test_a_resumed_run_has_the_teachers_it_had_and_then_newer_ones(two):
    first, second = two["resumed_while_running_free"]
    assert first == second
    assert first["before"] == [{"b": 1}, {"b": 20}]
    assert first["after"] == [{"b": 1}, 21]
    assert first["end"] == {"b": 2}


def test_a_run_resumed_in_lockstep_is_the_uninterrupted_one_to_the_bit(two):
    for uninterrupted, interrupted in two["resumed_in_lockstep"]:
        assert [seeds for seeds, _, _ in uninterrupted] == [{"b": 1 + step // 2} for step in range(1, 11)]
        assert interrupted == uninterrupted


def test_a_start_with_peers_publishes_step_0_in_shards_and_has_a_teacher_at_once(two, folder):
    first, second = two["starting_with_peers"]
    assert first["seeds"] == second["seeds"] == {"b": 1}
    assert min(first["term"], second["term"]) > 0.0
    assert first["files"] == [
        "manifest.json",
        "shard-00001-of-00002.safetensors",
        "shard-00002-of-00002.safetensors",
    ]
    state, info = load_snapshot(folder / "starting_with_peers", "a")
    assert info.step == 0
    assert differences(state, joined([first["own"], second["own"]])) == []


def test_ranks_whose_name_is_taken_over_as_they_publish_close_together_all_the_same(two):
    for rank in two["taken_over"]:
        assert (rank["is_taken"], rank["step"]) == (True, 10)


def test_a_start_with_peers_takes_the_newer_snapshot_if_what_it_found_is_gone(two):
    assert two["replaced_before_it_is_read"] == ({"b": 2}, {"b": 2})


def test_weights_that_cannot_be_published_are_raised_on_all_ranks_at_the_start(two):
    first, second = two["weights_that_cannot_be_published"]
    what = "state['odd'] must be a dense tensor of a dtype that safetensors keeps, got dtype torch.complex64"
    assert first[0] == "TypeError"
    assert first[1].startswith(what)
    assert second[0] == "RuntimeError"
    assert second[1].startswith(f"Rank 0 of this peer failed with TypeError: {what}")


# Ways to train


@pytest.mark.parametrize(
    "kind", ["mixed precision", "accumulation", "recomputing", "only outermost", "compiled"]
)
def test_however_a_model_is_trained_it_is_published_and_taught_alike(two, folder, kind):
    results = [result[kind] for result in two["kinds_of_training"]]
    state, info = load_snapshot(folder / "kinds_of_training" / kind.replace(" ", "-"), "a")
    assert sorted(state) == NAMES
    assert (info.step, info.finished) == (6, True)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.int64}
    assert differences(state, joined([result["own"] for result in results])) == []
    for result in results:
        assert result["seeds"] == [1, 2, 2, 3, 3, 4]
        assert result["is_divided"]
        assert result["samples"] == (2 if kind == "accumulation" else 1) * 6 * 2 * 8


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [("recomputing", 1e-6), ("only outermost", 1e-6), ("compiled", 1e-5), ("mixed precision", 1e-2)],
)
def test_the_loss_does_not_depend_on_how_a_model_is_divided_and_wrapped(two, kind, tolerance):
    for result in two["kinds_of_training"]:
        # No two kinds are one program, so that each is held against another.
        other = "recomputing" if kind != "recomputing" else "only outermost"
        assert result[kind]["terms"] == pytest.approx(result[other]["terms"], rel=tolerance)
        assert min(result[kind]["terms"]) > 0.0


@pytest.mark.parametrize("kind", ["divided teacher", "whole teacher"])
def test_student_and_teacher_need_not_be_divided_alike(two, folder, kind):
    first, second = (result[kind] for result in two["other_ways_to_hold_a_model"])
    assert first["seeds"] == second["seeds"]
    assert (first["seeds"][0], first["seeds"][-1]) == (1, 2)
    assert min(first["term"], second["term"]) > 0.0
    # The first snapshot is read as the student is held; from then on as the teacher is.
    if kind == "divided teacher":
        assert (first["reads"][0], second["reads"][0]) == (1, 0)
        assert (first["reads"][-1], second["reads"][-1]) == (2, 1)
    else:
        assert (first["reads"][0], second["reads"][0]) == (1, 1)
        assert (first["reads"][-1], second["reads"][-1]) == (2, 1)
    fetcher = Fetcher(DirectoryStore(folder / "other_ways_to_hold_a_model" / kind.replace(" ", "-")), **ANY)
    manifest = fetcher.manifest(fetcher.pointer("a").manifest)
    assert len(manifest.shards) == (1 if kind == "divided teacher" else 2)


# Tools


def test_what_is_signed_is_taken_and_what_is_not_is_refused_by_all_ranks(two, folder):
    first, second = two["signed"]
    assert first["unsigned"] == second["unsigned"] == {}
    assert first["signed"] == second["signed"] == {"b": 2}
    (said,) = first["said"]
    assert "must be signed with this peer's signing key" in said
    assert second["said"] == []
    state, _ = load_snapshot(folder / "signed", "a")
    assert differences(state, joined([first["own"], second["own"]])) == []
    assert '"mac": null' not in (folder / "signed" / "a" / "latest.json").read_text()


def test_a_snapshot_in_shards_is_exported_whole(two, folder, tmp_path, capsys):
    place, out = folder / "running_free" / "10", tmp_path / "model.safetensors"
    assert main(["export", str(place), "--peer", "a", "--out", str(out)]) == 0
    assert "13 tensors of peer a at step 100" in capsys.readouterr().out
    first, second = (result[10]["last"] for result in two["running_free"])
    assert differences(load_file(out), joined([first, second])) == []


@pytest.mark.usefixtures("two")
def test_the_doctor_finds_nothing_wrong_with_shards_and_everything_with_a_lost_one(folder, capsys):
    place = folder / "running_free" / "25"
    assert main(["doctor", str(place)]) == 0
    assert inspect_run(DirectoryStore(place)).problems == ()
    capsys.readouterr()
    lost = max(place.glob("a/snapshots/*/shard-00002-of-00002.safetensors"))
    content = lost.read_bytes()
    lost.unlink()
    try:
        assert main(["doctor", str(place)]) == 1
        assert lost.name in capsys.readouterr().out
    finally:
        lost.write_bytes(content)


@pytest.mark.usefixtures("two")
def test_a_shard_that_no_manifest_names_is_pruned(folder, capsys):
    place = folder / "ends" / "one-store-hangs"
    (orphan,) = inspect_run(DirectoryStore(place)).orphans
    assert [key.rsplit("/")[-1] for key in orphan.values] == ["shard-00002-of-00002.safetensors"]
    assert main(["doctor", str(place), "--prune"]) == 0
    capsys.readouterr()
    assert inspect_run(DirectoryStore(place)).orphans == ()
