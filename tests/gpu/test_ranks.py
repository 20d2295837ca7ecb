"""Ranks over NCCL, each a process. To be run where there is a GPU, better where there are several."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.spawn

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "ddp_peer.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]


def start(words: list[object], *, ranks: int, devices: str | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    if devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = devices
    return subprocess.Popen(
        [*TORCHRUN, f"--nproc-per-node={ranks}", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )


def finish(jobs: list[subprocess.Popen[str]]) -> list[str]:
    """Wait for all, and return what they printed."""
    try:
        printed = [job.communicate(timeout=200) for job in jobs]
    finally:
        for job in jobs:
            # What torchrun has started ends with it only if it may end in order.
            job.terminate()
            job.wait()
            job.stdout.close()
            job.stderr.close()
    assert [job.returncode for job in jobs] == [0] * len(jobs), printed
    return [out for out, _ in printed]


def test_peers_whose_ranks_speak_over_nccl_teach_each_other(tmp_path: Path, gpu: torch.device) -> None:
    """Two ranks a peer with two GPUs or more, of its own with four; else one, on the same GPU."""
    count = torch.cuda.device_count()
    ranks = min(2, count)
    own = {"a": "0,1", "b": "2,3"} if count >= 4 else dict.fromkeys("ab", "0,1" if ranks == 2 else "0")
    said = finish(
        [
            start(
                [
                    EXAMPLE,
                    *("--peer", peer, "--store", tmp_path / "store"),
                    *("--checkpoints", tmp_path / "checkpoints", "--steps", "100"),
                ],
                ranks=ranks,
                devices=devices,
            )
            for peer, devices in own.items()
        ]
    )
    for out in said:
        assert f"after 100 steps of {ranks} ranks, 100% of them with a teacher" in out


def test_predictions_are_swapped_as_the_textbook_says(device: torch.device) -> None:
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip(f"NCCL needs 2 GPUs for 2 peers, found {torch.cuda.device_count()}")
    backend = "nccl" if device.type == "cuda" else "gloo"
    (said,) = finish([start([HERE / "prediction_rank.py", backend], ranks=2)])
    losses, expected = json.loads(said)
    assert losses == pytest.approx(expected, abs=1e-5)
