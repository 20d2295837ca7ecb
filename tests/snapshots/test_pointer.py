import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codistill.errors import SnapshotError, SnapshotFormatError
from codistill.snapshots.keys import manifest_key
from codistill.snapshots.manifest import MAX_MANIFEST_BYTES, ManifestReference
from codistill.snapshots.pointer import MAX_POINTER_BYTES, Pointer

SETTINGS = settings(deadline=None, derandomize=True, database=None)
COUNTERS = st.integers(0, 2**62)
POINTERS = st.builds(
    lambda run_id, peer, incarnation, sequence, size_bytes, sha256: Pointer(
        run_id=run_id,
        peer=peer,
        incarnation=incarnation,
        sequence=sequence,
        manifest=ManifestReference(
            key=manifest_key(peer, incarnation, sequence), size_bytes=size_bytes, sha256=sha256
        ),
    ),
    st.from_regex("[0-9a-f]{1,64}", fullmatch=True),
    st.from_regex("[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True).filter(
        lambda x: x.lower() != "run.json"
    ),
    COUNTERS,
    COUNTERS,
    st.integers(1, MAX_MANIFEST_BYTES),
    st.from_regex("[0-9a-f]{64}", fullmatch=True),
)
REFERENCE = ManifestReference(key="a/snapshots/1-2/manifest.json", size_bytes=100, sha256="0" * 64)
POINTER = Pointer(run_id="c0ffee", peer="a", incarnation=1, sequence=2, manifest=REFERENCE)


def changed(**changes):
    body = json.loads(json.loads(POINTER.to_json())["body"])
    return json.dumps({"body": json.dumps({**body, **changes}), "mac": None}).encode()


@SETTINGS
@given(POINTERS)
def test_every_pointer_comes_back_and_is_small(pointer):
    data = pointer.to_json()
    assert len(data) <= MAX_POINTER_BYTES
    assert Pointer.from_json(data, key=f"{pointer.peer}/latest.json") == pointer
    assert pointer.order == pointer.manifest.order == (pointer.incarnation, pointer.sequence)


def test_it_is_a_body_and_a_mac():
    envelope = json.loads(POINTER.to_json())
    assert envelope["mac"] is None
    assert json.loads(envelope["body"]) == {
        "format": 1,
        "run_id": "c0ffee",
        "peer": "a",
        "incarnation": 1,
        "sequence": 2,
        "manifest": {"key": "a/snapshots/1-2/manifest.json", "size": 100, "sha256": "0" * 64},
    }


def test_a_signed_pointer_is_read():
    envelope = json.loads(POINTER.to_json())
    signed = json.dumps({**envelope, "mac": "f" * 64}).encode()
    assert Pointer.from_json(signed, key="a/latest.json") == POINTER


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(format=2), "format 2 .* Upgrade"),
        (changed(peer="b"), r"manifest\.key must be 'b/"),
        (changed(sequence=3), r"manifest\.key must be 'a/snapshots/1-3/"),
        (changed(sequence=True), "sequence must be an integer"),
        (changed(manifest={**REFERENCE.to_fields(), "size": 2**40}), "size of a manifest must be between"),
        (changed(manifest={**REFERENCE.to_fields(), "sha256": "F" * 64}), r"manifest\.sha256 must"),
        (changed(manifest={**REFERENCE.to_fields(), "key": "../../etc/passwd"}), "key must be like"),
        (changed(manifest=None), "manifest must be a JSON object"),
        (changed(padding="x" * MAX_POINTER_BYTES), f"at most {MAX_POINTER_BYTES} bytes"),
        (b'{"body": "{}"}', "mac must be there"),
        (b'{"body": "{}", "mac": "short"}', "mac must be a string that matches"),
        (b'{"body": {}, "mac": null}', "body must be a string"),
    ],
)
def test_a_bad_field_is_named(data, message):
    with pytest.raises(SnapshotFormatError, match=message) as caught:
        Pointer.from_json(data, key="a/latest.json")
    assert (caught.value.peer, caught.value.key) == ("a", "a/latest.json")


def test_a_pointer_of_another_peer_is_refused():
    with pytest.raises(SnapshotFormatError, match="peer must be the one it is stored for, got 'a'"):
        Pointer.from_json(POINTER.to_json(), key="b/latest.json")


def test_unknown_fields_are_ignored():
    assert Pointer.from_json(changed(new_in_a_later_version=1), key="a/latest.json") == POINTER


@SETTINGS
@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 400))
def test_garbage_is_a_snapshot_error(garbage, start, length):
    data = POINTER.to_json()
    damaged = data[:start] + garbage + data[start + length :]
    for candidate in (garbage, damaged):
        try:
            Pointer.from_json(candidate, key="a/latest.json")
        except SnapshotError as error:
            assert error.key == "a/latest.json"  # noqa: PT017 - what is still a pointer is fine too
