"""An S3 server on one of the hosts: moto's, made atomic as S3 is."""

import io
import threading
from multiprocessing.connection import Connection
from typing import Any, Final

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from typing_extensions import override
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.test import Client

from network.hosts import Host
from network.lifetime import end_with_parent

BUCKET: Final = "bucket"


class _QuietHandler(WSGIRequestHandler):
    @override
    def log(self, *arguments: object, **options: object) -> None:
        pass


def serve_s3(host: Host, connection: Connection) -> None:
    """Serve until killed, in a process of its own; send the port.

    Args:
        host: Where.
        connection: Where to send the port.
    """
    end_with_parent()
    host.enter()
    application = DomainDispatcherApplication(create_backend_app)
    lock = threading.Lock()

    def one_at_a_time(environ: dict[str, Any], start_response: Any) -> Any:
        if "CONTENT_LENGTH" in environ:
            # Outside of the lock: one that is slow to send must not hold up the others.
            size_bytes = int(environ["CONTENT_LENGTH"] or 0)
            environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(size_bytes))
        with lock:  # moto looks for an object and then stores it; S3 does both at once
            return application(environ, start_response)

    server = make_server(host.address, 0, one_at_a_time, threaded=True, request_handler=_QuietHandler)
    Client(one_at_a_time).put(f"/{BUCKET}", base_url=f"http://{host.address}:{server.server_port}")
    connection.send(server.server_port)
    server.serve_forever()
