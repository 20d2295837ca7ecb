import datetime
import ipaddress
import json
import socket
import threading
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from torch import nn

from codistill.errors import CodistillWarning, ExtraMissingError, PeerMismatchError, StoreError
from codistill.exchange.base import Progress
from codistill.exchange.prediction.codec import Exact
from codistill.exchange.served.answer import Answer
from codistill.exchange.served.client import MEDIA_TYPE
from codistill.exchange.served.exchange import PEERS_PATH, PREDICTIONS_PATH, ServedExchange
from codistill.exchange.served.question import Question
from codistill.exchange.teacher_options import TeacherOptions
from codistill.server import Answering, Limits, Listening, PredictionServer
from codistill.stores.memory import MemoryStore
from codistill.testing.peers import run_peers

FEATURES, CLASSES = 4, 3


def ask(inputs, **wanted):
    """Return a question as it travels."""
    return Question.of(inputs, **{"codec": Exact(), "left_out": {}, **wanted}).to_bytes()


def send(url, body, *, path=PREDICTIONS_PATH, headers=None, method="POST"):
    """Return status and content of the answer to whatever is sent."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request(method, path, body, {"Content-Type": MEDIA_TYPE, **(headers or {})})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def predict(url, inputs, **wanted):
    status, content = send(url, ask(inputs, **wanted))
    assert status == 200, content
    return Answer.from_bytes(content).predictions


def refused(url, body, **options):
    """Return status and reason of an answer that is none."""
    status, content = send(url, body, **options)
    return status, json.loads(content)["error"]


def get(url, path):
    status, content = send(url, None, path=path, method="GET")
    return status, json.loads(content)


class Gated(nn.Linear):
    """Waits in its forward until it may go on."""

    def __init__(self):
        super().__init__(FEATURES, CLASSES)
        self.gate, self.has_come = threading.Event(), threading.Event()

    def forward(self, inputs):
        self.has_come.set()
        assert self.gate.wait(30)
        return super().forward(inputs)


@pytest.fixture
def gated(store, serve, peer_of):
    """Return a function that starts a server whose model waits; it goes on at the end at the latest."""
    modules = []

    def start(**options):
        def build():
            modules.append(Gated())
            return modules[-1]

        peer_of(store, "b").publish(nn.Linear(FEATURES, CLASSES))
        return serve(store, make=build, **options), modules[-1]

    yield start
    for module in modules:
        module.gate.set()


# Many students


def test_every_answer_is_that_of_the_very_version_that_it_names(store, serve, peer_of, model_of):
    students, questions_each = 8, 25
    names = ("b", "c")
    peers = {name: peer_of(store, name) for name in names}
    # What a local teacher of every version would predict.
    versions = {
        (name, sequence): model_of(1000 * index + sequence, Wide)
        for index, name in enumerate(names)
        for sequence in range(12)
    }
    for name in names:
        peers[name].publish(versions[name, 0])
    server = serve(store, make=Wide)
    is_over = threading.Event()
    have_all_asked = threading.Barrier(students + 1)

    def publish():
        have_all_asked.wait(60)
        for sequence in range(1, 12):
            for name in names:
                peers[name].publish(versions[name, sequence])
            server.look()
        is_over.set()

    def study(student):
        generator = torch.Generator().manual_seed(int(student))
        exchange = ServedExchange(server.url, peer=f"student-{student}")
        exchange.bind(nn.Linear(FEATURES, CLASSES), None)
        exchange.begin(Progress())
        seen = set()
        asked = 0
        while asked < questions_each or not is_over.is_set():
            asked += 1
            inputs = torch.randn(int(student) + 1, FEATURES, generator=generator)
            predictions = exchange.predict(inputs, torch.zeros(len(inputs), CLASSES)).peers
            assert [prediction.peer for prediction in predictions] == list(names)
            for prediction in predictions:
                version = versions[prediction.peer, prediction.sequence[1]]
                with torch.no_grad():
                    expected = version(inputs)
                assert torch.allclose(prediction.target.logits, expected, atol=1e-5)
                assert prediction.step == prediction.sequence[1] + 1
                seen.add((prediction.peer, prediction.sequence))
            exchange.step(Progress(step=asked))
            if asked == 1:
                have_all_asked.wait(60)
        # By now the last version has come.
        predictions = exchange.predict(torch.zeros(1, FEATURES), None).peers
        assert [prediction.sequence for prediction in predictions] == [(0, 11), (0, 11)]
        exchange.close(Progress(), publish=False)
        return asked, len(seen)

    def live(who):
        return publish() if who == "publisher" else study(who)

    histories = run_peers(live, ["publisher", *map(str, range(students))])
    asked = sum(histories[str(student)][0] for student in range(students))
    assert asked >= students * questions_each
    # Several students saw several versions: the teachers did change while they asked.
    assert max(histories[str(student)][1] for student in range(students)) > len(names)


class Wide(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(FEATURES, 32), nn.Tanh(), nn.Linear(32, CLASSES))


def test_several_students_questions_are_one_forward(store, gated):
    server, module = gated()
    module.gate.set()
    for _ in range(2):
        predict(server.url, torch.zeros(2, FEATURES))
    module.gate.clear()
    module.has_come.clear()
    before = server.forwards

    def live(name):
        if name != "0":
            assert module.has_come.wait(30)
        if name == "gate":
            while server.waiting < 5:
                get(server.url, "/health")
            module.gate.set()
            return None
        return predict(server.url, torch.full((2, FEATURES), float(name)))[0].tensors["logits"]

    logits = run_peers(live, ["gate", *"012345"])
    with torch.no_grad():
        for name in "012345":
            expected = nn.functional.linear(
                torch.full((2, FEATURES), float(name)), module.weight, module.bias
            )
            assert torch.allclose(logits[name], expected, atol=1e-5)
    # One was under way; the other five are one forward, which is compared with five apart.
    assert server.forwards - before == 1 + 1 + 5


# What there is besides predictions


def test_it_is_ready_when_a_peer_is_served(store, serve, peer_of, model_of):
    server = serve(store)
    assert get(server.url, "/health") == (503, {"status": "waiting"})
    assert predict(server.url, torch.zeros(1, FEATURES)) == ()
    peer_of(store, "b").publish(model_of(1), task_loss=float("nan"))
    server.look()
    predict(server.url, torch.zeros(1, FEATURES))
    assert get(server.url, "/health") == (200, {"status": "ready"})


def test_it_shows_what_it_serves_and_why_not_the_rest(store, serve, peer_of, model_of):
    peer_of(store, "b").publish(model_of(1), finished=True)
    peer_of(store, "c").publish(nn.Linear(7, 7))
    server = serve(store)
    predict(server.url, torch.zeros(1, FEATURES))
    status, shown = get(server.url, PEERS_PATH)
    assert status == 200
    assert shown["peers"] == [
        {
            "peer": "b",
            "incarnation": 0,
            "sequence": 0,
            "step": 1,
            "samples": 8,
            "interval_steps": 5,
            "task_loss": 1.0,
            "finished": True,
        }
    ]
    assert list(shown["problems"]) == ["c"]
    assert [version.peer for version in server.versions] == ["b"]


def test_other_paths_and_methods_are_refused(store, serve):
    url = serve(store).url
    assert refused(url, None, path="/", method="GET")[0] == 404
    assert refused(url, b"", path=PEERS_PATH)[0] == 405
    assert refused(url, None, method="GET")[0] == 405


# Who may ask


TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def certificate(tmp_path):
    """Return the paths of a certificate for this machine, signed by itself, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "codistill test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = tmp_path / "certificate.pem", tmp_path / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gpu-7"])
@pytest.mark.parametrize(
    "missing", [("token_file",), ("certificate", "key"), ("token_file", "certificate", "key")]
)
def test_where_others_can_reach_it_it_needs_a_token_and_a_certificate(host, missing, token_file, certificate):
    given = {"token_file": token_file, "certificate": certificate[0], "key": certificate[1]}
    Listening(host=host, **given)
    for name in missing:
        del given[name]
    with pytest.raises(ValueError, match=f"{missing[0].replace('_', '.')}.*must be given to listen at"):
        Listening(host=host, **given)


def test_a_token_that_is_asked_for_must_be_given(store, serve, peer_of, model_of, token_file):
    peer_of(store, "b").publish(model_of(1))
    server = serve(store, listening=Listening(token_file=token_file))
    body = ask(torch.zeros(1, FEATURES))
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": TOKEN},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": "Bearer \xff"},
    ):
        status, reason = refused(server.url, body, headers=headers)
        assert status == 401
        assert TOKEN not in reason
        assert refused(server.url, None, path=PEERS_PATH, method="GET", headers=headers)[0] == 401
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert send(server.url, body, headers=headers)[0] == 200
    assert send(server.url, None, path=PEERS_PATH, method="GET", headers=headers)[0] == 200
    # Whether it is ready is no secret.
    assert get(server.url, "/health")[0] == 200


def join(url, **options):
    exchange = ServedExchange(url, **options)
    exchange.bind(nn.Linear(FEATURES, CLASSES), None)
    try:
        exchange.begin(Progress())
        return len(exchange.predict(torch.zeros(2, FEATURES), torch.zeros(2, CLASSES)).peers)
    finally:
        exchange.close(Progress(), publish=False)


def test_over_TLS_students_know_the_server_and_it_knows_them(
    store, serve, peer_of, model_of, token_file, certificate, tmp_path
):
    peer_of(store, "b").publish(model_of(1))
    path, key = certificate
    server = serve(store, listening=Listening(token_file=token_file, certificate=path, key=key))
    assert server.url.startswith("https://127.0.0.1:")
    assert join(server.url, token_file=token_file, ca_file=path) == 1
    with pytest.raises(PeerMismatchError, match="token"):
        join(server.url, ca_file=path)
    # One that nobody whom the student trusts has signed is none.
    with pytest.warns(CodistillWarning, match="certificate verify failed"):
        assert join(server.url, token_file=token_file) == 0
    # Nor is what is not encrypted answered.
    with pytest.warns(CodistillWarning, match="does not answer"):
        assert join(server.url.replace("https", "http"), token_file=token_file) == 0


def test_a_certificate_that_cannot_be_used_is_refused_at_the_start(store, certificate, token_file, tmp_path):
    path, key = certificate
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\n")
    teachers = TeacherOptions(build=lambda info: nn.Linear(1, 1))
    for options in (
        {"certificate": broken, "key": key},
        {"certificate": path, "key": path},
        {"certificate": path, "key": tmp_path / "nowhere"},
    ):
        with pytest.raises(ValueError, match="certificate and key must be PEM files"):
            PredictionServer(store, teachers=teachers, listening=Listening(**options))
    with pytest.raises(ValueError, match="given together"):
        Listening(certificate=path)


# What is refused before a model sees it


@pytest.fixture(scope="module")
def small(peer_of):
    """A server with low limits, for all tests that it refuses something in."""
    store = MemoryStore()
    peer_of(store, "b").publish(nn.Linear(FEATURES, CLASSES))
    server = PredictionServer(
        store,
        teachers=TeacherOptions(build=lambda info: nn.Linear(FEATURES, CLASSES)),
        limits=Limits(max_batch=4, max_integers=8, max_body_bytes=2000, max_pending_bytes=2000),
        answering=Answering(integers_below=100),
        poll_s=3600.0,
    )
    with server:
        server.look()
        # All its threads are there after the first question.
        predict(server.url, torch.zeros(1, FEATURES))
        yield server


def test_a_question_larger_than_allowed_is_refused_before_it_is_read(small):
    connection = HTTPConnection(urlsplit(small.url).netloc, timeout=30)
    connection.putrequest("POST", PREDICTIONS_PATH)
    connection.putheader("Content-Type", MEDIA_TYPE)
    connection.putheader("Content-Length", str(2001))
    connection.endheaders()  # and nothing of the body
    response = connection.getresponse()
    assert response.status == 413
    assert "at most 2000 bytes" in json.loads(response.read())["error"]
    connection.close()
    assert predict(small.url, torch.zeros(1, FEATURES))


@pytest.mark.parametrize("value", ["-1", "1e3", "0x10", "\u00b2", "1" * 18, "1" * 400])
def test_a_size_that_is_no_number_is_refused(small, value):
    # The HTTP parser itself answers most of these.
    address = urlsplit(small.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        head = f"POST {PREDICTIONS_PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: {MEDIA_TYPE}\r\n"
        connection.sendall(f"{head}Content-Length: {value}\r\n\r\n".encode("latin-1"))
        assert b" 4" in connection.recv(100)


def test_a_question_must_say_its_size_and_type(small):
    body = ask(torch.zeros(1, FEATURES))
    status, content = send(small.url, iter([body]))  # in pieces, whose number nobody knows
    assert (status, b"Content-Length" in content) == (411, True)
    assert refused(small.url, body, headers={"Content-Type": "text/plain"})[0] == 415


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "safetensors"),
        (b"\xff" * 100, 400, "safetensors"),
        (b"\x10" + bytes(7) + b"[" * 16, 400, "JSON"),
        (ask(torch.zeros(2, FEATURES))[:-1], 400, "safetensors"),
        (ask(torch.zeros(2, FEATURES)) + b"x", 400, "safetensors"),
        (ask(torch.zeros(5, FEATURES)), 413, "at most 4 samples, got 5"),
        (ask(torch.zeros(3, 3, dtype=torch.int64)), 413, "at most 8 whole numbers, got 9"),
        (ask(torch.zeros(1, 0, 2**33)), 413, "got 8589934592"),
        (ask(torch.full((2, 2), 100)), 422, "from 0 to 99"),
        (ask(torch.full((2, 2), -1)), 422, "from 0 to 99"),
        (ask(torch.zeros(2, 7)), 422, "peer 'b' cannot answer this: RuntimeError"),
        (ask({"wrong": torch.zeros(2, FEATURES)}), 422, "TypeError"),
        (ask(torch.tensor(1.0)), 422, "peer 'b' cannot answer this"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused_and_the_next_answered(small, body, status, reason):
    told_status, told_reason = refused(small.url, body)
    assert told_status == status
    assert reason in told_reason
    assert predict(small.url, torch.zeros(1, FEATURES))


def test_no_more_bytes_are_taken_than_there_is_room_for(gated):
    server, module = gated(limits=Limits(max_body_bytes=2000, max_pending_bytes=2000))
    body = ask(torch.zeros(60, FEATURES))
    assert 1000 < len(body) <= 2000

    def live(name):
        if name == "first":
            return send(server.url, body)
        assert module.has_come.wait(30)
        status, reason = refused(server.url, body)
        module.gate.set()
        return status, reason

    answers = run_peers(live, ["first", "second"])
    assert answers["second"] == (503, "too many questions wait.")
    assert answers["first"][0] == 200
    assert send(server.url, body)[0] == 200


# Clients that are slow, many, or gone


def connect(server):
    address = urlsplit(server.url)
    return socket.create_connection((address.hostname, address.port), timeout=30)


def read_to_the_end(connection):
    content = b""
    try:
        while piece := connection.recv(2**16):
            content += piece
    except ConnectionResetError:
        pass
    return content


HEAD = f"POST {PREDICTIONS_PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: {MEDIA_TYPE}\r\n"


@pytest.mark.parametrize(
    "sent",
    ["", "POST ", HEAD, f"{HEAD}Content-Length: 10\r\n\r\n12345"],
    ids=["nothing", "half a line", "half a head", "half a body"],
)
def test_a_client_that_stops_in_the_middle_is_let_go(store, serve, sent):
    server = serve(store, limits=Limits(request_timeout_s=0.2))
    with connect(server) as connection:
        connection.sendall(sent.encode())
        # It is told, if there is still time for that.
        assert read_to_the_end(connection)[:12] in (b"", b"HTTP/1.1 503")
    assert server.is_broken is False


def test_a_client_that_does_not_read_its_answer_is_let_go(store, serve, peer_of):
    class Long(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs).repeat(1, 2**18)

    peer_of(store, "b").publish(nn.Linear(FEATURES, CLASSES))
    server = serve(store, make=lambda: Long(FEATURES, CLASSES), limits=Limits(request_timeout_s=1.0))
    body = ask(torch.zeros(8, FEATURES))
    with connect(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
        connection.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert connection.recv(1) == b"H"
        while server.connections:
            get(server.url, "/health")
        # 24 MiB were meant.
        assert len(read_to_the_end(connection)) < 2**24


def test_connections_beyond_the_limit_are_closed_at_once(store, serve):
    server = serve(store, limits=Limits(max_connections=2))
    with connect(server) as first, connect(server) as second, connect(server) as third:
        assert read_to_the_end(third) == b""
        for connection in (first, second):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b" 503 " in read_to_the_end(connection)
    assert get(server.url, "/health")[0] == 503


def test_the_question_of_a_student_that_has_gone_is_not_answered(gated):
    server, module = gated(answering=Answering(is_merging=False))
    body = ask(torch.zeros(1, FEATURES))

    def live(name):
        if name == "first":
            return send(server.url, body)[0]
        assert module.has_come.wait(30)
        with connect(server) as connection:
            connection.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            while server.waiting == 0:
                get(server.url, "/health")
        while server.waiting > 0:
            get(server.url, "/health")
        module.gate.set()
        return None

    assert run_peers(live, ["first", "second"])["first"] == 200
    assert server.forwards == 1


# The end


def test_what_is_under_way_is_answered_before_it_ends(gated):
    server, module = gated()

    def live(name):
        if name == "student":
            return predict(server.url, torch.zeros(1, FEATURES))
        assert module.has_come.wait(30)
        if name == "closer":
            server.close()
            return None
        # It takes no new connection any more: it has begun to close.
        while True:
            try:
                connect(server).close()
            except OSError:
                module.gate.set()
                return None

    assert run_peers(live, ["student", "closer", "watcher"])["student"]
    with pytest.raises(OSError, match="refused"):
        connect(server)
    server.close()


def test_closing_what_never_started_leaves_nothing(store):
    server = PredictionServer(store, teachers=TeacherOptions(build=lambda info: nn.Linear(1, 1)))
    server.close()
    server.close()
    assert not server.is_broken


def test_an_address_in_use_is_an_error(store, serve):
    port = int(serve(store).url.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        PredictionServer(
            store,
            teachers=TeacherOptions(build=lambda info: nn.Linear(1, 1)),
            listening=Listening(port=port),
        )


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"teachers": TeacherOptions()}, ValueError, "must have build"),
        ({"teachers": TeacherOptions(build=print, every=2)}, ValueError, "every must be 1"),
        ({"teachers": None}, TypeError, "teachers must be TeacherOptions"),
        ({"poll_s": 0}, ValueError, "poll_s must be > 0"),
        ({"peers": ["a/b"]}, ValueError, r"peers\[0\] must be"),
        ({"peers": list("abcde")}, ValueError, "max_teachers must be >= 5"),
        ({"limits": 3}, TypeError, "limits must be Limits"),
        ({"store": MemoryStore()}, StoreError, "run.json"),
    ],
)
def test_wrong_arguments_are_refused(store, options, error, words):
    arguments = {"store": store, "teachers": TeacherOptions(build=print), **options}
    with pytest.raises(error, match=words):
        PredictionServer(arguments.pop("store"), **arguments)


def test_without_its_extra_the_error_names_the_install(store, monkeypatch):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "uvicorn" else find_spec(name, *more)
    )
    with pytest.raises(ExtraMissingError, match=r"codistill\[serve\]"):
        PredictionServer(store, teachers=TeacherOptions(build=print))
