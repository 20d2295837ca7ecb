import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codistill.topologies import All, Directed, KRegular, Ring, Star, Topology, as_topology

NAMES = ["a", "b", "c", "d"]


def test_in_a_ring_each_learns_from_the_one_before():
    assert Ring().teachers(NAMES) == {"a": ("d",), "b": ("a",), "c": ("b",), "d": ("c",)}


def test_a_ring_of_two_is_mutual():
    assert Ring().teachers(["a", "b"]) == {"a": ("b",), "b": ("a",)}


def test_all_learn_from_all():
    assert All().teachers(NAMES[:3]) == {"a": ("b", "c"), "b": ("a", "c"), "c": ("a", "b")}


def test_k_regular_is_the_k_before_nearest_first():
    assert KRegular(2).teachers(NAMES) == {"a": ("d", "c"), "b": ("a", "d"), "c": ("b", "a"), "d": ("c", "b")}


def test_k_regular_of_one_is_a_ring_and_of_all_others_is_all():
    assert KRegular(1).teachers(NAMES) == Ring().teachers(NAMES)
    everyone = KRegular(3).teachers(NAMES)
    assert {name: set(teachers) for name, teachers in everyone.items()} == {
        name: set(teachers) for name, teachers in All().teachers(NAMES).items()
    }


def test_k_regular_refuses_more_teachers_than_there_are():
    with pytest.raises(ValueError, match="k must be <= 2 for 3 peers, got 3"):
        KRegular(3).teachers(NAMES[:3])
    for k in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="k must be an int >= 1"):
            KRegular(k)


def test_a_star_has_a_centre_that_learns_from_all_if_mutual():
    assert Star("b").teachers(NAMES[:3]) == {"a": ("b",), "b": ("a", "c"), "c": ("b",)}
    assert Star("b", mutual=False).teachers(NAMES[:3]) == {"a": ("b",), "b": (), "c": ("b",)}


def test_a_star_without_its_centre_is_refused():
    with pytest.raises(ValueError, match=r"centre must name peers, got 'z'.*'a', 'b'"):
        Star("z").teachers(["a", "b"])


def test_directed_edges_go_from_teacher_to_student():
    topology = Directed([("a", "b"), ("c", "b"), ("a", "c"), ("a", "b")])
    assert topology.teachers(NAMES[:3]) == {"a": (), "b": ("a", "c"), "c": ("a",)}
    assert topology == Directed({("a", "b"), ("a", "c"), ("c", "b")})


def test_directed_edges_must_make_sense():
    with pytest.raises(ValueError, match="edges must join different peers"):
        Directed([("a", "a")])
    with pytest.raises(ValueError, match="edges must hold at least one"):
        Directed([])
    with pytest.raises(ValueError, match="edges must name peers, got 'z'"):
        Directed([("z", "a")]).teachers(["a", "b"])


TOPOLOGIES = [Ring(), All(), KRegular(2), Star("b"), Star("b", mutual=False), Directed([("b", "c")])]


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_the_order_of_the_names_does_not_matter(topology):
    expected = topology.teachers(NAMES)
    assert list(expected) == NAMES
    for order in itertools.permutations(NAMES):
        result = topology.teachers(order)
        assert result == expected
        assert list(result) == NAMES


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_one_peer_alone_has_no_teachers(topology):
    assert topology.teachers(["b"]) == {"b": ()}


@settings(deadline=None, derandomize=True)
@given(st.sets(st.text(min_size=1, max_size=3), min_size=3, max_size=8))
def test_nobody_is_its_own_teacher_and_nobody_has_one_twice(names):
    peers = sorted(names)
    centre = peers[-1]
    for topology in (Ring(), All(), KRegular(2), Star(centre), Directed([(centre, peers[0])])):
        result = topology.teachers(peers)
        assert result.keys() == names
        for name, teachers in result.items():
            assert name not in teachers
            assert len(set(teachers)) == len(teachers)
            assert names.issuperset(teachers)


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_bad_names_are_refused(topology):
    with pytest.raises(ValueError, match="peers must be different names"):
        topology.teachers(["b", "c", "b"])
    with pytest.raises(ValueError, match="peers must hold at least one name"):
        topology.teachers([])
    with pytest.raises(TypeError, match="peers must be a list of names"):
        topology.teachers("bc")
    with pytest.raises(TypeError, match="peers must be a list of names"):
        topology.teachers([1, 2])


def test_as_topology_takes_names_and_topologies():
    assert as_topology("ring") == Ring()
    assert as_topology("all") == All()
    assert as_topology(KRegular(2)) == KRegular(2)
    with pytest.raises(ValueError, match="topology must be one of 'all', 'ring', or a Topology, got 'star'"):
        as_topology("star")
    with pytest.raises(TypeError, match="topology must be a name or a Topology"):
        as_topology(3)


def test_a_topology_of_ones_own_needs_only_teachers():
    class Chain(Topology):
        def teachers(self, peers):
            names = sorted(peers)
            return {name: tuple(names[max(i - 1, 0) : i]) for i, name in enumerate(names)}

    assert as_topology(Chain()).teachers(["b", "a"]) == {"a": (), "b": ("a",)}
