import pytest

from codistill.errors import SnapshotFormatError, StoreError
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.lives import open_run
from codistill.exchange.checkpoint.membership import Membership, PeerFinder, check_peers
from codistill.stores.memory import MemoryStore
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
        ({"max_age_steps": 0}, "max_age_steps must be >= 1, got 0"),
        ({"when_stale": "forget"}, "when_stale must be one of 'fade', 'drop', 'keep', got 'forget'"),
        ({"start_timeout_s": 0}, "start_timeout_s must be > 0, got 0"),
        ({"start_timeout_s": float("nan")}, "start_timeout_s must be > 0, got nan"),
    ],
)
def test_wrong_values_of_membership_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Membership(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"start_with_peers": "1"},
        {"start_with_peers": 1.5},
        {"start_timeout_s": "60"},
        {"max_age_steps": 1.5},
        {"max_age_steps": True},
        {"rejoin": 1},
    ],
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


def test_those_for_whom_there_is_no_room_are_left_out(store):
    assert finder(store, "d", topology=All(), max_teachers=2).left_out("abc") == ("c",)
    assert finder(store, "d", topology=All()).left_out("abc") == ()


def test_whether_teachers_are_expected_depends_on_the_names(store):
    assert finder(store, "a").expects_teachers
    assert finder(store, "a", peers=("a", "b")).expects_teachers
    assert not finder(store, "a", peers=("a",)).expects_teachers
