import pytest

from codistill.stores.base import check_key


@pytest.mark.parametrize("key", ["a", "run.json", "a/latest.json", "A1/_".replace("_", "b-._"), "a" * 1024])
def test_good_keys_are_returned(key):
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key", ["", "/", "a//b", "../a", "a/..", "a/.tmp", "_a", "a\x00b", "a\n", "a" * 1025]
)
def test_bad_keys_are_refused_by_the_name_of_the_argument(key):
    with pytest.raises(ValueError, match="prefix must"):
        check_key(key, "prefix")


def test_a_key_that_is_no_string_is_a_type_error():
    with pytest.raises(TypeError, match="key must be a string, got int"):
        check_key(3)
