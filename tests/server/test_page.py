"""docs/prediction-server.md says what is so."""

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch

from codistill.server import Limits

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "prediction-server.md").read_text()


def client():
    """Return the function of the page that asks without codistill."""
    (code,) = re.findall(
        r"<!-- client: begin -->\n```python\n(.*?)```\n<!-- client: end -->", PAGE, re.DOTALL
    )
    names = {}
    exec(compile(code, "docs/prediction-server.md", "exec"), names)
    return names["predict"]


def test_the_pages_client_is_answered(store, serve, peer_of, model_of):
    for number, peer in enumerate("bc"):
        peer_of(store, peer).publish(model_of(number))
    address = urlsplit(serve(store).url)
    inputs = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    answers = client()(address.hostname, address.port, inputs)
    assert sorted(answers) == ["b", "c"]
    for number, peer in enumerate("bc"):
        step, logits = answers[peer]
        assert step == 1
        assert torch.allclose(logits, model_of(number)(inputs), atol=1e-6)
    with pytest.raises(RuntimeError, match="cannot answer this"):
        client()(address.hostname, address.port, torch.zeros(3, 9))


def test_the_page_shows_what_was_measured():
    measured = json.loads((ROOT / "docs" / "results" / "server.json").read_text())["measured"]
    for words, ways in measured.items():
        name, students = words.split(", ")
        for way, figures in ways.items():
            assert (
                f"| {name} | {students.split()[0]} | {way} | {figures['answers_per_s']:.0f} "
                f"| {figures['median_ms']:.1f} ms | {figures['p95_ms']:.1f} ms |"
            ) in PAGE


def test_the_page_names_the_limits_there_are():
    limits = Limits()
    assert f"at most {limits.max_body_bytes // 2**20} MiB a question" in PAGE
    assert f"{limits.max_pending_bytes // 2**20} MiB and {limits.max_pending} questions" in PAGE
    assert f"at most {limits.max_batch:,} samples" in PAGE
    assert f"{limits.max_integers:,}\nwhole numbers" in PAGE
    assert f"up to {limits.max_connections} connections" in PAGE
    assert f"within {limits.request_timeout_s:g} s" in PAGE
