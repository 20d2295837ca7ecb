import json

import pytest

from codistill.exchange.checkpoint.roster import Sighted
from codistill.exchange.checkpoint.saved_state import SavedState, SavedTeacher
from codistill.snapshots.manifest import ManifestReference


def reference(peer, incarnation, sequence):
    return ManifestReference(
        key=f"{peer}/snapshots/{incarnation}-{sequence}/manifest.json", size_bytes=10, sha256="ab" * 32
    )


def full_state():
    return SavedState(
        peer="a",
        run_id="c0ffee",
        incarnation=2,
        previous=reference("a", 2, 5),
        teachers={"b": SavedTeacher(manifest=reference("b", 0, 3), first_seen_step=40)},
        seen={"b": Sighted((0, 3), 40), "c": Sighted((2, 0), 7)},
    )


def test_a_state_comes_back_as_it_was():
    assert SavedState.from_dict(full_state().to_dict()) == full_state()


def test_a_state_comes_back_through_json():
    assert SavedState.from_dict(json.loads(json.dumps(full_state().to_dict()))) == full_state()


def test_a_state_without_past_comes_back():
    state = SavedState(peer="a", run_id="c0ffee", incarnation=0, previous=None, teachers={})
    assert SavedState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


@pytest.mark.parametrize("field", ["peer", "run_id", "incarnation", "previous", "teachers"])
def test_a_missing_field_is_named(field):
    state = full_state().to_dict()
    del state[field]
    with pytest.raises(ValueError, match=field):
        SavedState.from_dict(state)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peer", 5),
        ("run_id", None),
        ("incarnation", "2"),
        ("incarnation", -1),
        ("previous", "a/snapshots/2-5/manifest.json"),
        ("previous", {"key": "../../etc/passwd", "size": 10, "sha256": "ab" * 32}),
        ("seen", []),
        ("seen", {"b": 5}),
        ("seen", {"b": {"incarnation": 0, "sequence": -1, "first_seen_step": 0}}),
        ("teachers", []),
        ("teachers", {"b": 5}),
        ("teachers", {"b": {"manifest": None, "first_seen_step": 0}}),
    ],
)
def test_a_malformed_field_is_refused(field, value):
    with pytest.raises(ValueError, match=r"must|key"):
        SavedState.from_dict(full_state().to_dict() | {field: value})


def test_a_state_from_before_readers_remembered_has_seen_nobody():
    state = full_state().to_dict()
    del state["seen"]
    assert SavedState.from_dict(state).seen == {}
    assert SavedState.from_dict(state).teachers == full_state().teachers
