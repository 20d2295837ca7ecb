import copy
import itertools
import json
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from torch import nn

from codistill.codistiller import Codistiller
from codistill.errors import CodistillWarning, PeerMismatchError
from codistill.exchange.base import DistillationSettings, Progress
from codistill.exchange.checkpoint import CheckpointExchange
from codistill.exchange.checkpoint.lives import open_run
from codistill.exchange.prediction.codec import TopK
from codistill.exchange.served.answer import Answer, ServedPrediction, ServedVersion
from codistill.exchange.served.exchange import PEERS_PATH, PREDICTIONS_PATH, ServedExchange
from codistill.exchange.served.question import Question
from codistill.exchange.teacher_options import TeacherOptions
from codistill.losses.divergences import Divergence
from codistill.schedules import Constant
from codistill.server import Listening, PredictionServer
from codistill.stores.memory import MemoryStore
from codistill.testing.exchanges import ExchangeContract
from codistill.testing.inline_background import InlineBackground

FEATURES, CLASSES = 4, 3


# The contract, with a real server


class Looked:
    """Has the server look at the store at every step, so that a step has done all it began."""

    def __init__(self, inner, server):
        self._inner = inner
        self._server = server

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def step(self, progress):
        self._inner.step(progress)
        self._server.look()


class Named(nn.Module):
    """The contract's model that returns more than logits, which is put in a frame."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        return self.inner(inputs)


def build_contract_model(info):
    inner = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    return Named(inner) if "inner.0.weight" in info.tensors else inner


@pytest.fixture(scope="module")
def shared_server():
    """One server for all runs of the contract, of which each has names of its own."""
    store = MemoryStore()
    open_run(store)
    teachers = TeacherOptions(build=build_contract_model, max_teachers=64)
    with PredictionServer(store, teachers=teachers, poll_s=3600.0) as server:
        # All its threads are there after the first question.
        first = ServedExchange(server.url)
        first.bind(nn.Linear(1, 1), None)
        first.begin(Progress())
        first.predict(torch.zeros(1), None)
        first.close(Progress(), publish=False)
        yield store, server, itertools.count()


class TestServed(ExchangeContract):
    @pytest.fixture
    def make_exchanges(self, shared_server):
        store, server, runs = shared_server

        def make(count):
            run = next(runs)
            names = [f"run-{run}-peer-{index}" for index in range(count)]
            return [Looked(self.make_exchange(store, server, name, names), server) for name in names]

        return make

    def make_exchange(self, store, server, name, names):
        publishing = CheckpointExchange(store, peer=name, peers=[name], interval_steps=1)
        publishing.background = InlineBackground()
        return ServedExchange(server.url, peer=name, peers=names, publishing=publishing)


# A server that says what a test tells it to


class ScriptedServer:
    """Answers every question as its `answer` says, and remembers them."""

    def __init__(self):
        self.questions = []
        self.answer = lambda question: Answer(predictions=())
        self.health = (200, b"{}")
        self.hangs_up = False
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self):
                assert self.path == PEERS_PATH
                self.say(*script.health)

            def do_POST(self):
                assert self.path == PREDICTIONS_PATH
                question = Question.from_bytes(self.rfile.read(int(self.headers["Content-Length"])))
                script.questions.append(question)
                answer = script.answer(question)
                if isinstance(answer, Answer):
                    answer = 200, answer.to_bytes()
                self.say(*answer)

            def say(self, status, content):
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                # Without having said so.
                self.close_connection = script.hangs_up

            def log_message(self, *words):
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = False  # so that closing it waits for them
        self.http.handle_error = lambda request, address: None  # a client may hang up in the middle
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def script():
    server = ScriptedServer()
    yield server
    server.close()


@pytest.fixture
def join(script):
    """Return a function that makes an exchange that has begun; it is closed before the server is."""
    exchanges = []

    def make(url, *, state=None, settings=None, step=0, **options):
        exchange = ServedExchange(url, **options)
        exchanges.append(exchange)
        exchange.bind(nn.Linear(FEATURES, CLASSES), None, None, settings)
        if state is not None:
            exchange.load_state_dict(state)
        exchange.begin(Progress(step=step))
        return exchange

    yield make
    for exchange in exchanges:
        exchange.close(Progress(), publish=False)


def settings_of(name="kl", *, combine="losses", **options):
    return DistillationSettings(
        divergence=Divergence(name, **options), combine=combine, weight=Constant(1.0), burn_in_steps=0
    )


def said(value, *, peer="b", sequence=0, finished=False, task_loss=1.0, rows=2, classes=CLASSES, **changes):
    """Return what a server says of a peer all of whose logits are one number."""
    logits = torch.full((rows, classes), float(value))
    version = ServedVersion(
        peer=peer,
        incarnation=0,
        sequence=sequence,
        step=10 * sequence,
        samples=80 * sequence,
        interval_steps=5,
        task_loss=task_loss,
        finished=finished,
    )
    fields = {"is_usable": True, "shape": logits.shape, "tensors": {"logits": logits}, **changes}
    return ServedPrediction(version=version, **fields)


def answer_with(*predictions):
    """Answer as a server does: without what is left out."""

    def answer(question):
        return Answer(
            predictions=tuple(
                one for one in predictions if question.wants(one.version.peer, one.version.order)
            )
        )

    return answer


def ask(exchange):
    return exchange.predict(torch.zeros(2, FEATURES), torch.zeros(2, CLASSES)).peers


def train(exchange, steps, *, start=0, task_loss=None):
    """Make steps; return the warnings and the shares of all predictions of each, added up."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CodistillWarning)
        counts = []
        for step in range(start + 1, start + steps + 1):
            counts.append(sum(float(prediction.share) for prediction in ask(exchange)))
            exchange.step(Progress(step=step, samples=step, task_loss=task_loss))
    return [str(warning.message) for warning in caught], counts


# The server away


def test_without_a_server_training_goes_on_and_one_warning_says_so(join):
    free = ScriptedServer()
    free.close()
    with pytest.warns(CodistillWarning, match=r"does not answer at step 0.*Training goes on") as caught:
        exchange = join(free.url)
    assert len(caught) == 1
    assert train(exchange, 20) == ([], [0] * 20)


def test_an_absent_server_is_asked_ever_less_often(script, join):
    exchange = join(script.url)
    script.answer = lambda question: (503, b'{"error": "too many questions wait."}')
    messages, _ = train(exchange, 1000)
    assert len(messages) == 1
    assert "too many questions wait" in messages[0]
    # After pauses of 0, 1, 3, 7, 15, 31, 63, 127 and then 255 steps each.
    assert len(script.questions) == 8 + 1 + 2


def test_micro_batches_of_a_step_that_found_no_server_do_not_ask_again(script, join):
    exchange = join(script.url)
    script.answer = lambda question: (500, b"")
    with pytest.warns(CodistillWarning, match="does not answer"):
        ask(exchange)
    assert ask(exchange) == ask(exchange) == ()
    assert len(script.questions) == 1


def test_a_server_that_returns_teaches_again_and_the_next_outage_is_said_again(script, join):
    exchange = join(script.url)
    teach = script.answer = answer_with(said(1.0))
    assert train(exchange, 2) == ([], [1, 1])
    script.answer = lambda question: (500, b"")
    messages, counts = train(exchange, 3, start=2)
    assert len(messages) == 1
    assert counts == [0, 0, 0]
    (info,) = exchange.teachers.values()
    assert (info.share, info.age_steps) == (0.0, 5)
    script.answer = teach
    messages, counts = train(exchange, 3, start=5)
    assert messages == []
    assert counts[-1] == 1
    (info,) = exchange.teachers.values()
    assert (info.share, info.age_steps) == (1.0, 8)
    script.answer = lambda question: (500, b"")
    assert len(train(exchange, 1, start=8)[0]) == 1


@pytest.mark.parametrize(
    "answer",
    [
        (200, b""),
        (200, b"not safetensors"),
        (200, bytes(2**22)),
        (302, b""),
        (200, Answer(predictions=(said(1.0, shape=torch.Size([2, 7])),)).to_bytes()),
        (200, Answer(predictions=(said(1.0, tensors={"other": torch.zeros(2, 3)}),)).to_bytes()),
        (200, Answer(predictions=(said(1.0, peer="b"), said(1.0, peer="a"))).to_bytes()),
    ],
    ids=["empty", "garbage", "large", "redirect", "other shape", "other names", "order"],
)
def test_an_answer_that_cannot_be_used_is_as_none(script, join, answer):
    exchange = join(script.url)
    script.answer = answer_with(said(1.0))
    ask(exchange)
    script.answer = lambda question: answer
    messages, counts = train(exchange, 1)
    assert len(messages) == 1
    assert counts == [0]
    script.answer = answer_with(said(1.0))
    assert train(exchange, 2, start=1)[1][-1] == 1


def test_a_server_that_closes_idle_connections_costs_nothing(script, join):
    exchange = join(script.url)
    script.answer = answer_with(said(1.0))
    script.hangs_up = True
    assert train(exchange, 5) == ([], [1] * 5)


# Refusals


def test_a_server_that_refuses_the_first_question_is_an_error(script, join):
    exchange = join(script.url)
    script.answer = lambda question: (422, json.dumps({"error": "the model of peer 'b' \x1b[31m"}).encode())
    with pytest.raises(PeerMismatchError, match=r"refuses this student: HTTP 422.*peer 'b' .x1b"):
        ask(exchange)


def test_a_later_refusal_only_costs_the_teachers(script, join):
    exchange = join(script.url)
    script.answer = answer_with(said(1.0))
    assert len(ask(exchange)) == 1
    script.answer = lambda question: (413, b'{"error": "a question must have at most 8 samples"}')
    with pytest.warns(CodistillWarning, match="at most 8 samples"):
        assert ask(exchange) == ()


def test_a_wrong_token_is_an_error_at_the_start(script, join):
    script.health = (401, b'{"error": "the token is missing or wrong."}')
    with pytest.raises(PeerMismatchError, match="token"):
        join(script.url)


# What is asked


def test_a_student_never_learns_from_itself(script, join):
    exchange = join(script.url, peer="a")
    script.answer = lambda question: Answer(predictions=(said(1.0, peer="a"), said(2.0, peer="b")))
    assert [prediction.peer for prediction in ask(exchange)] == ["b"]
    assert script.questions[0].left_out == {"a": None}


def test_only_those_who_were_named_are_asked_for_and_listened_to(script, join):
    exchange = join(script.url, peers=["c", "b"])
    script.answer = lambda question: Answer(predictions=(said(1.0, peer="b"), said(2.0, peer="d")))
    assert [prediction.peer for prediction in ask(exchange)] == ["b"]
    assert script.questions[0].peers == ("b", "c")


@pytest.mark.parametrize(
    ("inputs", "kind"),
    [
        (torch.zeros(2, 4), "tensor"),
        ((torch.zeros(2, 4), torch.ones(2)), "positional"),
        ({"x": torch.zeros(2, 4), "mask": torch.ones(2, dtype=torch.bool)}, "named"),
    ],
)
def test_inputs_arrive_as_they_are(script, join, inputs, kind):
    ask_of = join(script.url).predict
    ask_of(inputs, None)
    (question,) = script.questions
    assert question.kind == kind
    arrived = question.inputs
    assert type(arrived) is type(inputs)
    if kind == "tensor":
        arrived, inputs = (arrived,), (inputs,)
    elif kind == "named":
        assert arrived.keys() == inputs.keys()
        arrived, inputs = [[values[name] for name in sorted(inputs)] for values in (arrived, inputs)]
    for one, other in zip(arrived, inputs, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_one_tensor_may_be_given_twice(script, join):
    inputs = torch.randn(2, 4)
    given = (inputs, inputs, inputs[:, :2])
    join(script.url).predict(given, None)
    (question,) = script.questions
    assert all(torch.equal(one, other) for one, other in zip(question.inputs, given, strict=True))


def test_what_is_no_tensor_is_not_sent(join, script):
    with pytest.raises(TypeError, match=r"tensors only.*'use_cache'"):
        join(script.url).predict({"x": torch.zeros(2, 4), "use_cache": True}, None)
    assert script.questions == []


# Versions


def test_a_new_version_is_counted_at_the_step_that_saw_it(script, join):
    exchange = join(script.url)
    script.answer = answer_with(said(1.0, sequence=0))
    train(exchange, 1)
    assert exchange.counters.fetched == ["b"]
    train(exchange, 1, start=1)
    assert exchange.counters.fetched == []
    script.answer = answer_with(said(2.0, sequence=1))
    train(exchange, 1, start=2)
    assert exchange.counters.fetched == ["b"]
    (info,) = exchange.teachers.values()
    assert (info.sequence, info.step, info.samples, info.age_steps) == (1, 10, 80, 1)
    assert exchange.counters.bytes_published > 0
    assert exchange.counters.bytes_fetched > 0


def test_a_server_that_goes_back_is_not_listened_to_even_after_a_restart(script, join):
    exchange = join(script.url)
    script.answer = answer_with(said(1.0, sequence=3))
    train(exchange, 4)
    state = json.loads(json.dumps(exchange.state_dict()))
    resumed = join(script.url, state=state, step=4)
    script.answer = answer_with(said(1.0, sequence=2))
    messages, counts = train(resumed, 2, start=4)
    assert counts == [0, 0]
    assert len(messages) == 1
    assert "older snapshot of peer 'b'" in messages[0]
    assert dict(resumed.teachers) == {}
    script.answer = answer_with(said(1.0, sequence=3))
    assert train(resumed, 1, start=6) == ([], [1])
    # It was first seen at step 0 of the life before.
    assert resumed.teachers["b"].age_steps == 7


def test_an_old_version_fades_and_is_then_no_more_asked_for(script, join):
    exchange = join(script.url, max_age_steps=4)
    script.answer = answer_with(said(1.0))
    messages, counts = train(exchange, 10)
    assert len(messages) == 1
    assert "nothing new for 5 steps" in messages[0]
    assert counts == [1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert script.questions[-1].left_out == {"b": (0, 0)}
    assert exchange.teachers["b"].share == 0.0
    script.answer = answer_with(said(2.0, sequence=1))
    assert [float(prediction.share) for prediction in ask(exchange)] == [1.0]


def test_by_default_a_version_is_old_after_twenty_of_its_peers_intervals(script, join):
    exchange = join(script.url)
    script.answer = answer_with(said(1.0))
    assert train(exchange, 100)[0] == []
    assert exchange.teachers["b"].share == 1.0
    assert len(train(exchange, 2, start=100)[0]) == 1
    assert exchange.teachers["b"].share == pytest.approx(0.98)


def test_a_last_version_never_fades(script, join):
    exchange = join(script.url, max_age_steps=1)
    script.answer = answer_with(said(1.0, finished=True))
    assert train(exchange, 20) == ([], [1] * 20)
    assert exchange.teachers["b"].share == 1.0


@pytest.mark.parametrize(
    "bad",
    [said(float("nan"), sequence=1), said(float("inf"), sequence=1), said(0.0, sequence=1, is_usable=False)],
    ids=["NaN", "infinity", "told"],
)
def test_a_teacher_that_is_no_number_counts_nothing_until_there_is_a_better_one(script, join, bad):
    exchange = join(script.url)
    script.answer = answer_with(said(1.0, sequence=0))
    train(exchange, 1)
    script.answer = answer_with(bad)
    with pytest.warns(CodistillWarning, match="not finite numbers") as caught:
        (prediction,) = ask(exchange)
    assert len(caught) == 1
    assert float(prediction.share) == 0.0
    assert prediction.target.logits.isfinite().all()
    assert exchange.teachers["b"].is_quarantined
    exchange.step(Progress(step=2))
    assert train(exchange, 2, start=2) == ([], [0, 0])
    assert script.questions[-1].left_out == {"b": (0, 1)}
    script.answer = answer_with(said(1.0, sequence=2))
    assert train(exchange, 1, start=4) == ([], [1])
    assert not exchange.teachers["b"].is_quarantined


def test_a_teacher_much_worse_than_the_student_is_set_aside_after_three_looks(script, join):
    exchange = join(script.url, max_age_steps=1000)
    script.answer = answer_with(said(1.0, task_loss=5.0))
    assert train(exchange, 149, task_loss=1.0) == ([], [1] * 149)
    messages, _ = train(exchange, 2, start=149, task_loss=1.0)
    assert len(messages) == 1
    assert "task loss" in messages[0]
    script.answer = answer_with(said(1.0, sequence=1, task_loss=4.0))
    assert train(exchange, 1, start=151)[0] == []
    assert exchange.teachers["b"].is_quarantined
    script.answer = answer_with(said(1.0, sequence=2, task_loss=1.0))
    train(exchange, 1, start=152)
    assert not exchange.teachers["b"].is_quarantined


def test_a_peer_that_has_become_another_model_is_left_out(script, join):
    exchange = join(script.url)
    script.answer = answer_with(said(1.0))
    train(exchange, 1)
    script.answer = answer_with(said(1.0, sequence=1, classes=7))
    messages, counts = train(exchange, 2, start=1)
    assert counts == [0, 0]
    assert len(messages) == 1
    assert "shape [2, 7], the student's [2, 3]" in messages[0]


def test_a_peer_that_the_server_serves_no_more_is_no_teacher(script, join):
    exchange = join(script.url)
    script.answer = answer_with(said(1.0, peer="b"), said(1.0, peer="c"))
    ask(exchange)
    script.answer = answer_with(said(1.0, peer="c"))
    ask(exchange)
    assert list(exchange.teachers) == ["c"]


# A few classes


def test_a_few_classes_need_a_loss_that_is_linear_in_them():
    with pytest.raises(ValueError, match="settings"):
        ServedExchange("http://127.0.0.1:1", codec=TopK(2, sampled=1)).bind(nn.Linear(1, 1), None)
    for settings in (settings_of("reverse_kl"), settings_of(combine="logits")):
        with pytest.raises(ValueError, match="sparse teachers"):
            ServedExchange("http://127.0.0.1:1", codec=TopK(2, sampled=1)).bind(
                nn.Linear(1, 1), None, None, settings
            )


def test_the_largest_classes_alone_are_refused_at_the_first_loss(script):
    codistiller = Codistiller(nn.Linear(FEATURES, CLASSES), ServedExchange(script.url, codec=TopK(2)))
    with codistiller, pytest.raises(ValueError, match="sampled must be >= 1"):
        codistiller.loss(torch.zeros(2, CLASSES), torch.zeros(2, FEATURES))


def test_a_few_classes_are_asked_for_at_the_temperature_of_the_loss(script, join):
    codec = TopK(2, sampled=1)
    exchange = join(script.url, codec=codec, settings=settings_of(temperature=3.0, class_dim=1))
    logits = torch.randn(2, CLASSES, 5, generator=torch.Generator().manual_seed(0))

    def answer(question):
        tensors = question.codec.encode(
            logits,
            temperature=question.temperature,
            class_dim=question.class_dim,
            generator=torch.Generator().manual_seed(question.seed),
        )
        return Answer(predictions=(said(0.0, shape=logits.shape, tensors=tensors),))

    script.answer = answer
    before = torch.random.get_rng_state()
    (prediction,) = exchange.predict(torch.zeros(2, FEATURES), torch.zeros_like(logits)).peers
    assert torch.equal(torch.random.get_rng_state(), before)
    (question,) = script.questions
    assert (question.codec, question.temperature, question.class_dim) == (codec, 3.0, 1)
    assert prediction.target.temperature == 3.0
    assert prediction.target.logits_shape(1) == logits.shape
    # Other draws for the next question, and the same in a run that is repeated.
    exchange.predict(torch.zeros(2, FEATURES), torch.zeros_like(logits))
    again = join(script.url, codec=codec, settings=settings_of(temperature=3.0, class_dim=1))
    again.predict(torch.zeros(2, FEATURES), torch.zeros_like(logits))
    first, second, repeated = (question.seed for question in script.questions)
    assert first == repeated != second


# Arguments


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"url": "http://gpu-7:8765"}, ValueError, "https:// for a server on another machine"),
        ({"url": "ftp://127.0.0.1"}, ValueError, "url must be like"),
        ({"url": "http://127.0.0.1:99999"}, ValueError, "url must be like"),
        ({"url": "https://me:secret@gpu-7"}, ValueError, "no user and no password"),
        ({"url": 7}, TypeError, "url must be a string"),
        ({"peer": "a/b"}, ValueError, "peer must be"),
        ({"peers": "b"}, TypeError, "peers must be a list"),
        ({"peers": []}, ValueError, "peers must be 1 to 64"),
        ({"codec": "zip"}, ValueError, "codec must be"),
        ({"timeout_s": 0}, ValueError, "timeout_s must be > 0"),
        ({"max_age_steps": 0}, ValueError, "max_age_steps must be >= 1"),
        ({"token_file": "/nowhere"}, ValueError, "token_file must be a file"),
        ({"ca_file": "/nowhere"}, ValueError, "ca_file must be a file"),
        ({"publishing": 3}, TypeError, "publishing must be"),
    ],
)
def test_wrong_arguments_are_refused(options, error, words):
    arguments = {"url": "http://127.0.0.1:8765", **options}
    with pytest.raises(error, match=words) as raised:
        ServedExchange(arguments.pop("url"), **arguments)
    assert "me:secret" not in str(raised.value)


def test_who_publishes_must_say_under_which_name():
    publishing = CheckpointExchange(MemoryStore(), peer="a", peers=["a"])
    with pytest.raises(ValueError, match="peer must be given with publishing"):
        ServedExchange("http://127.0.0.1:1", publishing=publishing)
    lockstep = CheckpointExchange(MemoryStore(), peer="a", peers=["a"], lockstep=True)
    with pytest.raises(ValueError, match="must run free"):
        ServedExchange("http://127.0.0.1:1", peer="a", publishing=lockstep)


def test_it_is_not_copied_and_state_comes_before_the_first_loss(script, join):
    exchange = join(script.url)
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        copy.deepcopy(exchange)
    with pytest.raises(RuntimeError, match="before the first loss"):
        exchange.load_state_dict(exchange.state_dict())
    with pytest.raises(ValueError, match=r"state.version"):
        ServedExchange(script.url).load_state_dict({"version": 2, "seen": {}})


# With a real server


def model_of(value):
    model = nn.Linear(FEATURES, CLASSES)
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.copy_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(value + index))
            )
    return model


@pytest.fixture
def store():
    store = MemoryStore()
    open_run(store)
    return store


@pytest.fixture
def serve():
    """Return a function that starts a server, which ends with the test."""
    servers = []

    def start(store, **options):
        teachers = TeacherOptions(build=lambda info: nn.Linear(FEATURES, CLASSES))
        servers.append(PredictionServer(store, teachers=teachers, poll_s=3600.0, **options))
        servers[-1].start()
        servers[-1].look()
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def publisher(store, peer, model):
    """Return a peer that publishes and learns from nobody."""
    exchange = CheckpointExchange(store, peer=peer, peers=[peer], interval_steps=1)
    exchange.background = InlineBackground()
    return Codistiller(model, exchange)


def test_the_loss_is_that_of_a_local_teacher(store, serve):
    teacher, student = model_of(1), model_of(2)
    inputs = torch.randn(8, FEATURES, generator=torch.Generator().manual_seed(3))
    with publisher(store, "b", teacher) as peer:
        peer.loss(teacher(inputs), inputs)
        peer.step()
    server = serve(store)
    codistiller = Codistiller(
        student, ServedExchange(server.url), distillation_loss=Divergence("kl", temperature=2.0)
    )
    with codistiller:
        logits = student(inputs)
        loss = codistiller.loss(logits, inputs)
        (gradient,) = torch.autograd.grad(loss, logits)
        with torch.no_grad():  # validation asks as well
            assert codistiller.loss(student(inputs), inputs) == pytest.approx(float(loss.detach()))
        report = codistiller.step()
    log_q = torch.log_softmax(logits / 2.0, -1)
    log_p = torch.log_softmax(teacher(inputs) / 2.0, -1).detach()
    expected = 4.0 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    (wanted,) = torch.autograd.grad(expected, logits)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    assert torch.allclose(gradient, wanted, atol=1e-6)
    assert report.teachers == {"b": 1}
    assert report.bytes_fetched > 0


def test_a_server_that_ends_and_comes_back_at_its_address_teaches_on(store, serve):
    teacher, student = model_of(1), model_of(2)
    inputs = torch.zeros(2, FEATURES)
    with publisher(store, "b", teacher) as peer:
        peer.loss(teacher(inputs), inputs)
    server = serve(store)
    port = int(server.url.rpartition(":")[2])
    with Codistiller(student, ServedExchange(server.url, timeout_s=5.0)) as codistiller:

        def step():
            loss = codistiller.loss(student(inputs), inputs)
            return float(loss.detach()), codistiller.step()

        assert step()[0] > 0.0
        server.close()
        with pytest.warns(CodistillWarning, match="does not answer at step 1"):
            step()
        for age in (3, 4):
            loss, report = step()
            assert loss == 0.0
            assert report.shares == {"b": 0.0}
            assert report.teachers == {"b": age}
        server = serve(store, listening=Listening(port=port))
        losses = [step()[0] for _ in range(4)]
        assert losses[-1] > 0.0


def test_a_student_that_publishes_as_well_is_a_peer(store, serve):
    teacher, student = model_of(1), model_of(2)
    inputs = torch.zeros(2, FEATURES)
    with publisher(store, "b", teacher) as peer:
        peer.loss(teacher(inputs), inputs)
    server = serve(store)
    publishing = CheckpointExchange(store, peer="a", peers=["a"], interval_steps=1)
    publishing.background = InlineBackground()
    exchange = ServedExchange(server.url, peer="a", publishing=publishing)
    with Codistiller(student, exchange) as codistiller:
        assert codistiller.loss(student(inputs), inputs) > 0
        codistiller.step()
        server.look()
        codistiller.loss(student(inputs), inputs)
        report = codistiller.step()
        assert report.published
        assert list(report.teachers) == ["b"]
        state = json.loads(json.dumps(codistiller.state_dict()))
        assert [version.peer for version in server.versions] == ["a", "b"]
    assert state["exchange"]["publishing"]["peer"] == "a"
    resumed = CheckpointExchange(store, peer="a", peers=["a"], interval_steps=1)
    resumed.background = InlineBackground()
    again = Codistiller(student, ServedExchange(server.url, peer="a", publishing=resumed))
    again.load_state_dict(state)
    with again:
        again.loss(student(inputs), inputs)
        assert again.step().step == 3


def test_publishing_with_teachers_of_its_own_is_warned_of(store, serve):
    student = model_of(2)
    inputs = torch.zeros(2, FEATURES)
    with publisher(store, "b", model_of(1)) as peer:
        peer.loss(model_of(1)(inputs), inputs)
    server = serve(store)
    publishing = CheckpointExchange(store, peer="a", interval_steps=1)
    publishing.background = InlineBackground()
    exchange = ServedExchange(server.url, peer="a", publishing=publishing)
    with Codistiller(student, exchange) as codistiller:
        codistiller.loss(student(inputs), inputs)
        with pytest.warns(CodistillWarning, match="must have no teachers of its own"):
            codistiller.step()
