from dataclasses import replace
from pathlib import Path

import pytest

from codistill.lab import demo, folder
from codistill.lab.recipe import Recipe


@pytest.mark.spawn
def test_arms_are_trained_with_every_seed_and_keep_the_store_of_the_first(
    tiny: Recipe, tmp_path: Path
) -> None:
    arms = [
        replace(tiny, arm="x"),
        replace(tiny, arm="y", method="alone", peers=1),
        replace(tiny, arm="z", lockstep=False),
    ]
    out = folder.create(tmp_path / "out", arms=arms, seeds=[1, 2], command=[])
    told = []
    demo.train_demo(out, on_progress=lambda *progress: told.append(progress))
    assert [(one.arm, one.seed, one.peer) for one in out.results()] == [
        ("x", 1, "a"),
        ("x", 1, "b"),
        ("x", 2, "a"),
        ("x", 2, "b"),
        ("y", 1, "a"),
        ("y", 2, "a"),
        ("z", 1, "a"),
        ("z", 1, "b"),
        ("z", 2, "a"),
        ("z", 2, "b"),
    ]
    assert {("x", 80, 80), ("y", 80, 80), ("z", 80, 80)} <= set(told)
    # Peers that run free wait for each other at the start.
    assert {one.teacher_share for one in out.results() if one.arm != "y"} == {1.0}
    kept = sorted(path.parent.relative_to(out.path).as_posix() for path in out.path.glob("*/*/exchange"))
    assert kept == ["x/seed-1", "z/seed-1"]
    # Arms of one shape are trained by the same jobs.
    assert out.logs_path("x").is_dir()
    assert not out.logs_path("z").exists()
