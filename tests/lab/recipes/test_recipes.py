from pathlib import Path

import pytest

from codistill.errors import RecipeError
from codistill.lab import methods, recipes
from codistill.lab.recipe import Recipe
from codistill.lab.recipes.entry import Entry

ENTRIES = recipes.entries()
OF_PAPERS = [entry for entry in ENTRIES if entry.paper]


def _id(entry: Entry) -> str:
    return entry.recipe.name


def test_an_unknown_recipe_names_those_that_are_like_it() -> None:
    with pytest.raises(
        RecipeError, match=r"such as sodhani2020-s3-lab, .*, or FILE.py:NAME, got 'sodhani2020-s3'"
    ):
        recipes.recipe("sodhani2020-s3")
    with pytest.raises(RecipeError, match="such as digits, cifar10, or"):
        recipes.recipe("???")


def test_the_names_are_those_of_the_recipes_in_order_of_the_papers() -> None:
    assert recipes.names() == tuple(sorted(entry.recipe.name for entry in ENTRIES))
    papers = list(dict.fromkeys(entry.paper for entry in ENTRIES))
    assert [paper.partition(" et al.")[0] for paper in papers] == ["", "Anil", "Sodhani", "Zhang", "Murai"]
    assert {"digits", "cifar10", "sodhani2020-s3-paper", "zhang2018-d1-lab"} <= set(recipes.names())


@pytest.mark.parametrize("entry", ENTRIES, ids=_id)
def test_every_recipe_says_what_it_shows_and_its_method_plans_it(entry: Entry) -> None:
    recipe = entry.recipe
    assert recipe.summary
    assert entry.reproduces.endswith(".")
    assert entry.scale == ("paper" if recipe.name.endswith("-paper") else "lab")
    assert recipes.recipe(recipe.name) is recipe
    for one in (recipe, *entry.points()):
        methods.method(one.method).plan(one)
    assert len({one.arm for one in entry.points()}) == len(entry.points())


@pytest.mark.parametrize("entry", OF_PAPERS, ids=_id)
def test_every_recipe_of_a_paper_says_where_it_stands_and_how_it_deviates(entry: Entry) -> None:
    assert entry.place
    assert entry.deviations or entry.scale == "paper"
    assert entry.ours
    lines = entry.lines()
    assert entry.paper in lines[0]
    assert all(row in lines[0] for row in entry.rows)
    for texts in (entry.deviations, entry.unverified, entry.ours):
        assert all(any(text in line for line in lines) for text in texts)


def test_every_experiment_that_can_be_trained_is_there_at_both_scales() -> None:
    rows = {
        scale: {row for entry in ENTRIES if entry.scale == scale for row in entry.rows}
        for scale in ("lab", "paper")
    }
    expected = {f"A{number}" for number in range(1, 10)} | {"A2b", "A7b", "SC20"}
    expected |= {f"S{number}" for number in range(1, 20)} | {f"D{number}" for number in range(1, 7)}
    assert rows == {"lab": expected, "paper": expected}


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.sweep], ids=_id)
def test_a_sweep_changes_what_it_says_and_nothing_else(entry: Entry) -> None:
    counts = [len(sweep.values) for sweep in entry.sweep]
    points = entry.points()
    assert len(points) == counts[0] * (counts[1] if counts[1:] else 1)
    swept = {name for sweep in entry.sweep for name in (sweep.field, *sweep.along)}
    for point in points:
        different = {
            name
            for name in Recipe.__dataclass_fields__
            if getattr(point, name) != getattr(entry.recipe, name)
        }
        assert different <= {"arm", *swept}


def test_a_recipe_in_a_file_of_one_s_own_is_found(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from codistill.lab.recipe import Recipe\nrecipe = Recipe(name='mine', task='digits')\nother = 3\n"
    )
    assert recipes.recipe(f"{path}:recipe").name == "mine"
    with pytest.raises(RecipeError, match=r"recipe must be a codistill.lab.recipe.Recipe, got a int in"):
        recipes.recipe(f"{path}:other")
    with pytest.raises(RecipeError, match="recipe must be a name in"):
        recipes.recipe(f"{path}:none")
    with pytest.raises(RecipeError, match="recipe must be in a file that exists"):
        recipes.recipe(f"{tmp_path / 'none.py'}:recipe")
