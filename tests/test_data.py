import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from codistill.data import PartitionedSampler

PEERS = ["a", "b", "c"]
reproducible = settings(deadline=None, derandomize=True)
sizes, seeds, world_sizes = st.integers(12, 60), st.integers(0, 2**70), st.integers(1, 4)


def make(size=20, *, peer="a", peers=PEERS, regime="all_data", seed=0, rank=0, world_size=1):
    return PartitionedSampler(
        size, peer=peer, peers=peers, regime=regime, seed=seed, rank=rank, world_size=world_size
    )


def take(sampler, count):
    """Draw over epoch ends, one iteration an epoch, as a loader would."""
    drawn = []
    while len(drawn) < count:
        drawn.extend(itertools.islice(sampler, count - len(drawn)))
    return drawn


@reproducible
@given(size=sizes, seed=seeds, count=st.integers(1, 12))
def test_disjoint_parts_cover_everything_once_and_differ_by_at_most_one(size, seed, count):
    peers = [f"peer{index}" for index in range(count)]
    samplers = [make(size, peer=peer, peers=peers, regime="disjoint", seed=seed) for peer in peers]
    epochs = [list(sampler) for sampler in samplers]
    assert sorted(itertools.chain(*epochs)) == list(range(size))
    assert max(map(len, samplers)) - min(map(len, samplers)) <= 1
    for sampler, epoch in zip(samplers, epochs, strict=True):
        assert sampler.indices.tolist() == sorted(epoch) == sorted(sampler)


@reproducible
@given(size=sizes, seed=seeds)
def test_with_all_data_every_peer_sees_everything_in_an_order_of_its_own(size, seed):
    orders = [list(make(size, peer=peer, seed=seed)) for peer in PEERS]
    assert all(sorted(order) == list(range(size)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


@reproducible
@given(size=sizes, seed=seeds, world_size=world_sizes, regime=st.sampled_from(["all_data", "disjoint"]))
def test_ranks_share_the_peers_order_without_overlap_and_in_equal_lengths(size, seed, world_size, regime):
    whole = list(make(size, regime=regime, seed=seed))
    ranks = [
        make(size, regime=regime, seed=seed, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    drawn = [list(sampler) for sampler in ranks]
    assert {len(each) for each in drawn} == {len(whole) // world_size} == {len(sampler) for sampler in ranks}
    together = list(itertools.chain(*zip(*drawn, strict=True)))
    assert together == whole[: len(together)]


@reproducible
@given(
    world_size=world_sizes,
    stop=st.integers(0, 60),
    regime=st.sampled_from(["all_data", "disjoint"]),
    fresh_epoch=st.integers(0, 2),
)
def test_resuming_anywhere_equals_never_having_stopped(world_size, stop, regime, fresh_epoch):
    options = {"regime": regime, "seed": 3, "rank": world_size - 1, "world_size": world_size}
    uninterrupted = make(**options)
    expected = take(uninterrupted, stop + 30)
    first = make(**options)
    start = take(first, stop)
    state = json.loads(json.dumps(first.state_dict()))
    second = make(**options)
    second.set_epoch(fresh_epoch)
    second.load_state_dict(state)
    assert start + take(second, 30) == expected
    assert second.state_dict() == uninterrupted.state_dict()


def test_epochs_come_in_different_orders_of_the_same_part():
    sampler = make(regime="disjoint")
    first, second = list(sampler), list(sampler)
    assert first != second
    assert sorted(first) == sorted(second)


def test_the_orders_are_these_on_every_platform_and_in_every_version():
    # Saved positions, and the parts of peers on other machines, rest on these numbers.
    assert list(make(10)) == [8, 2, 4, 6, 7, 0, 3, 1, 9, 5]
    assert list(make(10, regime="disjoint", peer="b", seed=2**64)) == [7, 4, 8]


def test_the_order_in_which_peers_are_listed_does_not_matter():
    assert list(make(regime="disjoint", peers=["c", "a", "b"])) == list(make(regime="disjoint"))


def test_the_seed_changes_parts_and_orders():
    assert make(regime="disjoint").indices.tolist() != make(regime="disjoint", seed=1).indices.tolist()
    assert list(make()) != list(make(seed=1))
    assert list(make()) != list(make(seed=2**32))


def test_indices_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        make().indices[0] = 3


def test_an_iteration_leaves_the_sampler_at_the_start_of_the_next_epoch():
    sampler = make(7)
    drawn = list(itertools.islice(iter(sampler), 7))  # the loop never asks for an eighth
    assert len(drawn) == 7
    state = sampler.state_dict()
    assert (state["epoch"], state["position"], state["samples"]) == (1, 0, 7)
    assert len(list(sampler)) == 7


def test_an_abandoned_iteration_is_continued():
    sampler, whole = make(), list(make())
    assert list(itertools.islice(sampler, 5)) == whole[:5]
    assert list(sampler) == whole[5:]
    assert len(sampler) == 20


def test_set_epoch_to_the_current_epoch_keeps_the_position():
    sampler, whole = make(), list(make())
    take(sampler, 5)
    sampler.set_epoch(0)
    assert list(sampler) == whole[5:]
    sampler.set_epoch(1)
    assert sampler.state_dict()["samples"] == 20


def test_set_epoch_to_another_epoch_starts_it():
    expected = make()
    list(expected), list(expected)
    third = list(expected)
    sampler = make()
    take(sampler, 5)
    sampler.set_epoch(2)
    assert sampler.state_dict()["samples"] == 40
    assert list(sampler) == third


def test_a_position_holds_for_another_number_of_ranks():
    whole = list(make(23))
    before = [make(23, rank=rank, world_size=2) for rank in range(2)]
    seen = [index for sampler in before for index in take(sampler, 4)]
    state = before[0].state_dict()
    assert state == before[1].state_dict()
    after = [make(23, rank=rank, world_size=4) for rank in range(4)]
    for sampler in after:
        sampler.load_state_dict(state)
    drawn = [list(sampler) for sampler in after]
    assert sorted(seen) == sorted(whole[:8])
    assert {len(each) for each in drawn} == {3}
    assert list(itertools.chain(*zip(*drawn, strict=True))) == whole[8:20]
    assert after[0].state_dict()["samples"] == 20


def test_a_rest_too_small_for_the_new_ranks_is_left_out_instead_of_giving_an_empty_epoch():
    before = make(21)
    take(before, 19)
    after = make(21, world_size=4)
    after.load_state_dict(before.state_dict())
    assert after.state_dict()["epoch"] == 1
    assert len(list(after)) == 5


@reproducible
@given(trained=st.integers(0, 70), ahead=st.integers(0, 15), world_size=world_sizes)
def test_samples_place_the_state_where_training_is_and_not_the_loader(trained, ahead, world_size):
    sampler = make(world_size=world_size)
    take(sampler, trained)
    expected = sampler.state_dict()
    take(sampler, ahead)
    assert sampler.state_dict(samples=trained * world_size) == expected


def test_samples_go_on_counting_after_a_resume_with_another_number_of_ranks():
    first = make(23, world_size=2)
    take(first, 15)  # 22 samples are the first epoch, of 23
    second = make(23, world_size=5)
    second.load_state_dict(first.state_dict())
    take(second, 2)
    drawn = second.state_dict()
    assert (drawn["samples"], drawn["epoch"], drawn["position"]) == (40, 1, 18)
    take(second, 9)
    assert second.state_dict(samples=40) == drawn


def test_samples_that_cannot_be_placed_are_refused():
    sampler = make(world_size=2)
    with pytest.raises(ValueError, match="samples must be 0 plus a multiple of world_size, 2, got 7"):
        sampler.state_dict(samples=7)
    sampler.set_epoch(2)
    with pytest.raises(ValueError, match="samples must be 40 plus"):
        sampler.state_dict(samples=20)
    with pytest.raises(TypeError, match="samples must be an int"):
        sampler.state_dict(samples=4.0)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.spawn)])
def test_a_loader_that_prefetches_resumes_by_samples(workers):
    def loader(sampler):
        context = "spawn" if workers else None
        return DataLoader(
            range(40), batch_size=4, sampler=sampler, num_workers=workers, multiprocessing_context=context
        )

    expected = [batch.tolist() for batch in loader(make(40))]
    first = make(40)
    batches = iter(loader(first))
    trained = [next(batches).tolist() for _ in range(3)]
    state = first.state_dict(samples=12)
    # To the end: a worker that is stopped while it prefetches may abort (torch 2.13).
    assert len(list(batches)) == 7
    second = make(40)
    second.load_state_dict(state)
    assert trained + [batch.tolist() for batch in loader(second)] == expected


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("size", {"size": 21}),
        ("peer", {"peer": "b"}),
        ("peers", {"peers": ["a", "b"]}),
        ("regime", {"regime": "disjoint"}),
        ("seed", {"seed": 1}),
    ],
)
def test_the_state_of_other_data_is_refused(field, options):
    sampler = make()
    take(sampler, 3)
    with pytest.raises(ValueError, match=f"state must be of this sampler's {field},"):
        sampler.load_state_dict(make(**options).state_dict())
    assert sampler.state_dict()["position"] == 3


def test_a_damaged_state_is_refused():
    sampler = make()
    state = sampler.state_dict()
    with pytest.raises(ValueError, match="state must have the field 'position'"):
        sampler.load_state_dict({name: value for name, value in state.items() if name != "position"})
    with pytest.raises(ValueError, match=r"state\['position'\] must be <= 20, got 21"):
        sampler.load_state_dict(state | {"position": 21})
    with pytest.raises(ValueError, match=r"state\['epoch'\] must be >= 0"):
        sampler.load_state_dict(state | {"epoch": -1})
    with pytest.raises(TypeError, match=r"state\['samples'\] must be an int"):
        sampler.load_state_dict(state | {"samples": "3"})


def test_a_data_set_may_stand_for_its_size():
    assert list(make(range(20))) == list(make(20))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": 0}, ValueError, "dataset_or_size must be >= 1"),
        ({"size": 3.5}, TypeError, "dataset_or_size must be an int"),
        ({"size": []}, ValueError, "dataset_or_size must be >= 1"),
        ({"size": 2, "regime": "disjoint", "peer": "c"}, ValueError, "must give every rank a sample, got 0"),
        ({"size": 3, "world_size": 4}, ValueError, "must give every rank a sample, got 3"),
        ({"peer": "z"}, ValueError, r"peer must be one of peers, \['a', 'b', 'c'\], got 'z'"),
        ({"peers": ["a", "a"]}, ValueError, "peers must be different names"),
        ({"peers": "abc"}, TypeError, "peers must be a list of names"),
        ({"regime": "same"}, ValueError, "regime must be one of 'all_data', 'disjoint', got 'same'"),
        ({"seed": -1}, ValueError, "seed must be >= 0"),
        ({"seed": True}, TypeError, "seed must be an int"),
        ({"rank": 2, "world_size": 2}, ValueError, "rank must be < world_size, 2, got 2"),
        ({"rank": -1}, ValueError, "rank must be >= 0"),
        ({"world_size": 0}, ValueError, "world_size must be >= 1"),
    ],
)
def test_bad_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        make(**options)
    with pytest.raises(ValueError, match="epoch must be >= 0"):
        make().set_epoch(-1)
