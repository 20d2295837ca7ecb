import hashlib
import hmac
import os
import pickle
import re
import warnings

import pytest

from codistill.errors import CodistillWarning
from codistill.snapshots.signing import MAX_KEY_BYTES, SigningKey

SECRET = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
def write_key(tmp_path):
    def write(content, mode=0o600):
        path = tmp_path / "key"
        path.write_bytes(content)
        path.chmod(mode)
        return path

    return write


def test_the_mac_is_hmac_sha256_of_the_body():
    mac = SigningKey(secret=b"k" * 40).mac(b"body")
    assert mac == hmac.new(b"k" * 40, b"body", hashlib.sha256).hexdigest()
    assert re.fullmatch("[0-9a-f]{64}", mac)


def test_only_the_same_body_under_the_same_key_is_verified():
    key = SigningKey(secret=SECRET)
    mac = key.mac(b"body")
    assert key.verify(b"body", mac)
    assert not key.verify(b"body ", mac)
    assert not SigningKey(secret=SECRET[::-1]).verify(b"body", mac)
    for wrong in ("", mac[:-1], mac.upper(), "0" * 64, "\u00e9" * 64):
        assert not key.verify(b"body", wrong)


@pytest.mark.parametrize("content", [SECRET, SECRET + b"\n", SECRET + b"\r\n"])
def test_a_key_file_is_read_without_its_last_line_end(write_key, content):
    assert SigningKey.from_file(write_key(content)) == SigningKey(secret=SECRET)
    assert SigningKey.from_file(str(write_key(content))) == SigningKey(secret=SECRET)


def test_only_one_line_end_is_left_out(write_key):
    assert SigningKey.from_file(write_key(SECRET + b" \n\n")) == SigningKey(secret=SECRET + b" \n")


@pytest.mark.parametrize("size", [32, MAX_KEY_BYTES])
def test_keys_of_the_shortest_and_longest_size_are_read(write_key, size):
    assert SigningKey.from_file(write_key(b"k" * size + b"\n")) == SigningKey(secret=b"k" * size)


@pytest.mark.parametrize(
    ("size", "got"), [(0, "got 0"), (31, "got 31"), (MAX_KEY_BYTES + 1, "got more"), (10**6, "got more")]
)
def test_a_key_of_another_size_is_refused_with_a_way_to_make_one(write_key, size, got):
    with pytest.raises(
        ValueError, match=rf"signing_key_file must hold 32 to 4096 bytes, {got} .*token_hex\(32\)"
    ):
        SigningKey.from_file(write_key(b"k" * size + b"\n"))


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_file_that_cannot_be_read_is_refused_by_its_path(tmp_path, name):
    with pytest.raises(
        ValueError, match=r"signing_key_file must be a file that can be read, got '.*token_hex"
    ):
        SigningKey.from_file(tmp_path / name)


@pytest.mark.skipif(os.name != "posix", reason="file modes are those of POSIX")
@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620])
def test_a_file_that_others_can_read_or_change_is_warned_of(write_key, mode):
    with pytest.warns(CodistillWarning, match=rf"other users of this machine \(mode {mode:04o}\)"):
        assert SigningKey.from_file(write_key(SECRET, mode)) == SigningKey(secret=SECRET)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_ones_own_is_read_in_silence(write_key, mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SigningKey.from_file(write_key(SECRET, mode))


def test_the_secret_is_shown_nowhere(write_key):
    key = SigningKey(secret=SECRET)
    shown = [repr(key), str(key), f"{key!a}"]
    for secret in (SECRET[:-1], SECRET * 200):
        with pytest.raises(ValueError, match="secret must be 32 to 4096 bytes") as caught:
            SigningKey(secret=secret)
        shown.append(str(caught.value))
    with pytest.raises(ValueError, match="signing_key_file must hold") as caught:
        SigningKey.from_file(write_key(SECRET[:-1]))
    shown.append(str(caught.value))
    with pytest.raises(TypeError, match="secret must be bytes, got str") as caught:
        SigningKey(secret=SECRET.decode())
    shown.append(str(caught.value))
    assert not any("0123" in text for text in shown)


def test_a_key_goes_to_another_process():
    assert pickle.loads(pickle.dumps(SigningKey(secret=SECRET))) == SigningKey(secret=SECRET)
