from dataclasses import replace
from pathlib import Path

from codistill.lab import folder
from codistill.lab.job import Job, load_job, save_job
from codistill.lab.recipe import Recipe


def test_a_job_is_read_as_it_was_written(tmp_path: Path, tiny: Recipe) -> None:
    job = Job(
        peer="b",
        recipes=(tiny, replace(tiny, seed=4)),
        out=tmp_path,
        logs=tmp_path,
        data_root=Path("/data"),
        device="cpu",
        read_test=False,
        store="s3://bucket/run",
    )
    save_job(job)
    assert load_job(job.path) == job


def test_a_run_is_finished_when_all_peers_of_the_job_have_left_a_result(tmp_path: Path, tiny: Recipe) -> None:
    out = folder.create(tmp_path, arms=[tiny], seeds=[3, 4], command=[])
    recipes = (tiny, replace(tiny, seed=4))
    job = Job(
        peer="a",
        others=("b",),
        recipes=recipes,
        out=tmp_path,
        logs=tmp_path,
        data_root=tmp_path,
        device="cpu",
        read_test=False,
    )
    for peer in "ab":
        assert job.unfinished() == recipes
        path = out.peer_path("codistillation", 3, peer)
        path.mkdir(parents=True)
        (path / "result.json").touch()
    assert job.unfinished() == recipes[1:]
