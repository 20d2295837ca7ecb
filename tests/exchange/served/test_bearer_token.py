import pytest

from codistill.errors import CodistillWarning
from codistill.exchange.served.bearer_token import BearerToken

SECRET = "0123456789abcdef" * 2


@pytest.fixture
def write(tmp_path):
    def write_file(content, mode=0o600):
        path = tmp_path / "token"
        path.write_bytes(content)
        path.chmod(mode)
        return path

    return write_file


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_it_is_the_files_text_without_the_end_of_the_line(write, end):
    token = BearerToken.from_file(write(SECRET.encode() + end))
    assert token.header == f"Bearer {SECRET}"
    assert SECRET not in repr(token)


@pytest.mark.parametrize(
    "content",
    [b"", b"short", SECRET.encode() + b" ", SECRET.encode() + b"\n\n", b"\xff" * 40, b"a" * 5000],
)
def test_what_is_no_token_is_refused_without_being_shown(write, content):
    with pytest.raises(ValueError, match=r"32 to 4096 letters.*Make one") as error:
        BearerToken.from_file(write(content))
    assert SECRET not in str(error.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="No such file"):
        BearerToken.from_file(tmp_path / "token")


def test_one_that_others_can_read_is_warned_of(write):
    with pytest.warns(CodistillWarning, match="chmod 600"):
        BearerToken.from_file(write(SECRET.encode(), 0o644))


@pytest.mark.parametrize("header", ["", SECRET, f"Bearer {SECRET}x", "Bearer \ud800", "Basic " + SECRET])
def test_only_the_very_header_holds_it(header):
    token = BearerToken(SECRET)
    assert token.is_in(f"Bearer {SECRET}")
    assert not token.is_in(header)
