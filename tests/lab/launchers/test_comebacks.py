"""What launchers of clusters start again trains on, to the bit as if nothing had happened."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from codistill.lab import folder
from codistill.lab.folder import RunFolder
from codistill.lab.launch import LaunchOptions, launch
from codistill.lab.launchers.slurm import SlurmLauncher
from codistill.lab.launchers.slurm_settings import SlurmSettings
from codistill.lab.recipe import Recipe


@pytest.fixture(scope="module")
def uninterrupted(held: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The same recipe, trained on this machine without anything happening; one thread a rank."""
    path = tmp_path_factory.mktemp("uninterrupted")
    out = folder.create(path / "out", arms=[held], seeds=[0], command=[])
    launch(out, [held], options=LaunchOptions(data_root=path, device="cpu", cores=2))
    return out


@pytest.mark.spawn
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_slurm_queues_a_preempted_peer_again_and_it_goes_on_bit_for_bit(
    held: Recipe, uninterrupted: RunFolder, tmp_path: Path, bits_of: Callable[[Path], list[object]]
) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    (tmp_path / "wait-21").touch()
    out = folder.create(tmp_path / "out", arms=[held], seeds=[0], command=[])
    preempted = []

    def preempt(*progress: object) -> None:
        if not (tmp_path / "held").exists():
            return
        # One peer has come to an update after its second checkpoint, and the other waits for it.
        job = Path(json.loads((tmp_path / "held").read_text())[1])
        (tmp_path / "held").unlink()
        record = json.loads(job.with_name(job.name.replace(".job.", ".slurm.")).read_text())
        controller = Path("/proc", record["job_id"], "task", record["job_id"], "children")
        # What SlurmJob._interrupt sends; LocalJob's own would only end the local stand-in for Slurm itself.
        for number in (signal.SIGTERM, signal.SIGUSR2):
            os.kill(int(controller.read_text()), number)
        preempted.append(record["job_id"])

    launcher = SlurmLauncher(settings=SlurmSettings.read(["time=30"]), cluster="local")
    options = LaunchOptions(launcher=launcher, data_root=tmp_path, device="cpu", cores=2)
    launch(out, [held], options=options, on_progress=preempt)
    for peer in "ab":
        paths = [run.peer_path("codistillation", 0, peer) for run in (uninterrupted, out)]
        assert bits_of(paths[1]) == bits_of(paths[0])
    (again,) = preempted
    said = (out.logs_path("codistillation") / "slurm" / f"{again}_0_log.out").read_text()
    assert "this job is preempted" in said
    assert said.count("Starting with JobEnvironment") == 2


@pytest.mark.spawn
@pytest.mark.timeout(600)  # some twenty processes, each of which imports PyTorch
def test_ray_starts_a_rank_that_has_died_again_and_it_goes_on_bit_for_bit(
    held: Recipe, uninterrupted: RunFolder, tmp_path: Path, bits_of: Callable[[Path], list[object]]
) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    # Before its first checkpoint: it starts again, under the name that its snapshots have taken.
    (tmp_path / "die-7").touch()
    recipe = f"{held.task.rpartition(':')[0]}:recipe"
    words = ["--on", "ray", "--device", "cpu", "--data-root", str(tmp_path), "--out", "out", "--json"]
    # A process of its own: Ray leaves environment variables behind.
    done = subprocess.run(
        [sys.executable, "-m", "codistill", "train", recipe, *words],
        cwd=tmp_path,
        env={
            **os.environ,
            "RAY_USAGE_STATS_ENABLED": "0",
            # Processes that nothing here needs, seconds of a core each.
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
            "RAY_enable_worker_prestart": "0",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # All that Ray had to say of the dead worker went elsewhere.
    (row,) = json.loads(done.stdout)["rows"]
    assert row["arm"] == "codistillation"
    assert (tmp_path / "taken").exists()
    out = RunFolder(tmp_path / "out")
    for peer in "ab":
        paths = [run.peer_path("codistillation", 0, peer) for run in (uninterrupted, out)]
        assert bits_of(paths[1]) == bits_of(paths[0])
