"""A peer of two ranks under Lightning: replicas, and a model that the ranks divide among them."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from codistill import load_snapshot

SCRIPT = Path(__file__).parent / "scripts" / "lightning_ranks.py"
STEPS = 12


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lightning_ranks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both ranks have left what they saw, beside their stores."""
    folder = tmp_path_factory.mktemp("ranks")
    for store in ("ddp", "fsdp2", "one"):
        load_script().leave_a_finished_peer(folder / store)
    job = subprocess.Popen(
        [sys.executable, SCRIPT, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        text=True,
        # A session of its own, so that the rank that Lightning starts ends with it.
        start_new_session=True,
    )
    try:
        said, _ = job.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    assert job.returncode == 0, said
    return folder


@pytest.fixture(scope="module")
def seen(folder: Path) -> list[dict[str, Any]]:
    """What each rank saw."""
    return [json.loads((folder / f"seen-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one_rank(folder: Path) -> dict[str, Any]:
    """What one process sees that trains on the same batches."""
    script = load_script()
    exchange = script.exchange_of(folder / "one")
    return script.fit(script.Task(), exchange, devices=1)


@pytest.mark.spawn
@pytest.mark.filterwarnings("ignore:The '[a-z]*_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated")
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_ranks_are_one_peer_that_learns_as_one_process_does(
    kind: str, seen: list[dict[str, Any]], one_rank: dict[str, Any]
) -> None:
    for of_rank in seen:
        got = of_rank[kind]
        assert (got["step"], got["samples"], got["teacher_share"]) == (STEPS, STEPS * 8, 1.0)
        assert list(got["teachers"]) == ["b"]
        for name, values in got["weights"].items():
            torch.testing.assert_close(values, one_rank["weights"][name], rtol=1e-5, atol=1e-5)


@pytest.mark.spawn
def test_the_peer_of_replicas_leaves_one_finished_snapshot(folder: Path, seen: list[dict[str, Any]]) -> None:
    tensors, info = load_snapshot(folder / "ddp", "a")
    assert (info.step, info.samples, info.finished, info.incarnation) == (STEPS, STEPS * 8, True, 0)
    for name, values in seen[0]["ddp"]["weights"].items():
        torch.testing.assert_close(tensors[name].tolist(), values)


@pytest.mark.spawn
def test_the_divided_peer_s_ranks_wrote_a_shard_each_in_its_second_life(
    folder: Path, seen: list[dict[str, Any]]
) -> None:
    tensors, info = load_snapshot(folder / "fsdp2", "a")
    # Resumed from the trainer's checkpoint, so that counts went on.
    assert (info.step, info.samples, info.finished, info.incarnation) == (STEPS, STEPS * 8, True, 1)
    for name, values in seen[1]["fsdp2"]["weights"].items():
        torch.testing.assert_close(tensors[name].tolist(), values)
    shards = (folder / "fsdp2" / "a" / "snapshots" / "1-0").glob("shard-*")
    assert len(list(shards)) == 2
