import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from codistill.data import PartitionedSampler
from codistill.errors import CodistillWarning

PEERS = ["a", "b", "c"]
REGIMES = ["all_data", "disjoint", "same_batches", "dirichlet"]
regimes = st.sampled_from(REGIMES)
reproducible = settings(deadline=None, derandomize=True)
sizes, seeds, world_sizes = st.integers(12, 60), st.integers(0, 2**70), st.integers(1, 4)


def make(size=20, *, regime="all_data", **options):
    if regime == "dirichlet":
        # Few large classes and a large alpha, so that each part gives four ranks something to do.
        options = {"labels": [index % 2 for index in range(size)], "alpha": 100} | options
    return PartitionedSampler(size, regime=regime, **{"peer": "a", "peers": PEERS} | options)


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
@given(size=sizes, seed=seeds, world_size=world_sizes, regime=regimes)
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
    regime=regimes,
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


@reproducible
@given(size=sizes, seed=seeds, epoch=st.integers(0, 3))
def test_with_same_batches_all_peers_see_everything_in_one_order(size, seed, epoch):
    samplers = [make(size, regime="same_batches", seed=seed, peer=peer) for peer in PEERS]
    samplers.append(make(size, regime="same_batches", seed=seed, peer="lone", peers=["lone", "other"]))
    for sampler in samplers:
        sampler.set_epoch(epoch)
    orders = [list(sampler) for sampler in samplers]
    assert sorted(orders[0]) == list(range(size))
    assert all(order == orders[0] for order in orders)


@reproducible
@given(
    labels=st.lists(st.integers(0, 4), min_size=3, max_size=60),
    seed=seeds,
    alpha=st.floats(0, exclude_min=True, allow_infinity=False),
)
def test_dirichlet_parts_cover_everything_once_and_none_is_empty(labels, seed, alpha):
    options = {"regime": "dirichlet", "labels": labels, "alpha": alpha, "seed": seed}
    samplers = [make(len(labels), peer=peer, **options) for peer in PEERS]
    epochs = [list(sampler) for sampler in samplers]
    assert all(epochs)
    assert sorted(itertools.chain(*epochs)) == list(range(len(labels)))
    for sampler, epoch in zip(samplers, epochs, strict=True):
        assert sampler.indices.tolist() == sorted(epoch) == sorted(sampler)


def test_of_labels_only_the_order_matters_and_not_the_ints_or_what_holds_them():
    labels = [index % 3 for index in range(20)]
    expected = make(regime="dirichlet", labels=labels, alpha=0.5)
    for same in (
        torch.tensor(labels),
        np.array(labels, dtype=np.uint8),
        [7 * label - 3 for label in labels],
        tuple(labels),
    ):
        sampler = make(regime="dirichlet", labels=same, alpha=0.5)
        assert sampler.indices.tolist() == expected.indices.tolist()
        assert sampler.state_dict() == expected.state_dict()


def global_batches(samplers, batch_size):
    """Draw an epoch through one loader a rank; return what the ranks of a step see together."""
    loaders = [
        DataLoader(range(1000), batch_size=batch_size // len(samplers), sampler=sampler, drop_last=True)
        for sampler in samplers
    ]
    return [sorted(torch.cat(batches).tolist()) for batches in zip(*loaders, strict=True)]


@pytest.mark.parametrize("regime", REGIMES)
def test_every_step_sees_the_same_global_batch_with_any_number_of_ranks(regime):
    def ranks(world_size, state=None):
        samplers = [make(87, regime=regime, rank=rank, world_size=world_size) for rank in range(world_size)]
        for sampler in samplers if state else ():
            sampler.load_state_dict(state)
        return samplers

    expected = global_batches(ranks(1), 8)
    assert len(expected) == len(make(87, regime=regime)) // 8 >= 3
    for world_size in (2, 4, 8):
        assert global_batches(ranks(world_size), 8) == expected
    state = ranks(4)[3].state_dict(samples=16)
    for world_size in (1, 2, 4, 8):
        assert global_batches(ranks(world_size, state), 8) == expected[2:]


def test_epochs_come_in_different_orders_of_the_same_part():
    sampler = make(regime="disjoint")
    first, second = list(sampler), list(sampler)
    assert first != second
    assert sorted(first) == sorted(second)


def test_the_orders_are_these_on_every_platform_and_in_every_version():
    # Saved positions, and the parts of peers on other machines, rest on these numbers.
    assert list(make(10)) == [8, 2, 4, 6, 7, 0, 3, 1, 9, 5]
    assert list(make(10, regime="disjoint", peer="b", seed=2**64)) == [7, 4, 8]
    assert list(make(10, regime="same_batches", peer="b")) == [1, 3, 0, 6, 9, 7, 5, 8, 4, 2]
    assert list(make(10, regime="dirichlet", peer="b", alpha=0.5)) == [9, 5, 2, 1]


def test_the_order_in_which_peers_are_listed_does_not_matter():
    for regime in REGIMES:
        assert list(make(regime=regime, peers=["c", "a", "b"])) == list(make(regime=regime))


def test_the_seed_changes_parts_and_orders():
    for regime in ("disjoint", "dirichlet"):
        assert make(regime=regime).indices.tolist() != make(regime=regime, seed=1).indices.tolist()
    assert list(make(regime="same_batches")) != list(make(regime="same_batches", seed=1))
    assert list(make()) != list(make(seed=1))
    assert list(make()) != list(make(seed=2**32))


def test_indices_cannot_be_written():
    for regime in REGIMES:
        with pytest.raises(ValueError, match="read-only"):
            make(regime=regime).indices[0] = 3


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


def test_an_epoch_that_a_loader_cut_short_counts_as_whole_in_samples():
    sampler = make(23, world_size=2)
    loader = DataLoader(range(23), batch_size=4, sampler=sampler, drop_last=True)
    assert len(list(loader)) == 2
    trained_in_epoch_1 = next(iter(loader)).tolist()
    state = sampler.state_dict(samples=len(sampler) * 2 + 8)
    assert (state["epoch"], state["position"]) == (1, 8)
    resumed = make(23, world_size=2)
    resumed.load_state_dict(state)
    whole = make(23, world_size=2)
    whole.set_epoch(1)
    assert trained_in_epoch_1 + list(resumed) == list(whole)


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


@pytest.mark.parametrize("regime", ["all_data", "disjoint"])
def test_a_state_of_the_first_version_goes_on(regime):
    state = {
        "size": 20,
        "peer": "a",
        "peers": PEERS,
        "regime": regime,
        "seed": 0,
        "epoch": 2,
        "position": 3,
        "samples": 45,
    }
    sampler = make(regime=regime)
    sampler.load_state_dict(state)
    assert sampler.state_dict() == state


def test_a_state_that_is_changed_does_not_change_the_sampler():
    sampler = make()
    sampler.state_dict()["peers"].append("d")
    assert sampler.state_dict()["peers"] == PEERS


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("size", {"size": 21}),
        ("peer", {"peer": "b"}),
        ("peers", {"peers": ["a", "b"]}),
        ("regime", {"regime": "disjoint"}),
        ("regime", {"regime": "same_batches"}),
        ("regime", {"regime": "dirichlet"}),
        ("seed", {"seed": 1}),
    ],
)
def test_the_state_of_other_data_is_refused(field, options):
    sampler = make()
    take(sampler, 3)
    with pytest.raises(ValueError, match=f"state must be of this sampler's {field},"):
        sampler.load_state_dict(make(**options).state_dict())
    assert sampler.state_dict()["position"] == 3


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("regime", {"regime": "all_data"}),
        ("alpha", {"regime": "dirichlet", "alpha": 99}),
        ("labels", {"regime": "dirichlet", "labels": [0] * 20}),
    ],
)
def test_the_state_of_classes_dealt_otherwise_is_refused(field, options):
    with pytest.raises(ValueError, match=f"state must be of this sampler's {field},"):
        make(regime="dirichlet").load_state_dict(make(**options).state_dict())


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
        (
            {"regime": "same"},
            ValueError,
            "regime must be one of 'all_data', 'disjoint', 'same_batches', 'dirichlet', got 'same'",
        ),
        ({"regime": "dirichlet", "labels": None}, ValueError, "labels must be given with regime 'dirichlet'"),
        ({"regime": "dirichlet", "labels": [0, 1]}, ValueError, r"labels must be .*, \[20\], got \[2\]"),
        ({"regime": "dirichlet", "labels": [0.5] * 20}, TypeError, "labels must be ints, got float64"),
        ({"regime": "dirichlet", "alpha": None}, ValueError, "alpha must be > 0 and finite .*, got None"),
        ({"regime": "dirichlet", "alpha": 0}, ValueError, "alpha must be > 0 and finite .*, got 0"),
        ({"regime": "dirichlet", "alpha": float("inf")}, ValueError, "alpha must be > 0 .*, got inf"),
        ({"regime": "dirichlet", "alpha": float("nan")}, ValueError, "alpha must be > 0 .*, got nan"),
        ({"regime": "dirichlet", "alpha": True}, TypeError, "alpha must be a number, got True"),
        (
            {"regime": "dirichlet", "size": 3, "world_size": 2},
            ValueError,
            "every rank a sample, got 1 for the 2 ranks of peer 'a'.* or a larger alpha",
        ),
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


@pytest.mark.parametrize("option", [{"labels": [0] * 20}, {"alpha": 0.5}])
def test_what_has_no_effect_in_another_regime_is_said(option):
    (name,) = option
    with pytest.warns(CodistillWarning, match=f"{name} has no effect with regime 'disjoint'") as record:
        make(regime="disjoint", **option)
    assert record[0].filename == __file__
