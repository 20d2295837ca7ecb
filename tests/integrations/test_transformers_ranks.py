"""Peers of the Trainer as real processes: two ranks, and the example."""

import difflib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from codistill import CheckpointExchange, Codistiller, load_snapshot
from codistill.snapshots.keys import status_key
from codistill.snapshots.status import MAX_STATUS_BYTES, Status
from codistill.stores import DirectoryStore
from codistill.testing import InlineBackground

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "transformers_peer.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class Teacher(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Linear(4, 7)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.body(features)


def make_rows() -> list[dict[str, list]]:
    generator = torch.Generator().manual_seed(6)
    rows = []
    for row in range(12):
        labels = torch.randint(7, (5,), generator=generator)
        labels[: row % 5] = -100
        rows.append({"features": torch.randn(5, 4, generator=generator).tolist(), "labels": labels.tolist()})
    return rows


@pytest.mark.spawn
def test_two_ranks_that_are_stopped_and_resumed_equal_one_process_by_hand(tmp_path: Path) -> None:
    exchange = CheckpointExchange(tmp_path / "store", peer="b")
    exchange.background = InlineBackground()
    teacher = Teacher()
    with Codistiller(teacher, exchange) as codistiller:
        codistiller.loss(teacher(torch.zeros(2, 4)), torch.zeros(2, 4))
        codistiller.step(task_loss=1.0)
    rows = make_rows()
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *torchrun, HERE / "scripts" / "transformers_ranks.py", tmp_path],
        env={**ENVIRONMENT, "GLOO_SOCKET_IFNAME": "lo", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]

    torch.manual_seed(0)
    body = nn.Linear(4, 7)
    optimizer = torch.optim.SGD(body.parameters(), lr=0.5)
    totals, tasks = [], []
    for first in [0, 4, 8] * 2:
        features = torch.tensor([row["features"] for row in rows[first : first + 4]])
        labels = torch.tensor([row["labels"] for row in rows[first : first + 4]])
        counts = labels != -100
        logits = body(features)[counts]
        with torch.no_grad():
            wanted = teacher(features)[counts]
        task_loss = cross_entropy(logits, labels[counts])
        term = kl_div(
            log_softmax(logits, -1), log_softmax(wanted, -1), reduction="batchmean", log_target=True
        )
        loss = task_loss + 0.7 * term
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
        tasks.append(task_loss.item())
    assert [line["loss"] for line in told[0]["lines"]] == pytest.approx(totals, abs=1e-5)
    for one in told:
        assert torch.allclose(torch.tensor(one["weight"]), body.weight, atol=1e-5)
        assert one["is_wrapped"] == "DistributedDataParallel"
        assert (one["step"], one["samples"], one["teacher_share"]) == (6, 24, 1.0)
    _, info = load_snapshot(tmp_path / "store", "a")
    assert (info.step, info.samples, info.finished) == (6, 24, True)


def test_the_example_is_an_unmodified_script_and_ten_lines_at_most() -> None:
    assert len(changed_lines("transformers")) <= 10


def changed_lines(name: str) -> list[str]:
    """Return the lines, of code, that a plain script gains and loses to become a peer."""
    scripts = (HERE / "scripts" / f"{name}_plain.py", HERE.parents[1] / "examples" / f"{name}_peer.py")
    plain, peer = (path.read_text().split('"""\n', maxsplit=2)[-1].splitlines() for path in scripts)
    return [line for line in difflib.ndiff(plain, peer) if line[:2] in ("+ ", "- ") and line[2:].strip()]


@pytest.mark.spawn
def test_two_peers_of_the_example_teach_each_other(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLE, "--store", tmp_path / "store", "--peer"]
    options = {"cwd": tmp_path, "env": ENVIRONMENT, "text": True}
    jobs = {
        peer: subprocess.Popen(
            [*command, peer, "--seed", seed, "--steps", "50"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        for peer, seed in (("a", "1"), ("b", "2"))
    }
    try:
        printed = {peer: job.communicate(timeout=150) for peer, job in jobs.items()}
    finally:
        for job in jobs.values():
            job.kill()
            job.wait()
    store = DirectoryStore(tmp_path / "store")
    for peer, other in ("ab", "ba"):
        out, err = printed[peer]
        assert jobs[peer].returncode == 0, err
        found = re.search(r"eval_loss += +(\S+)", out)
        assert 1.0 < float(found[1]) < 4.0, out  # 5.5 before training
        assert "codistill/distillation_loss" in out
        key = status_key(peer)
        status = Status.from_json(store.read(key, max_bytes=MAX_STATUS_BYTES), key=key)
        assert (status.state, list(status.reading)) == ("finished", [other])
        _, info = load_snapshot(store, peer)
        assert (info.step, info.samples, info.finished) == (50, 800, True)
    again = [*command, "a", "--seed", "1", "--steps", "60", "--resume"]
    resumed = subprocess.run(again, capture_output=True, timeout=150, check=False, **options)
    assert resumed.returncode == 0, resumed.stderr
    _, info = load_snapshot(store, "a")
    assert (info.incarnation, info.step, info.samples, info.finished) == (1, 60, 960, True)
