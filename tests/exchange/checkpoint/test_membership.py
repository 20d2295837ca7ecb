import threading

import pytest

from codistill.errors import RunExistsError, SnapshotFormatError, StoreError
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.membership import (
    Membership,
    PeerFinder,
    check_new,
    check_peers,
    claim_life,
    open_run,
)
from codistill.stores.memory import MemoryStore
from codistill.testing.peers import run_peers
from codistill.topologies import All, KRegular, Ring


def finder(store, peer, *, peers=None, topology=None, max_teachers=4):
    return PeerFinder(
        store,
        Fetcher(store, run_id=None, max_bytes=None),
        peer=peer,
        peers=peers,
        topology=topology or Ring(),
        max_teachers=max_teachers,
    )


def test_a_run_is_created_once(store):
    run_id = open_run(store)
    assert open_run(store) == run_id
    assert open_run(MemoryStore()) != run_id


def test_peers_that_come_at_once_open_one_run():
    store, barrier = MemoryStore(), threading.Barrier(4, timeout=30)

    def open_at_once(peer):
        barrier.wait()
        return open_run(store)

    assert len(set(run_peers(open_at_once, "abcd").values())) == 1


def test_a_run_of_a_newer_version_is_refused(store):
    store.write("run.json", b'{"format": 2, "run_id": "c0ffee"}')
    with pytest.raises(SnapshotFormatError, match="Upgrade codistill"):
        open_run(store)


def test_a_first_life_has_number_0(store):
    assert claim_life(store, "a", after=None) == 0


def test_a_life_follows_the_last_one_known(store):
    assert claim_life(store, "a", after=4) == 5


def test_lives_that_left_no_snapshot_count_too(store):
    for expected in range(3):
        assert claim_life(store, "a", after=None) == expected
    assert claim_life(store, "b", after=None) == 0


def test_jobs_that_claim_at_once_get_different_lives():
    store, barrier = MemoryStore(), threading.Barrier(4, timeout=30)

    def claim_at_once(job):
        barrier.wait()
        return claim_life(store, "a", after=None)

    assert sorted(run_peers(claim_at_once, "wxyz").values()) == [0, 1, 2, 3]


def test_an_old_run_is_not_trained_over(store, publish):
    publisher = publish(store, "a", [0, 7])
    manifest = Fetcher(store, run_id=None, max_bytes=None).manifest(publisher.previous)
    with pytest.raises(RunExistsError, match=r"'a' has published step 7 .*rejoin=True") as caught:
        check_new(manifest, store)
    assert (caught.value.peer, caught.value.step, caught.value.key) == ("a", 7, manifest.key)


def test_a_snapshot_of_step_0_is_none_to_protect(store, publish):
    publisher = publish(store, "a", [0])
    check_new(Fetcher(store, run_id=None, max_bytes=None).manifest(publisher.previous), store)


def test_others_are_those_that_were_named():
    assert finder(MemoryStore(), "b", peers=("a", "b", "c")).others() == ["a", "c"]


def test_named_peers_are_not_listed(store, publish):
    publish(store, "a", [0])
    finder(store, "b", peers=("a", "b")).find()
    assert store.count("list_names") == 0


def test_without_names_others_are_whoever_has_a_folder(store, publish):
    for peer in ("a", "b", "c"):
        publish(store, peer, [0])
    store.write("notes of the user".replace(" ", "_"), b"")
    assert finder(store, "b").others() == ["a", "c", "notes_of_the_user"]
    assert sorted(finder(store, "b").find()[0]) == ["a", "c"]


def test_the_runs_own_file_is_no_peer(store):
    open_run(store)
    assert finder(store, "a").others() == []


def test_at_most_64_names_are_looked_at(store):
    for i in range(80):
        store.write(f"peer-{i:02d}/latest.json", b"")
    assert len(finder(store, "peer-00").others()) == 64


def test_a_pointer_that_cannot_be_read_hinders_no_other(store, publish):
    for peer in ("a", "c", "d"):
        publish(store, peer, [0])
    store.write("a/latest.json", b"{}")
    store.faults.fail("read", key_contains="c/latest")
    pointers, errors = finder(store, "b").find()
    assert list(pointers) == ["d"]
    assert isinstance(errors["a"], SnapshotFormatError)
    assert isinstance(errors["c"], StoreError)


def test_a_ring_without_names_closes_over_those_that_have_published(store):
    assert finder(store, "b").teachers(["d"]) == ("d",)
    assert finder(store, "b").teachers(["c", "d"]) == ("d",)
    assert finder(store, "b").teachers(["a", "c", "d"]) == ("a",)
    assert finder(store, "b").teachers([]) == ()


def test_a_ring_of_named_peers_waits_for_its_own_teacher(store):
    assert finder(store, "b", peers=("a", "b", "c")).teachers(["c"]) == ("a",)


def test_no_more_teachers_than_allowed(store):
    assert finder(store, "d", topology=All(), max_teachers=2).teachers("abc") == ("a", "b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_with_peers": -1}, "start_with_peers must be between 0 and 63, got -1"),
        ({"start_with_peers": 64}, "start_with_peers must be between 0 and 63, got 64"),
        ({"start_timeout_s": 0}, "start_timeout_s must be > 0, got 0"),
        ({"start_timeout_s": float("nan")}, "start_timeout_s must be > 0, got nan"),
    ],
)
def test_wrong_values_of_membership_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Membership(**options)


@pytest.mark.parametrize(
    "options", [{"start_with_peers": "1"}, {"start_with_peers": 1.5}, {"start_timeout_s": "60"}]
)
def test_wrong_types_of_membership_are_named(options):
    (name,) = options
    with pytest.raises(TypeError, match=f"{name} must"):
        Membership(**options)


def check(peer, peers, *, topology=None, max_teachers=4, start_with_peers=0):
    return check_peers(
        peer,
        peers,
        topology=topology or Ring(),
        max_teachers=max_teachers,
        start_with_peers=start_with_peers,
    )


def test_names_are_sorted():
    assert check("b", ["c", "a", "b"]) == ("a", "b", "c")


def test_no_names_stay_no_names():
    assert check("a", None) is None
    assert check("a", None, topology=All()) is None


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("a", ["b", "c"]), {}, r"peers must hold this peer, 'a', got \['b', 'c'\]"),
        (("a", []), {}, "peers must hold this peer, 'a', got"),
        (("a", ["a", "b", "b"]), {}, r"peers must be different names, got \['a', 'b', 'b'\]"),
        (("a", ["a", "../b"]), {}, r"peers\[1\] must be 1 to 64 letters.*got '\.\./b'"),
        (
            ("a", None),
            {"topology": KRegular(2)},
            r"peers must be given with topology KRegular\(k=2\), got None",
        ),
        (("a", ["a", "b"]), {"topology": KRegular(2)}, "k must be <= 1 for 2 peers, got 2"),
        (
            ("p0", [f"p{i}" for i in range(65)]),
            {},
            "peers must be at most 64, got 65",
        ),
        (
            ("a", list("abcdef")),
            {"topology": All()},
            r"max_teachers must be >= 5 for 6 peers with topology All\(\), got 4.*max_teachers=5",
        ),
        (("a", ["a", "b"]), {"start_with_peers": 2}, "start_with_peers must be <= 1.*got 2"),
    ],
)
def test_peers_that_do_not_go_together_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        check(*arguments, **options)


@pytest.mark.parametrize("peers", ["ab", 5, ["a", 5]])
def test_peers_of_another_type_are_refused(peers):
    with pytest.raises(TypeError, match="peers"):
        check("a", peers)
