"""Jobs of Ray, with a stand-in for it."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from codistill.errors import CodistillError, ExtraMissingError, JobError
from codistill.lab import folder
from codistill.lab.job import Job
from codistill.lab.launch import LaunchOptions, check
from codistill.lab.launchers import ray as launcher_of_ray
from codistill.lab.launchers.ray import RayLauncher
from codistill.lab.recipe import Recipe


class StandIn:
    """Ray as far as the launcher uses it; a task ends when a test says how."""

    class exceptions:
        RayError = RuntimeError

    def __init__(self, *, has_cluster: bool = False, gpus: int = 0) -> None:
        self.has_cluster, self.gpus = has_cluster, gpus
        self.begun: list[dict[str, object]] = []
        self.fits: dict[str, tuple[object, ...]] = {}
        self.outcomes: dict[str, Exception | None] = {}
        self.cancelled: list[str] = []
        self.is_connected = False

    def is_initialized(self) -> bool:
        return self.is_connected

    def init(self, **words: object) -> None:
        self.begun.append(words)
        if words["address"] != "local" and not self.has_cluster:
            raise ConnectionError("no cluster")
        self.is_connected = True

    def shutdown(self) -> None:
        self.is_connected = False

    def cluster_resources(self) -> dict[str, float]:
        return {"GPU": self.gpus} if self.gpus else {}

    def remote(self, *, num_cpus: int) -> Callable[[object], object]:
        def begin(path: str, *words: object) -> str:
            peer = Path(path).name[0]
            self.fits[peer] = words
            return peer

        return lambda function: SimpleNamespace(remote=begin)

    def wait(self, left: list[str], *, num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        return [one for one in left if one in self.outcomes], [
            one for one in left if one not in self.outcomes
        ]

    def get(self, one: str) -> None:
        outcome = self.outcomes[one]
        if outcome is not None:
            raise outcome

    def cancel(self, one: str, *, force: bool) -> None:
        self.cancelled.append(one)


@pytest.fixture
def jobs(held: Recipe, tmp_path: Path) -> list[Job]:
    out = folder.create(tmp_path / "out", arms=[held], seeds=[0], command=[])
    return [
        Job(
            peer=peer,
            recipes=(held,),
            out=out.path,
            logs=tmp_path,
            data_root=tmp_path,
            device="cuda",
            read_test=False,
        )
        for peer in "ab"
    ]


def run(
    ray: StandIn,
    jobs: list[Job],
    monkeypatch: pytest.MonkeyPatch,
    *,
    on_poll: Callable[[], None] = lambda: None,
    launcher: RayLauncher | None = None,
) -> None:
    monkeypatch.setattr(launcher_of_ray, "require", lambda module, extra: ray)
    (launcher or RayLauncher()).run(jobs, ranks=2, on_poll=on_poll, cores=1)


def test_a_cluster_that_is_there_is_joined_and_else_one_is_made_that_all_ranks_fit_into(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    for has_cluster, gpus, addresses, per_rank in (
        (True, 4, ["auto"], 1),
        (True, 3, ["auto"], 0),
        (False, 0, ["auto", "local"], 0),
    ):
        ray = StandIn(has_cluster=has_cluster, gpus=gpus)
        ray.outcomes = {"a": None, "b": None}
        run(ray, jobs, monkeypatch)
        assert [words["address"] for words in ray.begun] == addresses
        assert ray.begun[-1].get("num_cpus", 4) == 4
        assert ray.cancelled == []
        assert not ray.is_connected
        where, scaling, failures = ray.fits["a"]
        assert (where, failures) == (str(Path.cwd()), 3)
        assert scaling == {
            "num_workers": 2,
            "use_gpu": per_rank > 0,
            "resources_per_worker": {"CPU": 1, "GPU": per_rank},
        }


def test_a_cluster_that_was_named_must_be_there(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectionError):
        run(StandIn(), jobs, monkeypatch, launcher=RayLauncher(address="head:6379"))


def test_a_peer_that_ray_gives_up_ends_the_others_with_its_traceback(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = StandIn()
    jobs[1].traceback_path(0).write_text("Traceback\nValueError: of the rank\n")
    ray.outcomes = {"b": RuntimeError("gave up")}
    with pytest.raises(JobError, match=r"peer 'b' failed in Ray \(RuntimeError\)\.(?s:.*)of the rank$"):
        run(ray, jobs, monkeypatch)
    assert ray.cancelled == ["a"], "Ray aborts this process if it is told to end what ends by itself"
    assert not ray.is_connected


def test_what_a_user_can_mend_is_said_at_once_and_not_tried_again(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = StandIn()
    said = "peer must be a name that no other live job has, got 'a'."

    def leave_error() -> None:
        jobs[0].error_path(1).write_text(said)

    with pytest.raises(CodistillError, match="The job of peer 'a' failed: peer must be a name"):
        run(ray, jobs, monkeypatch, on_poll=leave_error)
    assert ray.cancelled == ["a", "b"]


def test_an_interrupt_ends_all_jobs(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    ray = StandIn()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(ray, jobs, monkeypatch, on_poll=interrupt)
    assert ray.cancelled == ["a", "b"]
    assert not ray.is_connected


def test_without_ray_the_line_that_installs_it_is_said(held: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    options = LaunchOptions(launcher=RayLauncher(), device="cuda")
    check([replace(held, checkpoint_every=5)], options=options)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "ray" else find_spec(name, *more)
    )
    with pytest.raises(ExtraMissingError, match=r"pip install 'codistill\[ray\]'"):
        check([held], options=options)
