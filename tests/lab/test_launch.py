import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codistill.errors import DataMissingError, ExtraMissingError, RecipeError, StoreError
from codistill.exchange.checkpoint import load_snapshot
from codistill.lab import folder, results
from codistill.lab.folder import RunFolder
from codistill.lab.job import load_job
from codistill.lab.kept_scores import KeptScores
from codistill.lab.launch import LaunchOptions, check, launch
from codistill.lab.launchers import local
from codistill.lab.recipe import Recipe
from codistill.lab.results import PeerResult
from codistill.testing import run_peers

pytestmark = pytest.mark.spawn


def make(path: Path, *arms: Recipe, seeds: tuple[int, ...] = (3,)) -> RunFolder:
    return folder.create(path, arms=arms, seeds=seeds, command=["codistill"])


@pytest.fixture(scope="module")
def finished(
    tiny: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunFolder, list[tuple[str, int, int]]]:
    """A run of two peers with two seeds and checkpoints, and what was told of its progress."""
    recipe = replace(tiny, checkpoint_every=16)
    out = make(tmp_path_factory.mktemp("finished") / "out", recipe, seeds=(3, 4))
    told: list[tuple[str, int, int]] = []
    launch(
        out,
        [replace(recipe, seed=seed) for seed in out.seeds],
        options=LaunchOptions(keep_exchange="first"),
        on_progress=lambda *progress: told.append(progress),
    )
    return out, told


def test_two_peers_are_two_processes_that_learn_from_each_other(
    finished: tuple[RunFolder, list[tuple[str, int, int]]],
) -> None:
    out, told = finished
    launched = out.results()
    assert [(one.seed, one.peer) for one in launched] == [(3, "a"), (3, "b"), (4, "a"), (4, "b")]
    for one in launched:
        assert one.samples == 40 * 8
        assert one.teacher_share == 1.0
        assert one.teacher_samples == 40 * 8
        # A snapshot at the start and one every 5 of the 40 updates.
        assert one.bytes_published > 9 * one.parameters * 4
        assert one.bytes_fetched > 9 * one.parameters * 4
    paths = [out.peer_path("codistillation", 3, peer) for peer in "ab"]
    a, b = (KeptScores.load(path).whole for path in paths)
    assert a.shape == b.shape == (899, 10)
    assert not np.array_equal(a, b)
    rows = results.load_evaluations(paths[0] / "metrics.jsonl")
    assert all(row.distillation_loss is not None and row.distillation_loss > 0 for row in rows)
    assert told[-1] == ("codistillation", 80, 80)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_the_store_of_the_first_seed_is_kept_and_holds_the_last_weights(
    finished: tuple[RunFolder, object],
) -> None:
    out, _ = finished
    assert not out.exchange_path("codistillation", 4).exists()
    state, info = load_snapshot(out.exchange_path("codistillation", 3), "b")
    assert info.step == 40
    assert sum(tensor.numel() for tensor in state.values()) == 26122


def test_a_run_that_was_cut_off_goes_on_bit_for_bit_and_one_without_a_checkpoint_starts_again(
    finished: tuple[RunFolder, object], tmp_path: Path, bits_of: Callable[[Path], list[object]]
) -> None:
    copy = RunFolder(shutil.copytree(finished[0].path, tmp_path / "copy"))
    whole = copy.results()
    cut_off = [copy.peer_path("codistillation", 3, peer) for peer in "ab"]
    before = [bits_of(path) for path in cut_off]
    # As if both had been killed in the last update: the newest checkpoint is of update 32.
    for path in cut_off:
        (path / "result.json").unlink()
        (path / "test_scores.npy").unlink()
    lost = copy.peer_path("codistillation", 4, "b")
    (lost / "result.json").unlink()
    (lost / "checkpoint.pt").unlink()
    again = launch(copy, [replace(copy.arms[0], seed=seed) for seed in (3, 4)])
    assert [bits_of(path) for path in cut_off] == before
    for one, other in zip(whole, again, strict=True):
        assert other.validation_nll == one.validation_nll
        assert other.distance == one.distance
        assert other.teacher_samples == one.teacher_samples
    assert again[2].seconds != whole[2].seconds


def test_arms_of_one_shape_share_a_launch_and_finished_runs_are_not_trained_again(
    tiny: Recipe, tmp_path: Path
) -> None:
    arms = [replace(tiny, method="alone", arm=name, peers=1, batch_size=8) for name in ("x", "y")]
    out = make(tmp_path / "out", *arms)
    options = LaunchOptions(device="cpu", read_test=False)
    first = launch(out, arms, options=options)
    assert first[0].validation_nll == first[1].validation_nll
    assert not (out.peer_path("x", 3, "a") / "test_scores.npy").exists()
    written = (out.peer_path("x", 3, "a") / "result.json").stat().st_mtime_ns
    shutil.rmtree(out.peer_path("y", 3, "a"))
    second = launch(out, arms, options=options)
    assert (out.peer_path("x", 3, "a") / "result.json").stat().st_mtime_ns == written
    timeless = [
        [replace(one, seconds=0, peak_memory_bytes=None) for one in results] for results in (first, second)
    ]
    assert timeless[0] == timeless[1]
    # What the job was told lies beside its log.
    told = load_job(out.logs_path("y") / "a.job.json")
    assert (told.device, told.read_test, [one.label for one in told.recipes]) == ("cpu", False, ["y"])
    assert told.log_path.exists()


def test_missing_data_are_reported_before_anything_starts(tiny: Recipe, tmp_path: Path) -> None:
    recipe = replace(tiny, task="cifar10")
    out = make(tmp_path / "out", recipe)
    with pytest.raises(DataMissingError, match="The data set 'cifar10' is not there"):
        launch(out, [recipe], options=LaunchOptions(data_root=tmp_path))
    assert not out.logs_path("codistillation").exists()


def test_what_cannot_be_trained_is_noticed_before_a_folder_is_made(tiny: Recipe, tmp_path: Path) -> None:
    check([tiny], options=LaunchOptions(data_root=tmp_path))
    with pytest.raises(RecipeError, match="batch_size must be a multiple of the 3 processes"):
        check([tiny, replace(tiny, peers=3)])
    with pytest.raises(DataMissingError):
        check([replace(tiny, task="cifar10")], options=LaunchOptions(data_root=tmp_path))
    with pytest.raises(ValueError, match=r"device must be .*, got 'foo'"):
        check([tiny], options=LaunchOptions(device="foo"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["scipy", "matplotlib", "jinja2", "sklearn"])
def test_packages_that_are_missing_are_noticed_before_anything_starts(
    tiny: Recipe, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExtraMissingError, match=rf"{package} must be installed .* 'codistill\[lab\]'"):
        check([tiny])


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"peer": "c", "store": "there"}, "peer must be one of a, b, got 'c'"),
        ({}, {"peer": "a"}, "store must be given with peer 'a', got none"),
        ({}, {"store": "there"}, "peer must be given with a store, got none. Choose one of a, b"),
        ({}, {"peer": "a", "store": "memory://x"}, "store must be seen by the jobs of all peers"),
        ({}, {"peer": "a", "store": "sftp://user:pw@host/x"}, "store must hold no password in its URL"),
        ({"method": "alone"}, {"peer": "a", "store": "there"}, "store must be left out under method 'alone'"),
        ({"method": "all_reduce"}, {"peer": "b"}, "peer must be one of a, got 'b'"),
        (
            {"method": "mutual", "regime": "same_batches"},
            {"peer": "a"},
            "peer must be left out under method 'mutual'",
        ),
        ({"method": "two_phase"}, {"peer": "a"}, "peer must be left out under method 'two_phase'"),
    ],
)
def test_a_peer_and_a_store_that_do_not_go_together_are_noticed_before_anything_starts(
    tiny: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    options: dict[str, str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        check([replace(tiny, **changes)], options=LaunchOptions(**options))  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "user:pw" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_used_is_noticed_before_anything_starts(tiny: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        check([tiny], options=LaunchOptions(peer="a", store=str(tmp_path / "file")))
    with pytest.raises(ValueError, match="store must be a path, a Store, or a URL of"):
        check([tiny], options=LaunchOptions(peer="a", store="ftp://host/path"))
    with pytest.raises(RecipeError, match="store must be of one run, got 2 runs for it"):
        check([tiny, replace(tiny, seed=4)], options=LaunchOptions(peer="a", store=str(tmp_path / "store")))


def test_peers_of_two_ranks_train_as_those_of_one_and_go_on_one_at_a_time_bit_for_bit(
    tiny: Recipe,
    finished: tuple[RunFolder, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bits_of: Callable[[Path], list[object]],
) -> None:
    # As many threads for each rank in a launch of one peer as in one of both.
    monkeypatch.setattr(local.provenance, "cores", lambda: 2)
    recipe = replace(tiny, checkpoint_every=16, ranks_per_peer=2)
    of_one, out = finished[0], make(tmp_path / "out", recipe)
    # In lockstep, two ranks with half a batch each are one rank with the whole of it, up to rounding.
    pairs = zip(launch(out, [recipe]), of_one.results()[:2], strict=True)
    for two, one in pairs:
        assert (two.peer, two.seed) == (one.peer, one.seed)
        assert two.samples == one.samples == two.teacher_samples == 40 * 8
        assert two.teacher_share == 1.0
        assert two.validation_nll == pytest.approx(one.validation_nll, abs=1e-4)
        assert two.distance == pytest.approx(one.distance, abs=1e-4)
        # Of two ranks each sends as much as it has: 26,122 numbers of 4 bytes a step.
        assert (one.bytes_all_reduced, two.bytes_all_reduced) == (0, 40 * 26122 * 4)
        # A snapshot is read once for both.
        assert 9 * 26122 * 4 < two.bytes_fetched < 2 * 9 * 26122 * 4
        of_two_rows, of_one_rows = (
            results.load_evaluations(run.peer_path("codistillation", 3, two.peer) / "metrics.jsonl")
            for run in (out, of_one)
        )
        # Means over both ranks, so those of the whole batch.
        for row, expected in zip(of_two_rows, of_one_rows, strict=True):
            assert row.train_loss == pytest.approx(expected.train_loss, abs=1e-4)
            assert row.distillation_loss == pytest.approx(expected.distillation_loss, abs=1e-4)
    paths = [out.peer_path("codistillation", 3, peer) for peer in "ab"]
    written = [bits_of(path) for path in paths]
    # As if both had been killed in the last update, and were started again one by one.
    for path in paths:
        (path / "result.json").unlink()
        (path / "test_scores.npy").unlink()

    store = str(out.exchange_path("codistillation", 3))

    def resume(peer: str) -> list[PeerResult]:
        return launch(out, [recipe], options=LaunchOptions(peer=peer, store=store))

    assert {peer: [one.peer for one in left] for peer, left in run_peers(resume, "ab").items()} == {
        "a": ["a"],
        "b": ["b"],
    }
    assert [bits_of(path) for path in paths] == written


def test_recipes_of_different_shapes_are_refused(tiny: Recipe, tmp_path: Path) -> None:
    arms = [replace(tiny, arm="two"), replace(tiny, arm="four", peers=4)]
    with pytest.raises(
        ValueError, match="recipes must have the same peers, ranks and arrangement, got 2 different"
    ):
        launch(make(tmp_path / "out", *arms), arms)
