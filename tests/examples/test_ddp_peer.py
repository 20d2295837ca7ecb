import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from codistill import CheckpointExchange, Codistiller, load_snapshot
from codistill.testing import InlineBackground

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "ddp_peer.py"


def start(folder: Path) -> subprocess.Popen[str]:
    """Start peer a: two ranks, of which the second dies once, after the checkpoint of step 50."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    options = ["--peer", "a", "--store", folder / "store", "--checkpoints", folder, "--steps", "200"]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [
                sys.executable,
                *torchrun,
                "--nproc-per-node=2",
                "--max-restarts=1",
                HERE / "run_example.py",
                EXAMPLE,
                *options,
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "GLOO_SOCKET_IFNAME": "lo",
                "RANK_1_DIES_AT": "75",
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            },
            text=True,
        )


class Student:
    """Peer b, in this process, which trains when it is told to."""

    def __init__(self, store: Path) -> None:
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 4))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        exchange = CheckpointExchange(store, peer="b", interval_steps=1)
        exchange.background = InlineBackground()
        self.codistiller = Codistiller(self.model, exchange)

    def look(self) -> tuple[int, int]:
        """Take a step or two; return incarnation and step of what the teacher holds then."""
        inputs, targets = torch.randn(8, 20), torch.randint(4, (8,))
        for _ in range(2):
            logits = self.model(inputs)
            loss = cross_entropy(logits, targets) + self.codistiller.loss(logits, inputs)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            # Few, so that the teacher has always seen enough.
            self.codistiller.step(samples=1)
        held = self.codistiller.teachers.get("a")
        return (-1, -1) if held is None else (held.incarnation, held.step)


@pytest.mark.spawn
def test_a_peer_whose_rank_dies_goes_on_from_its_checkpoint_and_the_other_learns_from_its_new_life(
    tmp_path: Path,
) -> None:
    student = Student(tmp_path / "store")
    said, held = [], [student.look()]
    peer = start(tmp_path)
    try:
        for line in peer.stdout:
            said.append(line.strip())
            held.append(student.look())
        code = peer.wait()
    finally:
        peer.terminate()
        peer.wait()
        peer.stdout.close()
    assert code == 0, (tmp_path / "log").read_text()
    assert said[:4] == [
        "peer a: saved step 50, restarted 0 times",
        "peer a: saved step 100, restarted 1 times",
        "peer a: saved step 150, restarted 1 times",
        "peer a: saved step 200, restarted 1 times",
    ]
    assert "after 200 steps of 2 ranks, 100% of them with a teacher" in said[4]
    # It trained beside the first life, was not disturbed by the death, and holds the last of the second.
    assert held[0] == (-1, -1)
    assert held[1][0] == 0
    assert held == sorted(held)
    assert student.look() == (1, 200)
    student.codistiller.close()
    _, info = load_snapshot(tmp_path / "store", "a")
    # As many samples as without the death: those of steps 51 to 74 of the first life do not count.
    assert (info.incarnation, info.step, info.samples, info.finished) == (1, 200, 200 * 64, True)
