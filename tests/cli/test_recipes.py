import dataclasses
import json

from codistill.cli import main
from codistill.lab import recipes
from codistill.lab.recipe import Recipe, from_document


def test_recipes_lists_every_recipe_by_paper(capsys):
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    words = " ".join(out.split())
    for entry in recipes.entries():
        place = f"{entry.place}: " if entry.place else ""
        assert f"{entry.recipe.name} {' '.join([*entry.rows, entry.scale])} " in words
        assert entry.recipe.summary.split()[0] in out
        assert place.split(":")[0].split(" ")[0] in out
    papers = [
        out.index(paper) for paper in dict.fromkeys(entry.paper for entry in recipes.entries()) if paper
    ]
    assert papers == sorted(papers)
    assert out.index("sodhani2020-s3-lab") > out.index("Sodhani et al. 2020 (arXiv:2010.02838)")


def test_recipes_as_json_say_where_they_come_from(capsys):
    assert main(["recipes", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == [entry.recipe.name for entry in recipes.entries()]
    s7 = document["sodhani2020-s7-lab"]
    assert (s7["rows"], s7["scale"], s7["summary"]) == (["S7"], "lab", "batch doubled, updates halved")
    assert s7["sweep"][0]["field"] == "batch_size"
    assert s7["deviations"]


def test_show_prints_every_field(capsys):
    assert main(["recipes", "show", "digits"]) == 0
    out = capsys.readouterr().out
    for field in dataclasses.fields(Recipe):
        assert f" {field.name} " in out
    assert "0.5 0.75" in out


def test_show_says_what_it_reproduces_and_how_it_deviates(capsys):
    assert main(["recipes", "show", "sodhani2020-s12-lab"]) == 0
    out = capsys.readouterr().out
    for line in recipes.entry("sodhani2020-s12-lab").lines():
        assert f"{line}\n" in out
    assert "Sweep: interval_steps 400, 200, 100, 50.\n" in out


def test_show_takes_a_recipe_of_one_s_own(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text("from codistill.lab.recipe import Recipe\nmine = Recipe(name='mine', task='digits')\n")
    assert main(["recipes", "show", f"{path}:mine"]) == 0
    assert " mine " in capsys.readouterr().out


def test_show_as_json_is_the_recipe(capsys):
    assert main(["recipes", "show", "digits", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert from_document(document, where="stdout") == recipes.recipe("digits")


def test_an_unknown_recipe_names_those_that_are_like_it(capsys):
    assert main(["recipes", "show", "imagenet"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(
        f"codistill: recipe must be one of the {len(recipes.names())} that codistill recipes"
    )
    assert "sc20-imagenet-lab" in err


def test_an_unknown_option_is_wrong_usage(capsys):
    assert main(["recipes", "--jsn"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "--jsn" in err
