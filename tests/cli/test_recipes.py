import dataclasses
import json

from codistill.cli import main
from codistill.lab import recipes
from codistill.lab.recipe import Recipe, from_document


def test_recipes_lists_every_recipe_with_its_summary(capsys):
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    for name in recipes.names():
        assert f" {name} " in out
        assert recipes.recipe(name).summary in out


def test_recipes_as_json(capsys):
    assert main(["recipes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        name: recipes.recipe(name).summary for name in recipes.names()
    }


def test_show_prints_every_field(capsys):
    assert main(["recipes", "show", "digits"]) == 0
    out = capsys.readouterr().out
    for field in dataclasses.fields(Recipe):
        assert f" {field.name} " in out
    assert "0.5 0.75" in out


def test_show_as_json_is_the_recipe(capsys):
    assert main(["recipes", "show", "digits", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert from_document(document, where="stdout") == recipes.recipe("digits")


def test_an_unknown_recipe_lists_those_there_are(capsys):
    assert main(["recipes", "show", "imagenet"]) == 2
    assert capsys.readouterr().err == "codistill: recipe must be one of cifar10, digits, got 'imagenet'.\n"


def test_an_unknown_option_is_wrong_usage(capsys):
    assert main(["recipes", "--jsn"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "--jsn" in err
