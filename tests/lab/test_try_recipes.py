from dataclasses import replace
from pathlib import Path

import pytest

from codistill.errors import JobError
from codistill.lab import methods, recipes, try_recipes
from codistill.lab.launch import LaunchOptions
from codistill.lab.recipe import Recipe
from codistill.lab.try_recipes import Tried, shortened

OPTIONS = LaunchOptions(device="cpu", read_test=False)


@pytest.mark.parametrize(
    "recipe", [entry.recipe for entry in recipes.entries() if entry.scale == "lab"], ids=lambda one: one.name
)
def test_a_shortened_recipe_is_of_the_same_shape(recipe: Recipe) -> None:
    method = methods.method(recipe.method)
    short = shortened(recipe)
    assert (short.updates, short.label) == (4, recipe.name)
    assert method.plan(short) == method.plan(recipe)
    assert short.task == recipe.task


def test_what_has_no_data_is_named_and_left_out(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(try_recipes, "train", lambda *_, **__: pytest.fail("trained"))
    options = replace(OPTIONS, data_root=tmp_path)
    (tried,) = try_recipes.try_recipes(
        [replace(tiny, task="imagenet")], out=tmp_path / "out", options=options
    )
    assert tried.said.startswith("skipped: The data set 'imagenet' is not there")
    assert not tried.has_failed
    assert tried.line().startswith("tiny ")


def test_what_fails_is_told_from_what_shared_its_processes(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = []

    def fail(*_: object, **__: object) -> None:
        raise JobError("The job of peer 'a' failed.\nBecause.")

    def launch(folder: object, arms: list[Recipe], *, options: LaunchOptions) -> None:
        launched.append(arms[0].label)
        fail()

    monkeypatch.setattr(try_recipes, "train", fail)
    monkeypatch.setattr(try_recipes, "launch", launch)
    asked = [
        replace(tiny, name="phases", method="two_phase"),
        replace(tiny, name="again", method="two_phase"),
        tiny,
    ]
    tried = try_recipes.try_recipes(asked, out=tmp_path / "out", options=OPTIONS)
    assert launched == ["phases-teachers", "phases", "tiny"]
    assert [(one.name, one.said, one.has_failed) for one in tried] == [
        (name, "failed: Because.", True) for name in ("phases", "again", "tiny")
    ]


@pytest.mark.parametrize(("has_failed", "code"), [(False, 0), (True, 1)])
def test_the_exit_code_says_whether_any_failed(
    has_failed: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked_names = []

    def pretend(asked: list[Recipe], *, out: Path, options: LaunchOptions) -> list[Tried]:
        asked_names.extend(one.name for one in asked)
        return [
            Tried(name="digits", seconds=1.25, said="losses finite"),
            Tried(name="x", said="y", has_failed=has_failed),
        ]

    monkeypatch.setattr(try_recipes, "try_recipes", pretend)
    assert try_recipes.main(["--data-root", "there"]) == code
    assert capsys.readouterr().out.splitlines()[0].split() == ["digits", "1.2", "s", "losses", "finite"]
    assert asked_names == [entry.recipe.name for entry in recipes.entries() if entry.scale == "lab"]


@pytest.mark.spawn
def test_recipes_are_trained_for_a_few_updates(tiny: Recipe, tmp_path: Path) -> None:
    asked = [
        tiny,
        replace(tiny, name="twin", updates=50),
        replace(tiny, name="diverging", learning_rate=1e30),
        replace(tiny, name="missing", task="imagenet"),
    ]
    options = replace(OPTIONS, data_root=tmp_path)
    tried = try_recipes.try_recipes(asked, out=tmp_path / "out", options=options)
    said = {one.name: one.said for one in tried}
    assert (said["tiny"], said["twin"]) == ("losses finite", "losses finite, as tiny")
    assert said["diverging"].startswith("failed: a loss is not finite")
    assert said["missing"].startswith("skipped")
    assert [one.has_failed for one in tried] == [False, False, True, False]
