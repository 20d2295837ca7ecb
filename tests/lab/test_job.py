from dataclasses import replace
from pathlib import Path

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
