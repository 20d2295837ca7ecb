import json
import socket
import threading
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from codistill.watch.page_server import PageServer


@pytest.fixture
def serve(view_of):
    """Return a function that serves a view, and ends with the test."""
    servers = []

    def start(view=None, **where):
        shown = view_of({"a": {}}) if view is None else view
        server = PageServer(lambda: shown, interval_s=2.0, **{"host": "127.0.0.1", "port": 0, **where})
        servers.append(server.__enter__())
        return server

    yield start
    for server in servers:
        server.__exit__(None, None, None)


def ask(server, path, *, method="GET", host=None):
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    try:
        connection.request(method, path, headers={} if host is None else {"Host": host})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def test_the_numbers_are_those_of_the_view(serve, view_of):
    view = view_of({"a": {"advice": ("Mind <b> & \u2028.",)}, "b": {"step": None}})
    status, headers, body = ask(serve(view), "/view.json")
    document = json.loads(body)
    assert (status, headers["content-type"], headers["cache-control"]) == (
        200,
        "application/json",
        "no-store",
    )
    assert (document["interval_s"], document["store"]) == (2.0, "runs/x")
    assert [peer["peer"] for peer in document["peers"]] == ["a", "b"]
    assert document["peers"][0]["advice"] == ["Mind <b> & \u2028."]
    assert document["peers"][0]["teachers"] == {"b": 40, "c": None}
    assert document["peers"][1]["step"] is None


def test_the_page_needs_nothing_from_elsewhere(serve):
    status, headers, body = ask(serve(), "/")
    page = body.decode()
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "connect-src 'self'" in headers["content-security-policy"]
    addresses = page.replace("http://www.w3.org/2000/svg", "")  # a name, not a place
    assert "http:" not in addresses
    assert "https:" not in addresses
    assert " src=" not in page
    # What strangers wrote is set as text, never as markup.
    assert "innerHTML" not in page
    assert "insertAdjacentHTML" not in page
    assert body.isascii()


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/etc", "GET", 404), ("/view.json", "POST", 405), ("/", "DELETE", 405)]
)
def test_nothing_else_can_be_asked(serve, path, method, status):
    assert ask(serve(), path, method=method)[0] == status


@pytest.mark.parametrize("path", ["/", "/view.json"])
def test_a_name_that_leads_here_from_elsewhere_is_refused(serve, path):
    server = serve()
    port = urlsplit(server.url).port
    assert ask(server, path, host=f"evil.example:{port}")[0] == 403
    assert ask(server, path, host="[::1")[0] == 403
    for name in ("localhost", "127.0.0.1", "[::1]"):
        assert ask(server, path, host=f"{name}:{port}")[0] == 200


def test_one_that_is_for_others_is_reached_by_any_name(serve):
    server = serve(host="0.0.0.0")
    port = urlsplit(server.url).port
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/view.json", headers={"Host": "training-box:1"})
    assert connection.getresponse().status == 200
    connection.close()


def test_a_busy_port_says_what_to_do(view_of):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"port must be free, got {port}.*--port 0"):
            PageServer(view_of, interval_s=2.0, host="127.0.0.1", port=port)


@pytest.mark.parametrize(
    ("host", "port", "error", "words"),
    [
        ("127.0.0.1", 65536, ValueError, "port must be between 0 and 65535"),
        ("127.0.0.1", -1, ValueError, "port must be"),
        ("no such host", 0, OSError, "host must be a name or an address of this machine, got 'no such host'"),
        ("192.0.2.1", 0, OSError, "host and port must be ones to listen at"),
    ],
)
def test_where_it_cannot_listen_is_refused(view_of, host, port, error, words):
    with pytest.raises(error, match=words):
        PageServer(view_of, interval_s=2.0, host=host, port=port)


def test_it_ends_while_a_browser_is_connected(view_of):
    before = threading.active_count()
    with PageServer(lambda: view_of({}), interval_s=2.0, host="127.0.0.1", port=0) as server:
        address = urlsplit(server.url)
        connection = HTTPConnection(address.netloc, timeout=30)
        connection.request("GET", "/view.json")
        connection.getresponse().read()
        assert not server.is_broken
    assert threading.active_count() == before
    connection.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((address.hostname, address.port), timeout=30)
