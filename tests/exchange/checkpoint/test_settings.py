import pytest

from codistill.errors import CodistillWarning
from codistill.exchange.checkpoint import Lockstep, Membership, SnapshotOptions
from codistill.exchange.checkpoint.settings import Settings
from codistill.exchange.teacher_options import TeacherOptions
from codistill.topologies import All, Ring


def settings(**options):
    defaults = {
        "peer": "a",
        "peers": None,
        "interval_steps": 50,
        "topology": "ring",
        "lockstep": False,
        "snapshots": None,
        "teachers": None,
        "membership": None,
    }
    return Settings.of(**{**defaults, **options})


def test_what_is_left_out_has_its_default():
    made = settings()
    assert (made.peers, made.topology, made.lockstep, made.signing_key) == (None, Ring(), None, None)
    assert made.snapshots == SnapshotOptions()
    assert made.teachers == TeacherOptions()
    assert made.membership == Membership()


def test_what_is_given_stays():
    options = {
        "snapshots": SnapshotOptions(keep=7),
        "teachers": TeacherOptions(max_teachers=2),
        "membership": Membership(rejoin=True),
        "interval_steps": 9,
    }
    made = settings(**options)
    assert {name: getattr(made, name) for name in options} == options


def test_names_are_sorted_and_topologies_made():
    made = settings(peers=["c", "a"], topology="all")
    assert (made.peers, made.topology) == (("a", "c"), All())


@pytest.mark.parametrize(
    ("lockstep", "expected"),
    [(False, None), (True, Lockstep()), (Lockstep(timeout_s=3.0), Lockstep(timeout_s=3.0))],
)
def test_lockstep_is_a_word_or_an_object(lockstep, expected):
    assert settings(peers=["a", "b"], lockstep=lockstep).lockstep == expected


@pytest.mark.parametrize(
    ("argument", "value"), [("start_with_peers", 1), ("max_age_steps", 10), ("when_stale", "keep")]
)
def test_what_has_no_effect_in_lockstep_is_said(argument, value):
    with pytest.warns(CodistillWarning, match=f"{argument} has no effect in lockstep") as caught:
        settings(peers=["a", "b"], lockstep=True, membership=Membership(**{argument: value}))
    assert len(caught) == 1


def test_the_signing_key_is_read(tmp_path):
    file = tmp_path / "key"
    file.write_bytes(b"k" * 32 + b"\n")
    file.chmod(0o600)
    assert settings(snapshots=SnapshotOptions(signing_key_file=file)).signing_key.secret == b"k" * 32


@pytest.mark.parametrize("content", [None, b"short"])
def test_a_signing_key_that_is_none_is_refused_at_once(tmp_path, content):
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
        file.chmod(0o600)
    with pytest.raises(ValueError, match="signing_key_file must"):
        settings(snapshots=SnapshotOptions(signing_key_file=file))


@pytest.mark.parametrize("interval_steps", [1, 50])
def test_by_default_snapshots_are_young_for_20_intervals(interval_steps):
    fading = Membership().fading(interval_steps)
    assert (fading.max_age_steps, fading.when_stale) == (20 * interval_steps, "fade")
    assert Membership(max_age_steps=7, when_stale="drop").fading(interval_steps).max_age_steps == 7
