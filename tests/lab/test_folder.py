import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from codistill.errors import RecipeError, RunExistsError
from codistill.lab import folder, provenance
from codistill.lab.folder import IfExists, RunFolder
from codistill.lab.recipe import Recipe


def create(
    path: Path, *arms: Recipe, seeds: tuple[int, ...] = (0,), if_exists: IfExists = "refuse"
) -> RunFolder:
    return folder.create(path, arms=arms, seeds=seeds, command=["codistill", "x"], if_exists=if_exists)


def test_a_new_folder_records_what_will_be_trained(tmp_path: Path, tiny: Recipe) -> None:
    made = create(tmp_path / "deep" / "out", tiny, replace(tiny, method="alone"), seeds=(4, 5))
    again = RunFolder(made.path)
    assert again.arms == (
        replace(tiny, arm="codistillation", seed=4),
        replace(tiny, arm="alone", method="alone", seed=4),
    )
    assert again.seeds == (4, 5)
    assert again.document["command"] == ["codistill", "x"]
    assert again.document["versions"]["codistill"]
    assert again.document["machine"]["cores"] >= 1
    assert again.results() == []


def test_an_empty_folder_is_as_good_as_a_new_one(tmp_path: Path, tiny: Recipe) -> None:
    assert create(tmp_path, tiny).path == tmp_path


def test_an_earlier_run_is_refused_unless_told_what_to_do(tmp_path: Path, tiny: Recipe) -> None:
    create(tmp_path, tiny)
    with pytest.raises(RunExistsError, match=r"holds an earlier run. Pass --resume .* or --overwrite"):
        create(tmp_path, tiny)


@pytest.mark.parametrize("if_exists", ["refuse", "overwrite", "resume"])
def test_a_folder_of_something_else_is_left_as_it_is(
    tmp_path: Path, tiny: Recipe, if_exists: IfExists
) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunExistsError, match=r"must be a results folder of codistill, got .*, which has no"):
        create(tmp_path, tiny, if_exists=if_exists)
    (tmp_path / "run.json").write_text('{"kind": "marathon"}')
    with pytest.raises(RunExistsError, match=r"Pass --resume|whose run\.json is something else"):
        create(tmp_path, tiny, if_exists=if_exists)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_overwriting_deletes_what_an_earlier_run_left(tmp_path: Path, tiny: Recipe) -> None:
    made = create(tmp_path, tiny)
    made.peer_path("codistillation", 0, "a").mkdir(parents=True)
    outside = tmp_path.parent / "outside"
    outside.mkdir()
    (tmp_path / "link").symlink_to(outside)
    create(tmp_path, replace(tiny, updates=5), if_exists="overwrite")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]
    assert outside.is_dir()


def test_resuming_keeps_what_is_there_and_may_add_arms_and_seeds(tmp_path: Path, tiny: Recipe) -> None:
    made = create(tmp_path, tiny, seeds=(1, 2))
    made.peer_path("codistillation", 1, "a").mkdir(parents=True)
    resumed = create(tmp_path, replace(tiny, method="alone"), tiny, seeds=(2, 3), if_exists="resume")
    assert resumed.seeds == (1, 2, 3)
    assert [arm.label for arm in resumed.arms] == ["codistillation", "alone"]
    assert resumed.peer_path("codistillation", 1, "a").is_dir()


def test_resuming_keeps_the_first_command_and_lists_those_after_it(
    tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = create(tmp_path, tiny).document
    assert first["resumed_with"] == []
    monkeypatch.setattr(provenance, "versions", lambda: {"torch": "99"})
    for command in (["second"], ["third"]):
        folder.create(tmp_path, arms=[tiny], seeds=[0], command=command, if_exists="resume")
    document = RunFolder(tmp_path).document
    assert document["command"] == ["codistill", "x"]
    assert document["versions"] == first["versions"]
    assert document["resumed_with"] == [
        {"command": ["second"], "versions": {"torch": "99"}},
        {"command": ["third"], "versions": {"torch": "99"}},
    ]


def test_a_folder_from_before_resuming_was_recorded_can_be_read(tmp_path: Path, tiny: Recipe) -> None:
    document = dict(create(tmp_path, tiny).document)
    del document["resumed_with"]
    (tmp_path / "run.json").write_text(json.dumps(document))
    assert RunFolder(tmp_path).document["resumed_with"] == []
    (tmp_path / "run.json").write_text(json.dumps(document | {"resumed_with": [3]}))
    with pytest.raises(RunExistsError, match="must list a command in each resumed_with, got 3"):
        RunFolder(tmp_path)


def test_resuming_with_another_recipe_names_the_field(tmp_path: Path, tiny: Recipe) -> None:
    create(tmp_path, tiny)
    with pytest.raises(RunExistsError, match="updates must be as in the run that is resumed, 40, got 41"):
        create(tmp_path, replace(tiny, updates=41), if_exists="resume")


def test_another_arm_joins_those_of_the_run_that_is_resumed(tmp_path: Path, tiny: Recipe) -> None:
    create(tmp_path, tiny)
    resumed = create(tmp_path, replace(tiny, arm="other"), if_exists="resume")
    assert [arm.label for arm in resumed.arms] == ["codistillation", "other"]


def test_a_folder_of_a_newer_format_is_refused(tmp_path: Path, tiny: Recipe) -> None:
    create(tmp_path, tiny)
    document = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(document | {"format": 2}))
    with pytest.raises(RunExistsError, match="must have format 1, got 2"):
        RunFolder(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(document | {"seeds": 3}))
    with pytest.raises(RunExistsError, match="must list seeds, got 3"):
        RunFolder(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(document | {"arms": [{"name": "x"}]}))
    with pytest.raises(RecipeError, match=r"run\.json must hold 'task'"):
        RunFolder(tmp_path)


@pytest.mark.parametrize(("arms", "seeds"), [(0, (0,)), (2, (0,)), (1, ()), (1, (1, 1)), (1, (-1,))])
def test_arms_and_seeds_must_be_different_and_some(
    tmp_path: Path, tiny: Recipe, arms: int, seeds: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="must be one or more"):
        create(tmp_path / "out", *[tiny] * arms, seeds=seeds)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_an_error_at_once(tmp_path: Path, tiny: Recipe) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="out must be a folder that can be made and written"):
        create(tmp_path / "out", tiny)


def test_a_file_in_the_way_is_an_error_at_once(tmp_path: Path, tiny: Recipe) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OSError, match=r"can be made and written, got .* \(File exists\)"):
        create(tmp_path / "out", tiny)
