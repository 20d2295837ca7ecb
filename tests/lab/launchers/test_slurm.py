"""Jobs of Slurm, through commands that stand in for Slurm's."""

import importlib.util
import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from codistill.errors import ExtraMissingError, JobError, RecipeError, RunExistsError
from codistill.lab import folder, results
from codistill.lab.folder import RunFolder
from codistill.lab.launch import LaunchOptions, check, check_unused, launch, scripts
from codistill.lab.launchers.slurm import SlurmLauncher, _how
from codistill.lab.recipe import Recipe
from codistill.lab.results import PeerResult

submitit = pytest.importorskip("submitit", reason="submitit is not installed")

_NUMBERS = itertools.count(1000, 1000)


def slurm(*words: str) -> LaunchOptions:
    return LaunchOptions(launcher=SlurmLauncher.from_settings(["time=30", *words]), device="cuda")


class Cluster:
    """Commands that stand in for Slurm's; what happens to jobs is what a test says."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        path.mkdir()
        (path / "next").write_text(str(first))
        (path / "calls").touch()
        self._command("srun", "exit 1")
        self._command(
            "sbatch",
            f'id=$(cat {path}/next); echo $((id + 1)) > {path}/next; echo "RUNNING" > {path}/$id.state',
            f'cp "$1" {path}/$id.sh; echo "Submitted batch job $id"',
        )
        self._command("scancel", f'echo "CANCELLED" > {path}/$1.state')
        self._command(
            "sacct",
            "echo 'JobID|State|NodeList'",
            f'cd {path}; for one in *.state; do echo "${{one%.state}}|$(cat $one)|n1"; done',
        )

    def _command(self, name: str, *lines: str) -> None:
        note = f'[ {name} = sacct ] || echo "{name} $1" >> {self.path}/calls'
        (self.path / name).write_text("\n".join(("#!/bin/sh", note, *lines, "")))
        (self.path / name).chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return [line.split()[0] for line in (self.path / "calls").read_text().splitlines()]

    def end(self, out: RunFolder, peer: str, outcome: tuple[str, object]) -> None:
        """Let the job of a peer end, and leave what submitit's side of it would."""
        logs = out.logs_path("codistillation")
        job_id = json.loads((logs / f"{peer}.slurm.json").read_text())["job_id"]
        (self.path / f"{job_id}.state").write_text("COMPLETED")
        submitit.core.utils.cloudpickle_dump(outcome, logs / "slurm" / f"{job_id}_0_result.pkl")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    # submitit remembers for the whole process how jobs have ended, by their numbers.
    made = Cluster(tmp_path / "bin", first=next(_NUMBERS))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return made


def finish(out: RunFolder, peer: str, seed: int = 0) -> None:
    path = out.peer_path("codistillation", seed, peer)
    path.mkdir(parents=True)
    numbers = dict.fromkeys(("validation_accuracy", "validation_nll", "distance", "seconds", "stall_s"), 0.5)
    counts = dict.fromkeys(("bytes_published", "bytes_fetched", "bytes_all_reduced", "teacher_samples"), 0)
    result = PeerResult(
        arm="codistillation",
        peer=peer,
        seed=seed,
        updates=40,
        samples=320,
        parameters=15,
        test_accuracy=None,
        test_nll=None,
        teacher_share=1.0,
        **numbers,
        **counts,
    )
    results.save_result(path / results.RESULT, result)


def interrupt(*progress: object) -> None:
    raise KeyboardInterrupt


def test_jobs_live_on_without_the_launcher_and_a_later_call_finds_them(
    held: Recipe, tmp_path: Path, cluster: Cluster
) -> None:
    out = folder.create(tmp_path / "out", arms=[held], seeds=[0], command=[])
    with pytest.raises(KeyboardInterrupt):
        launch(out, [held], options=slurm("partition=gpu"), on_progress=interrupt)
    assert cluster.calls == ["sbatch", "sbatch"]
    # What was submitted is what a dry run shows.
    shown = scripts(out.path, held, options=slurm("partition=gpu"))
    first = min(cluster.path.glob("*.sh"))
    assert first.read_text() == shown["a"]
    with pytest.raises(RunExistsError, match=r"the job of peer 'a' still runs or waits to\. End it first"):
        check_unused(out.path, [held], options=slurm())
    # A run that another seed would begin is none of those jobs' affairs.
    with pytest.raises(RunExistsError, match=r"still runs or waits, trains others\. .* scancel \d+"):
        launch(out, [replace(held, seed=1)], options=slurm())

    def end(*progress: object) -> None:
        for peer in "ab":
            if not (out.peer_path("codistillation", 0, peer)).exists():
                finish(out, peer)
                cluster.end(out, peer, ("success", None))

    found = launch(out, [held], options=slurm(), on_progress=end)
    assert [one.peer for one in found] == ["a", "b"]
    assert cluster.calls == ["sbatch", "sbatch"]


def test_a_peer_that_fails_ends_the_others_and_a_later_call_submits_both_again(
    held: Recipe, tmp_path: Path, cluster: Cluster
) -> None:
    out = folder.create(tmp_path / "out", arms=[held], seeds=[0], command=[])

    def fail(*progress: object) -> None:
        logs = out.logs_path("codistillation")
        (logs / "b-0.traceback").write_text("Traceback\nValueError: of the rank\n")
        cluster.end(out, "b", ("error", "Traceback of submitit"))

    with pytest.raises(
        JobError, match=r"peer 'b' failed as job \d+ of Slurm .*\n(?s:.*)of the rank$"
    ) as caught:
        launch(out, [held], options=slurm(), on_progress=fail)
    assert caught.value.peer == "b"
    assert cluster.calls == ["sbatch", "sbatch", "scancel"]
    with pytest.raises(KeyboardInterrupt):
        launch(out, [held], options=slurm(), on_progress=interrupt)
    assert cluster.calls == ["sbatch", "sbatch", "scancel", "sbatch", "sbatch"]


def test_what_slurm_refuses_is_said_and_no_half_run_stays_in_the_queue(
    held: Recipe, tmp_path: Path, cluster: Cluster
) -> None:
    text = (cluster.path / "sbatch").read_text()
    refusal = 'grep -q held-b "$1" && { echo "invalid partition" >&2; exit 1; }'
    (cluster.path / "sbatch").write_text(text.replace("\nid=", f"\n{refusal}\nid="))
    out = folder.create(tmp_path / "out", arms=[held], seeds=[0], command=[])
    with pytest.raises(JobError, match=r"peer 'b' could not be submitted: .*invalid partition"):
        launch(out, [held], options=slurm())
    assert cluster.calls == ["sbatch", "sbatch", "scancel"]


def test_scripts_ask_for_what_was_said_without_a_cluster_and_write_nothing(
    held: Recipe, tmp_path: Path
) -> None:
    recipe = replace(held, ranks_per_peer=2)
    words = ("account=lab", "mem=64G", "gpus-per-node=4", "qos=low")
    options = slurm(*words)
    shown = scripts(tmp_path / "out", recipe, options=options)
    assert list(shown) == ["a", "b"]
    lines = shown["b"].splitlines()
    for word in (*words, "time=30", "nodes=1", "cpus-per-task=2", "job-name=held-b", "signal=USR2@90"):
        assert f"#SBATCH --{word}" in lines
    assert "#SBATCH --requeue" in lines
    assert "wckey" not in shown["b"]
    (command,) = [line for line in lines if line.startswith("srun ")]
    assert "--cpus-per-task=2" in command
    assert "submitit.core._submit" in command
    assert list(tmp_path.iterdir()) == []


def test_only_slurm_has_scripts(held: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="dry_run must be left out on local"):
        scripts(tmp_path, held, options=LaunchOptions())


def test_what_cannot_be_submitted_is_noticed_before_anything_is_made(
    held: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        RecipeError, match=r"checkpoint_every must be given on slurm, .* Pass --checkpoint-every"
    ):
        check([replace(held, checkpoint_every=None)], options=slurm())
    # The device is the job's, not this machine's.
    check([held], options=slurm())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecipeError, match="got 'slurm', whose srun is not on the PATH"):
        slurm().launcher.check_system()
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "submitit" else find_spec(name, *more),
    )
    with pytest.raises(ExtraMissingError, match=r"pip install 'codistill\[slurm\]'"):
        check([held], options=slurm())


def test_an_error_without_words_hides_no_failure() -> None:
    assert _how("7", AssertionError()) == "as job 7 of Slurm"
    assert _how("7", ValueError("No time.\nTrace")) == "as job 7 of Slurm (No time.)"
