import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codistill.errors import SnapshotError, SnapshotFormatError, SnapshotIntegrityError
from codistill.snapshots.keys import manifest_key
from codistill.snapshots.manifest import MAX_MANIFEST_BYTES, ManifestReference
from codistill.snapshots.pointer import MAX_POINTER_BYTES, Pointer
from codistill.snapshots.signing import SigningKey

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
SIGNING_KEY = SigningKey(secret=b"k" * 32)
OTHER_KEY = SigningKey(secret=b"o" * 32)


def changed(**changes):
    body = json.loads(json.loads(POINTER.to_json())["body"])
    return json.dumps({"body": json.dumps({**body, **changes}), "mac": None}).encode()


@SETTINGS
@given(POINTERS)
def test_every_pointer_comes_back_and_is_small(pointer):
    for signing_key in (None, SIGNING_KEY):
        data = pointer.to_json(signing_key=signing_key)
        assert len(data) <= MAX_POINTER_BYTES
        assert Pointer.from_json(data, key=f"{pointer.peer}/latest.json", signing_key=signing_key) == pointer
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


def test_the_mac_covers_the_body_as_it_stands():
    envelope = json.loads(POINTER.to_json(signing_key=SIGNING_KEY))
    assert envelope["body"] == json.loads(POINTER.to_json())["body"]
    assert SIGNING_KEY.verify(envelope["body"].encode(), envelope["mac"])

    # Another writer may order and space its JSON as it likes, escape the envelope, and add fields.
    body = '{ "later": 1, ' + envelope["body"][1:] + "\n"
    data = json.dumps({"mac": SIGNING_KEY.mac(body.encode()), "body": body, "later": 2}, indent=1).encode()
    assert Pointer.from_json(data, key="a/latest.json", signing_key=SIGNING_KEY) == POINTER


@pytest.mark.parametrize("mac", ["f" * 64, OTHER_KEY.mac(b"anything")])
def test_without_a_key_a_signature_is_not_checked(mac):
    envelope = json.loads(POINTER.to_json())
    signed = json.dumps({**envelope, "mac": mac}).encode()
    assert Pointer.from_json(signed, key="a/latest.json") == POINTER


def altered(**changes):
    envelope = json.loads(POINTER.to_json(signing_key=SIGNING_KEY))
    return json.dumps({**envelope, **changes}).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (POINTER.to_json(), "it is not signed"),
        (altered(mac=None), "it is not signed"),
        (POINTER.to_json(signing_key=OTHER_KEY), "signed with another key, or was altered"),
        (altered(mac="0" * 64), "signed with another key, or was altered"),
        (altered(body=json.loads(changed(new=1))["body"]), "signed with another key, or was altered"),
        # What is not signed is not even parsed.
        (altered(body="["), "signed with another key, or was altered"),
        (altered(body="{}", mac=None), "it is not signed"),
    ],
)
def test_what_is_not_signed_with_the_key_is_refused_with_the_cure(data, message):
    with pytest.raises(
        SnapshotIntegrityError, match=rf"pointer at 'a/latest\.json' .*{message}.*the same signing_key_file"
    ) as caught:
        Pointer.from_json(data, key="a/latest.json", signing_key=SIGNING_KEY)
    assert (caught.value.peer, caught.value.key) == ("a", "a/latest.json")


@pytest.mark.parametrize(
    ("data", "key", "message"),
    [
        (POINTER.to_json(signing_key=SIGNING_KEY), "b/latest.json", "peer must be the one it is stored for"),
        (altered(mac="F" * 64), "a/latest.json", "mac must be a string that matches"),
    ],
)
def test_the_fields_are_checked_with_a_key_too(data, key, message):
    with pytest.raises(SnapshotFormatError, match=message):
        Pointer.from_json(data, key=key, signing_key=SIGNING_KEY)


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
