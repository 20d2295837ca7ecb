import json
import os
import signal
import subprocess
import sys
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from codistill.cli import main, serve
from codistill.exchange.checkpoint.lives import open_run
from codistill.stores.directory import DirectoryStore

MODELS = """
import torch
from torch import nn

calls = []

def build(info):
    calls.append(info.peer)
    return nn.Linear(3, 2)

class Wordy(nn.Linear):
    def forward(self, inputs):
        return {"logits": super().forward(inputs)}

def build_wordy(info):
    return Wordy(3, 2)

def logits_of(outputs):
    return outputs["logits"]

not_a_function = 3
"""

# A peer that trains, publishes, and learns from whom the server serves, until its input ends. It says when
# the other has taught it four times.
PEER = """
import json, sys, threading
import torch
from torch import nn
from codistill import CheckpointExchange, Codistiller, ServedExchange

peer, store, url, token = sys.argv[1:]
torch.manual_seed(ord(peer))
model = nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
exchange = ServedExchange(
    url,
    peer=peer,
    token_file=token,
    publishing=CheckpointExchange(store, peer=peer, peers=[peer], interval_steps=5),
)
sequences, terms, has_said = [], [], False
end = threading.Thread(target=sys.stdin.read)
end.start()
with Codistiller(model, exchange) as codistiller:
    while end.is_alive():
        inputs = torch.randn(8, 3)
        logits = model(inputs)
        task_loss = nn.functional.cross_entropy(logits, (inputs.sum(1) > 0).long())
        term = codistiller.loss(logits, inputs)
        (task_loss + term).backward()
        optimizer.step()
        optimizer.zero_grad()
        report = codistiller.step(task_loss=task_loss.detach())
        sequences += [codistiller.teachers[name].sequence for name in report.fetched]
        terms.append(float(term.detach()))
        if len(sequences) >= 4 and not has_said:
            has_said = True
            print("taught", flush=True)
print(json.dumps({"teachers": list(codistiller.teachers), "sequences": sequences, "most": max(terms)}))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder with models in it, beside a store in which nobody has published yet."""
    (tmp_path / "served_models.py").write_text(MODELS)
    open_run(DirectoryStore(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield tmp_path
    sys.modules.pop("served_models", None)


def words_of(folder, *more, model="served_models:build"):
    return ["serve", str(folder / "store"), "--model", model, "--port", "0", *more]


def get(url, path):
    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.mark.spawn
def test_two_peers_that_train_teach_each_other_through_a_server(folder):
    token = folder / "token"
    token.write_text("0123456789abcdef" * 2)
    token.chmod(0o600)
    words = words_of(folder, "--token-file", str(token), "--poll-s", "0.05", "--json")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    started = {"text": True, "env": environment, **pipes}
    server = subprocess.Popen([sys.executable, "-m", "codistill", *words], **started)
    peers = {}
    try:
        url = json.loads("".join(server.stdout.readline() for _ in range(3)))["url"]
        assert get(url, "/health") == (503, b'{"status":"waiting"}')
        for peer in "ab":
            arguments = [peer, str(folder / "store"), url, str(token)]
            peers[peer] = subprocess.Popen([sys.executable, "-c", PEER, *arguments], **started)
        assert [peers[peer].stdout.readline() for peer in "ab"] == ["taught\n"] * 2
        for peer, other in (("a", "b"), ("b", "a")):
            out, err = peers[peer].communicate(timeout=120)
            assert peers[peer].returncode == 0, err
            history = json.loads(out)
            assert history["teachers"] == [other]
            assert history["sequences"] == sorted(set(history["sequences"]))
            assert history["most"] > 0.0
        assert get(url, "/health") == (200, b'{"status":"ready"}')
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=60)
    finally:
        for process in [server, *peers.values()]:
            if process.poll() is None:
                process.kill()
                process.communicate()
    assert server.returncode == 0, err
    assert "Peer 'a' at step" in err
    assert "Traceback" not in err


@pytest.fixture
def interrupt_when_ready(monkeypatch):
    """Let the server's process be asked to end as soon as it has said where it is; return what it said."""
    said = []

    def say(what):
        said.append(what)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(serve.output, "print_text", say)
    return said


def test_it_says_where_it_is_and_ends_when_it_is_asked_to(folder, interrupt_when_ready):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert main(words_of(folder)) == 0
    (said,) = interrupt_when_ready
    assert said.startswith(f"Serving the peers of {folder / 'store'} at http://127.0.0.1:")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert main(words_of(folder, "--json")) == 0
    assert json.loads(interrupt_when_ready[1])["url"].startswith("http://127.0.0.1:")


def test_every_option_reaches_the_server(folder, monkeypatch):
    seen = {}

    class Seen(Exception):
        pass

    def take(store, **options):
        seen.update(options, store=store)
        raise Seen

    monkeypatch.setattr(serve, "PredictionServer", take)
    more = ["--outputs-to-logits", "served_models:logits_of", "--dtype", "bfloat16", "--device", "meta"]
    more += ["--peers", "a", "b", "--max-peers", "7", "--max-batch", "9", "--max-integers", "11"]
    more += ["--max-body-bytes", str(2**30), "--integers-below", "13", "--no-merging", "--poll-s", "2.5"]
    with pytest.raises(Seen):
        main(words_of(folder, *more, model="served_models:build_wordy"))
    teachers, limits, answering = seen["teachers"], seen["limits"], seen["answering"]
    assert teachers.build.__name__ == "build_wordy"
    assert (str(teachers.dtype), teachers.device, teachers.max_teachers) == ("torch.bfloat16", "meta", 7)
    assert (limits.max_batch, limits.max_integers, limits.max_body_bytes) == (9, 11, 2**30)
    assert answering.outputs_to_logits({"logits": 5}) == 5
    assert (answering.integers_below, answering.is_merging) == (13, False)
    assert (seen["peers"], seen["poll_s"], seen["signing_key_file"]) == (("a", "b"), 2.5, None)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("served_models", "module:function"),
        (":build", "module:function"),
        ("no_such_module:build", "No module named"),
        ("served_models:no_such", "no attribute"),
        ("served_models:not_a_function", "which is a int"),
    ],
)
def test_a_model_that_cannot_be_found_is_wrong_usage(folder, capsys, model, words):
    assert main(words_of(folder, model=model)) == 2
    assert words in capsys.readouterr().err


def test_others_must_not_reach_it_unprotected(folder, capsys):
    assert main(words_of(folder, "--host", "0.0.0.0")) == 1
    assert "certificate and key and token_file must be given" in capsys.readouterr().err


def test_a_store_without_a_run_is_not_made(folder, capsys):
    assert main(["serve", str(folder / "typo"), "--model", "served_models:build"]) == 1
    assert "must be a folder that is there" in capsys.readouterr().err
    assert not (folder / "typo").exists()


def test_a_server_that_breaks_ends_with_an_error(folder, monkeypatch, capsys):
    monkeypatch.setattr(serve.PredictionServer, "is_broken", property(lambda server: True))
    assert main(words_of(folder)) == 1
