import pytest

from codistill.server import Answering, Limits, Listening


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_on_this_machine_alone_nothing_is_required(host):
    assert Listening(host=host).token() is None


@pytest.mark.parametrize(
    ("options", "words"),
    [({"host": ""}, "host must be"), ({"port": -1}, "port must be"), ({"port": 65536}, "port must be")],
)
def test_what_is_no_address_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Listening(**options)


def test_its_url_names_the_port_that_was_free():
    listening = Listening()
    with listening.open() as listener:
        assert listening.url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    "options",
    [
        {"max_batch": 0},
        {"max_integers": 0},
        {"max_pending": 0},
        {"max_connections": 0},
        {"request_timeout_s": 0},
        {"max_body_bytes": 2**30},
    ],
)
def test_limits_that_let_nothing_through_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        Limits(**options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"outputs_to_logits": 3}, TypeError),
        ({"integers_below": 0}, ValueError),
        ({"is_merging": 1}, TypeError),
    ],
)
def test_ways_to_answer_that_there_are_not_are_refused(options, error):
    with pytest.raises(error):
        Answering(**options)
