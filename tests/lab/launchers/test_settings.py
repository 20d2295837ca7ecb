import subprocess
import sys

import pytest

from codistill.errors import RecipeError
from codistill.lab import launchers
from codistill.lab.launchers.ray import RayLauncher
from codistill.lab.launchers.slurm_settings import SlurmSettings, minutes


@pytest.mark.parametrize(
    ("on", "words", "said"),
    [
        (
            "slurm",
            ["time=30", "color=red"],
            "got 'color=red'. Choose among account, constraint, cpus-per-task",
        ),
        (
            "slurm",
            ["time=30", "partition"],
            "job must be made of KEY=VALUE, got 'partition'. Say partition=...",
        ),
        ("slurm", ["time=30", "mem="], "got 'mem='. Say mem=..."),
        ("slurm", ["time=30", "time=40"], "job must name time once, got '30' and '40'"),
        ("slurm", ["partition=gpu"], "job must name a time on slurm, got none. Pass --job time=24:00:00"),
        ("slurm", ["time=30", "nodes=2"], "nodes must be 1, got 2: all ranks of a peer are on one node."),
        ("slurm", ["time=soon"], "time must be a limit as Slurm writes it, above 0, got 'soon'"),
        ("slurm", ["time=0"], "time must be a limit as Slurm writes it, above 0, got '0'"),
        ("slurm", ["time=30", "cpus-per-task=0"], "cpus-per-task must be a whole number >= 1, got '0'"),
        ("slurm", ["time=30", "gpus-per-node=two"], "gpus-per-node must be a whole number >= 0, got 'two'"),
        (
            "ray",
            ["gpus=1"],
            "got 'gpus=1'. Choose among address, cpus-per-rank, gpus-per-rank, max-failures.",
        ),
        ("ray", ["gpus-per-rank=2"], "gpus-per-rank must be 0 or 1, got 2"),
        ("ray", ["max-failures=-2"], "max-failures must be a whole number >= -1, got '-2'"),
        ("local", ["time=30"], "job must be left out on local, which has no settings, got 'time=30'"),
        ("pbs", [], "on must be one of local, ray, slurm, got 'pbs'"),
    ],
)
def test_settings_that_cannot_be_are_refused_and_those_there_are_listed(
    on: str, words: list[str], said: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        launchers.launcher(on, words)
    assert said in str(caught.value)


def test_settings_are_read() -> None:
    read = SlurmSettings.read(["time=1-00:00:00", "gpus-per-node=2", "cpus-per-task=8", "qos=low"])
    assert (read.time_minutes, read.cpus_per_task) == (1440, 8)
    assert read.others == {"gpus_per_node": 2, "qos": "low"}
    asked = ["address=ray://head:10001", "gpus-per-rank=1", "cpus-per-rank=4", "max-failures=-1"]
    assert RayLauncher.from_settings(asked) == RayLauncher(
        address="ray://head:10001", gpus_per_rank=1, cpus_per_rank=4, max_failures=-1
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5", 5), ("5:01", 6), ("1:00:00", 60), ("2-12", 3600), ("2-12:30", 3630), ("0-00:00:01", 1)],
)
def test_a_time_limit_is_read_as_slurm_reads_it(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "-5", "1:2:3:4", "1-2:3:4:5", "5m", "1-", "00:00"])
def test_what_slurm_would_not_read_as_a_time_limit_is_refused(text: str) -> None:
    with pytest.raises(RecipeError):
        minutes(text)


def test_neither_submitit_nor_ray_is_imported_before_it_is_asked_for() -> None:
    program = (
        "import sys\n"
        "from codistill.lab import launch, launchers\n"
        "launchers.launcher('slurm', ['time=30']), launchers.launcher('ray'), launchers.launcher('local')\n"
        "assert not {'submitit', 'ray', 'cloudpickle'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
