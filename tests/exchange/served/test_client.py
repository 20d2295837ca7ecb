import socket
import threading

import pytest

from codistill.exchange.served.client import ServerAwayError, ServerClient
from codistill.exchange.served.url import ServerUrl

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"


@pytest.fixture
def trickle():
    """Return a function that makes a server, which begins at once and then sends byte by byte for ever."""
    threads = []
    is_over = threading.Event()

    def serve(listener, first):
        with listener, listener.accept()[0] as connection:
            connection.recv(2**16)
            connection.sendall(first)
            while not is_over.wait(0.02):
                try:
                    connection.sendall(b"a")
                except OSError:
                    return

    def start(first):
        listener = socket.create_server(("127.0.0.1", 0))
        threads.append(threading.Thread(target=serve, args=(listener, first)))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    is_over.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("first", [b"HTTP/1.1 200 OK\r\nX: ", HEAD, HEAD.replace(b"200", b"503")])
@pytest.mark.timeout(60)
def test_a_server_that_trickles_is_given_up_in_time(trickle, first):
    client = ServerClient(ServerUrl.parse(trickle(first)), token=None, ca_file=None, timeout_s=0.2)
    with pytest.raises(ServerAwayError):
        client.post("/", b"question", max_bytes=10**6)
    client.close()
